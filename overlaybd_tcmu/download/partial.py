# SPDX-License-Identifier: Apache-2.0
"""
A download on its way to being a layer, in the layer's own folder:

    <dir>/.download          the blob's bytes as far as they are here; flock: who downloads
    <dir>/.download.sums     record.py: which those are. So a download goes on where it was ended,
                             and a crash or a power failure costs what does not match, and no more
    <dir>/overlaybd.commit   the whole blob, verified, durable: .download with its name changed

The last step is fsync, rename, fsync of the folder: a name that is there means a blob that is
whole, whatever happened in between.
"""

import contextlib
import errno
import fcntl
import os
from types import TracebackType
from typing import Optional, Type

from .. import errors, trace
from ..cache import entry, record, store
from ..ffi import cachefile

NAME, SUMS, COMMIT = ".download", ".download.sums", "overlaybd.commit"


class Busy(Exception):
    """Somebody else downloads into this folder."""


class Partial:
    """Opened by whoever downloads, for as long as it takes. OSError; Busy."""

    def __init__(self, folder: str, digest: str, size: int, kept: store.Store) -> None:
        self.folder = folder
        self._path = os.path.join(folder, NAME)
        self._sums = os.path.join(folder, SUMS)
        self._lock_fd = _locked(self._path)
        try:
            file = cachefile.CacheFile(kept.misses, self._path, size, 0)
            try:
                known = _record(self._sums, digest, size)
            except BaseException:
                file.close()
                raise
        except BaseException:
            os.close(self._lock_fd)
            raise
        self.one = entry.Entry(digest, 0, file, known, kept.unit)

    def lend(self, view: memoryview, offset: int) -> bool:
        """Fills the view if all of it is here: for readers that cannot wait for the rest."""
        return self.one.file.copy_into(view, offset) == len(view)

    def commit(self) -> str:
        """The whole blob under its final name; its path. close() is still to be called."""
        path = os.path.join(self.folder, COMMIT)
        os.fchmod(self._lock_fd, 0o644)
        os.fsync(self._lock_fd)
        trace.point("download.synced")
        os.rename(self._path, path)
        trace.point("download.renamed")
        sync_folder(self.folder)
        with contextlib.suppress(OSError):
            os.unlink(self._sums)
        trace.point("download.committed")
        return path

    def close(self) -> None:
        self.one.close()
        os.close(self._lock_fd)

    def __enter__(self) -> "Partial":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace_: Optional[TracebackType],
    ) -> None:
        self.close()


def sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _locked(path: str) -> int:
    """The lock is on the file itself, which may have got its final name while we waited for it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(fd), os.lstat(path)):
            raise BlockingIOError(errno.EWOULDBLOCK, "was renamed meanwhile")
    except (BlockingIOError, FileNotFoundError):
        os.close(fd)
        raise Busy(path) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _record(path: str, digest: str, size: int) -> record.Record:
    """Of a download that was ended, or a new one."""
    try:
        known = record.Record.open(path)
        if (known.digest, known.size) == (digest, size):
            return known
        known.close()
    except (OSError, errors.FormatError):
        pass
    return record.Record.create(path, digest, size)
