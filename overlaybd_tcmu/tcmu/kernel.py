# SPDX-License-Identifier: Apache-2.0
"""
The kernel's side of TCMU that is reached through files: module parameters, configfs, the instance
lock; and the options of the netlink socket.

$OVERLAYBD_SYSROOT is put before /sys and /run: tests run the daemon without a kernel with it.
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
from typing import Iterator

from .. import errors, units

log = logging.getLogger("tcmu.kernel")

SYSROOT_VARIABLE = "OVERLAYBD_SYSROOT"

MODULE = "/sys/module/target_core_user"
UIO = "/sys/class/uio"
CONFIGFS = "/sys/kernel/config/target/core"
LOCK = "/run/overlaybd-tcmu.lock"

# About 85 outstanding adds overflow libnl's 64 KiB, and whoever enabled a lost one waits for ever.
RECEIVE_BUFFER = 4 * units.MiB
_SO_RCVBUFFORCE = 33
_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS = 5


def path_of(path: str) -> str:
    """Where a file of the kernel's is, seen from here."""
    return os.environ.get(SYSROOT_VARIABLE, "") + path


def check_module() -> None:
    """Raises TcmuError when the kernel has no TCMU (yet)."""
    if not os.path.isdir(path_of(MODULE)):
        reason = "the kernel module target_core_user is not loaded"
        raise errors.TcmuError(reason, "run 'modprobe target_core_user' as root")


class InstanceLock:
    """
    One daemon a host: a second one would reset the rings of the first's live devices before it
    noticed. Held until the process ends, however it ends.
    """

    def __init__(self) -> None:
        path = path_of(LOCK)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            if error.errno != errno.EWOULDBLOCK:
                raise
            reason = "another overlaybd-tcmu serves this host"
            raise errors.AlreadyRunning(reason, f"process {holder or 'unknown'}, {path}") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def netlink_blocked() -> Iterator[None]:
    """
    While a daemon starts, enables fail with EAGAIN, which their callers repeat for about 5 s; the
    reset ends those that waited for the reply of a dead daemon, with EINTR.

    Left blocked, the host could attach nothing: unblocks whatever happens.
    """
    if not _set_parameter("block_netlink", 1):
        yield  # a kernel before 5.0: nothing to block
        return
    try:
        _set_parameter("reset_netlink", 1)
        yield
    finally:
        _set_parameter("block_netlink", 0)


def _set_parameter(name: str, value: int) -> bool:
    """False when the kernel does not have it."""
    path = path_of(f"{MODULE}/parameters/{name}")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise errors.TcmuError(f"{path}: {error.strerror}", "needs root") from error
    try:
        os.write(fd, str(value).encode())
    except OSError as error:  # EINTR included: nothing of it is worth not starting for
        log.warning("parameter not set path=%s value=%d error=%s", path, value, error.strerror)
    finally:
        os.close(fd)
    return True


def tune_netlink(fd: int) -> None:
    """Room for bursts of events, and no ENOBUFS instead of one; must precede the unblocking."""
    try:
        with socket.socket(fileno=os.dup(fd)) as netlink:
            netlink.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
            netlink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except OSError as error:
        log.warning("netlink buffer not enlarged error=%s", error.strerror)


def uio_devices() -> Iterator[str]:
    """The configuration strings of all TCMU devices there are."""
    try:
        entries = sorted(os.listdir(path_of(UIO)))
    except FileNotFoundError:
        return
    for entry in entries:
        parts = _uio_name(entry).split("/", 3)
        if len(parts) == 4 and parts[0] == "tcm-user":
            yield parts[3]


def serial_path(uio_name: str) -> str:
    """Where a device's unit serial is; "" when its name is not what the kernel makes."""
    parts = _uio_name(uio_name).split("/", 3)
    if len(parts) < 3 or parts[0] != "tcm-user":
        return ""
    return path_of(f"{CONFIGFS}/user_{parts[1]}/{parts[2]}/wwn/vpd_unit_serial")


def _uio_name(entry: str) -> str:
    """tcm-user/<hba>/<device>/<configuration string>, or "" for a device gone meanwhile."""
    try:
        with open(path_of(f"{UIO}/{entry}/name"), "rb") as file:
            return os.fsdecode(file.read().rstrip(b"\n"))
    except OSError:
        return ""
