# SPDX-License-Identifier: Apache-2.0
"""
tcmu-runner's library, for the life-cycle of devices only: netlink, open and map, close. The ring is
the native core's.

Written for libtcmu 1.5 and 1.6 on a 64-bit machine. There are no headers to check against, so the
structs are restated here; a test compiles them and compares. 1.4 has the same file name and other
structs: it is told by a function it lacks, and refused.

Every callback is kept alive by its owner, catches everything and returns an errno: an exception
that escapes into C would count as success.
"""

import contextlib
import ctypes
import errno
import functools
import logging
import os
import threading
from ctypes import POINTER, c_bool, c_char_p, c_int, c_long, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Callable, Iterator, List, NamedTuple, Optional

from .. import errors
from . import load

log = logging.getLogger("ffi.libtcmu")

VARIABLE = "OVERLAYBD_LIBTCMU"
NAME = "libtcmu.so.2"

# What libtcmu prints (to stderr) at each of our log levels 0..4.
LOG_LEVELS = (4, 3, 2, 1, 0)


class CfgInfo(ctypes.Structure):
    """struct tcmulib_cfg_info: what a reconfig is about; data is the number, but for DEV_CFGSTR."""

    DEV_CFGSTR, DEV_SIZE, WRITE_CACHE = range(3)
    _fields_ = [("type", c_int), ("data", c_uint64)]


_CHECK_CONFIG = ctypes.CFUNCTYPE(c_bool, c_char_p, POINTER(c_void_p))
_RECONFIG = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(CfgInfo))
_UPDATE_LOGDIR = ctypes.CFUNCTYPE(c_bool)
_ADDED = ctypes.CFUNCTYPE(c_int, c_void_p)
_REMOVED = ctypes.CFUNCTYPE(None, c_void_p)


class HandlerStruct(ctypes.Structure):
    """struct tcmulib_handler; libtcmu copies it, but neither the strings nor the callbacks."""

    _fields_ = [
        ("name", c_char_p),
        ("subtype", c_char_p),
        ("cfg_desc", c_char_p),
        ("ctx", c_void_p),
        ("check_config", _CHECK_CONFIG),
        ("reconfig", _RECONFIG),
        ("update_logdir", _UPDATE_LOGDIR),
        ("added", _ADDED),
        ("removed", _REMOVED),
        ("hm_private", c_void_p),
        ("connection", c_void_p),
    ]


