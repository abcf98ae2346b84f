# SPDX-License-Identifier: Apache-2.0
"""
ext4 in user space: native/ext4/obd_ext4.h restated, in its order, and what the tools call.

    with ext4.file_disk(path) as disk:
        ext4.mkfs(disk)
        ext4.apply(disk, tar_fd)

The library is loaded at the first call: only tools that touch a file system need it, and the daemon
never does.
"""

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import functools
import os
from ctypes import POINTER, c_char, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Dict, Iterator, List, Optional, Tuple, Type

from .. import errors
from . import core, load, native

ABI_VERSION = 1
NAME = "libobd_ext4.so"


# ---- the structs of obd_ext4.h


class Disk(ctypes.Structure):
    """A table of functions: what a file system lies on. size in bytes."""

    _fields_ = [
        ("handle", c_void_p),
        ("pread", c_void_p),
        ("pwrite", c_void_p),
        ("flush", c_void_p),
        ("discard", c_void_p),
        ("size", c_uint64),
    ]


class Progress(ctypes.Structure):
    """What happens while apply() runs; another thread may look at it, and set stop to 1."""

    _fields_ = [
        ("input", c_uint64),  # bytes of the input, as it is stored
        ("archive", c_uint64),  # bytes of the archive, uncompressed
        ("entries", c_uint64),
        ("warnings", c_uint64),
        ("warning", c_char * 504),
        ("sha256", c_char * 72),
        ("stop", c_uint32),
        ("reserved", c_uint32),
    ]


class ApplyOptions(ctypes.Structure):
    _fields_ = [("input", c_int32), ("digest", c_uint32), ("expected", c_char_p)]


STRUCTS: Dict[str, Type[ctypes.Structure]] = {
    "obd_error": core.Error,
    "obd_ext4_disk": Disk,
    "obd_ext4_progress": Progress,
    "obd_ext4_apply_options": ApplyOptions,
}


# ---- the functions of obd_ext4.h


def _check(result: int, _function: Any, arguments: Tuple[Any, ...]) -> int:
    """errcheck: the last argument is a struct obd_error."""
    if result < 0:
        text = arguments[-1]._obj.text.decode("utf-8", "replace")
        raise errors.NativeError(-result, text)
    return result


class Library:
    """The loaded library, checked like the core."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._dll = load.open_library(path)
        error = POINTER(core.Error)
        disk = POINTER(Disk)
        options = POINTER(ApplyOptions)
        progress = POINTER(Progress)
        fn = self._bind
        self.abi = fn("abi", c_uint32, [])
        self.sizeof = fn("sizeof", c_size_t, [c_char_p])
        self._check_abi()
        self.disk_of_fd = fn("disk_of_fd", c_int, [c_int, disk, error])
        self.mkfs = fn("mkfs", c_int, [disk, error])
        self.apply = fn("apply", c_int, [disk, options, progress, error])
        self.digest = fn("digest", c_int, [options, progress, error])

    def _bind(self, name: str, result: Any, arguments: List[Any]) -> Any:
        try:
            function = getattr(self._dll, "obd_ext4_" + name)
        except AttributeError:
            reason = f"has no obd_ext4_{name}, which {__file__} needs; rebuild it"
            raise errors.LibraryError(self.path, reason) from None
        function.restype = result
        function.argtypes = arguments
        if result is c_int:
            function.errcheck = _check
        return function

    def _check_abi(self) -> None:
        abi = self.abi()
        if abi != ABI_VERSION:
            reason = f"has ABI {abi}, but {__file__} was written for ABI {ABI_VERSION}"
            raise errors.LibraryError(self.path, reason)
        for name, struct in STRUCTS.items():
            theirs, ours = self.sizeof(name.encode()), ctypes.sizeof(struct)
            if theirs != ours:
                reason = f"has a struct {name} of {theirs} bytes, but {__file__} one of {ours}"
                raise errors.LibraryError(self.path, reason)


@functools.lru_cache(maxsize=None)
def library() -> Library:
    """The library, loaded and checked at the first use: --help works without it."""
    return Library(load.find_library(NAME))


# ---- disks


@contextlib.contextmanager
def file_disk(path: str) -> Iterator[Disk]:
    """A plain file or a block device, for us alone: OSError(EBUSY) when another one has it."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "another program writes it", path) from None
        # Metadata is read here and there: reading ahead of it would only fill memory.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        disk = Disk()
        try:
            library().disk_of_fd(fd, ctypes.byref(disk), ctypes.byref(core.Error()))
        except errors.NativeError as error:
            raise errors.NativeError(error.code, f"{path}: {error.text}") from error
        yield disk
    finally:
        os.close(fd)


def image_disk(image: native.Image) -> Disk:
    """The disk that an image shows, written through its writable layer; the image outlives it."""
    calls = core.library()
    return Disk(
        handle=image.address,
        pread=_address(calls.image_pread),
        pwrite=_address(calls.image_pwrite),
        flush=_address(calls.image_flush),
        discard=_address(calls.image_discard),
        size=image.info().virtual_size,
    )


def _address(function: Any) -> Optional[int]:
    return ctypes.cast(function, c_void_p).value


# ---- what the tools call


def mkfs(disk: Disk) -> None:
    """Discards the disk and makes an ext4 of it, always the same bytes; NativeError: why not."""
    library().mkfs(ctypes.byref(disk), ctypes.byref(core.Error()))


@dataclasses.dataclass(frozen=True)
class Applied:
    """What apply() did."""

    entries: int
    warnings: int
    warning: str  # the first one
    sha256: str  # of the uncompressed archive; "" unless it was asked for


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def apply(
    disk: Disk,
    input_fd: int,
    sha256: Optional[str] = None,
    progress: Optional[Progress] = None,
) -> Applied:
    """
    Applies an OCI layer, a tar stream however compressed, to the ext4 on disk. sha256: what the
    uncompressed stream must have; found out at its end. NativeError names entry and offset.
    """
    progress = progress or Progress()
    options = _options(input_fd, sha256)
    library().apply(
        ctypes.byref(disk),
        ctypes.byref(options),
        ctypes.byref(progress),
        ctypes.byref(core.Error()),
    )
    warning, digest = _text(progress.warning), _text(progress.sha256)
    return Applied(progress.entries, progress.warnings, warning, digest)


def digest(input_fd: int, sha256: Optional[str] = None, progress: Optional[Progress] = None) -> str:
    """SHA-256 of the uncompressed stream; NativeError(EBADMSG) when it is not the expected one."""
    progress = progress or Progress()
    options = _options(input_fd, sha256)
    library().digest(ctypes.byref(options), ctypes.byref(progress), ctypes.byref(core.Error()))
    return _text(progress.sha256)


def _options(input_fd: int, sha256: Optional[str]) -> ApplyOptions:
    expected = sha256.encode() if sha256 is not None else None
    return ApplyOptions(input=input_fd, digest=int(sha256 is not None), expected=expected)