class Mailbox(ctypes.Structure):
    """The head of struct tcmu_mailbox (linux/target_core_user.h)."""

    _fields_ = [
        ("version", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("cmdr_off", c_uint32),
        ("cmdr_size", c_uint32),
    ]


class _Library:
    """The loaded library and libc's allocator, which it shares with its callers."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._dll = load.open_library(path)
        if not hasattr(self._dll, "tcmu_dev_oooc_supported"):
            raise errors.LibraryError(path, "is older than 1.5, which has other structs")
        fn = self._bind
        self.initialize = fn("tcmulib_initialize", c_void_p, [POINTER(HandlerStruct), c_size_t])
        self.close = fn("tcmulib_close", None, [c_void_p])
        self.get_master_fd = fn("tcmulib_get_master_fd", c_int, [c_void_p])
        self.master_fd_ready = fn("tcmulib_master_fd_ready", c_int, [c_void_p])
        self.get_fd = fn("tcmu_dev_get_fd", c_int, [c_void_p])
        self.get_cfgstring = fn("tcmu_dev_get_cfgstring", c_char_p, [c_void_p])
        self.get_uio_name = fn("tcmu_dev_get_uio_name", c_char_p, [c_void_p])
        self.get_memory_info = fn(
            "tcmu_dev_get_memory_info",
            c_void_p,
            [c_void_p, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_long)],
        )
        self.get_attr_int = fn("tcmu_cfgfs_dev_get_attr_int", c_int, [c_void_p, c_char_p])
        self.set_block_size = fn("tcmu_dev_set_block_size", None, [c_void_p, c_uint32])
        self.set_num_lbas = fn("tcmu_dev_set_num_lbas", None, [c_void_p, c_uint64])
        self.set_log_level = fn("tcmu_set_log_level", None, [c_int])

        libc = ctypes.CDLL(None)
        self.free = libc.free
        self.free.restype, self.free.argtypes = None, [c_void_p]
        self.strdup = libc.strdup
        self.strdup.restype, self.strdup.argtypes = c_void_p, [c_char_p]

    def _bind(self, name: str, result: Any, arguments: List[Any]) -> Callable[..., Any]:
        try:
            function = getattr(self._dll, name)
        except AttributeError:
            raise errors.LibraryError(self.path, f"has no {name}") from None
        function.restype, function.argtypes = result, arguments
        bound: Callable[..., Any] = function
        return bound


@functools.lru_cache(maxsize=None)
def library() -> _Library:
    """libtcmu, or what $OVERLAYBD_LIBTCMU demands in its place."""
    return _Library(os.environ.get(VARIABLE) or NAME)


class Mapping(NamedTuple):
    """A device's shared memory: mailbox and ring, then the data area."""

    address: int
    size: int  # bytes
    data_size: int  # bytes of the data area


class Device:
    """A device of libtcmu's, from its added() until its removed() has returned."""

    def __init__(self, address: int) -> None:
        self.address = address

    def fd(self) -> int:
        """The uio descriptor, non-blocking; stays libtcmu's."""
        return int(library().get_fd(self.address))

    def cfgstring(self) -> str:
        return os.fsdecode(library().get_cfgstring(self.address))

    def uio_name(self) -> str:
        """uio0, for instance."""
        return os.fsdecode(library().get_uio_name(self.address))

    def attribute(self, name: str) -> int:
        """A number below attrib/ in configfs; OSError when it cannot be read."""
        value = int(library().get_attr_int(self.address, name.encode()))
        if value < 0:
            raise OSError(-value, os.strerror(-value), f"attrib/{name}")
        return value

    def mapping(self) -> Mapping:
        base, size = c_void_p(), c_size_t()
        name = library().get_memory_info(self.address, ctypes.byref(base), ctypes.byref(size), None)
        library().free(name)
        if not base.value:
            raise OSError(errno.ENXIO, "device is not mapped")
        mailbox = Mailbox.from_address(base.value)
        ring_end = mailbox.cmdr_off + mailbox.cmdr_size
        return Mapping(base.value, size.value, max(0, size.value - ring_end))

    def set_geometry(self, block_size: int, blocks: int) -> None:
        """libtcmu keeps these and uses them for its own messages only."""
        library().set_block_size(self.address, block_size)
        library().set_num_lbas(self.address, blocks)


class Turn:
    """
    Who is inside libtcmu: one thread at a time, because it locks nothing. It keeps nothing of its
    own across a callback of added() or removed() but the device in question, which is then not in
    its table, nor of reconfig(), whose device cannot go while its attribute is written; nor does
    libnl, which called it. So a callback may step aside: others go in meanwhile, and it returns
    into libtcmu when it has the turn again.

    The lock `_lock` is handed from thread to thread: who gives it need not be who took it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self, timeout_s: float = -1) -> bool:
        """Waits for it, without a limit by default; False when it was not to be had in time."""
        return self._lock.acquire(timeout=timeout_s)

    def give(self) -> None:
        self._lock.release()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """For a callback that has to wait: lets others in meanwhile."""
        self.give()
        try:
            yield
        finally:
            self.take()


class Callbacks:
    """
    What a handler does; runs on the thread that called Context(), Context.ready() or .close(),
    which has the turn.
    """

    def check_config(self, cfgstring: str) -> Optional[str]:
        """None, or why the configuration string is refused."""
        raise NotImplementedError

    def added(self, device: Device) -> int:
        """0 once the device can serve, or -errno (of which the kernel is told ENOENT)."""
        raise NotImplementedError

    def removed(self, device: Device) -> None:
        """Returns when nothing uses the device any more: its memory is unmapped right after."""
        raise NotImplementedError

    def reconfig(self, device: Device, kind: int, value: int) -> int:
        """0 or -errno; kind is one of CfgInfo's, value a number, bytes for DEV_SIZE."""
        raise NotImplementedError


class Context:
    """
    tcmulib_initialize() with one handler, until close(). Adopts live devices at once. Whoever makes
    it, or calls ready() or close(), has the turn.
    """

    def __init__(self, name: str, subtype: str, description: str, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        # libtcmu holds pointers to all of this: it must live as long as the context.
        self._struct = HandlerStruct(
            name=name.encode(),
            subtype=subtype.encode(),
            cfg_desc=description.encode(),
            check_config=_CHECK_CONFIG(self._check_config),
            reconfig=_RECONFIG(self._reconfig),
            added=_ADDED(self._added),
            removed=_REMOVED(self._removed),
        )
        self._address: Optional[int] = library().initialize(ctypes.byref(self._struct), 1)
        if not self._address:
            raise errors.TcmuError("tcmulib init failed", "libtcmu's messages are on stderr")

    def fd(self) -> int:
        """Readable when ready() has something to do."""
        return int(library().get_master_fd(self._address))

    def ready(self) -> int:
        """Handles what has arrived, callbacks included; 0 or a negative libnl error."""
        return int(library().master_fd_ready(self._address))

    def close(self) -> None:
        """Removes every device; waits, without a limit of its own, until their rings are empty."""
        if self._address:
            address, self._address = self._address, None
            library().close(address)

    def _check_config(self, cfgstring: bytes, reason: Any) -> bool:
        try:
            refusal = self._callbacks.check_config(os.fsdecode(cfgstring))
            if refusal is None:
                return True
            if reason:
                reason[0] = library().strdup(os.fsencode(refusal))  # libtcmu frees it
        except Exception:
            log.exception("check_config failed")
        return False

    def _added(self, address: int) -> int:
        try:
            return self._callbacks.added(Device(address))
        except Exception:
            log.exception("added failed")
            return -errno.EIO

    def _removed(self, address: int) -> None:
        try:
            self._callbacks.removed(Device(address))
        except Exception:
            log.exception("removed failed")

    def _reconfig(self, address: int, info: Any) -> int:
        try:
            cfg = info[0]
            return self._callbacks.reconfig(Device(address), int(cfg.type), int(cfg.data))
        except Exception:
            log.exception("reconfig failed")
            return -errno.EIO
