# SPDX-License-Identifier: Apache-2.0
"""
The folder a cache lives in: what is where, and who may write.

    <cacheDir>/
      lock                      flock of whoever keeps the cache; the rest is theirs alone
      blobs/sha256-<hex>        a blob's bytes as far as they are here, at their own offsets; sparse
      blobs/sha256-<hex>.sums   record.py: which granules those are
      pinned                    digests that are never evicted, a line each
      order                     policy.py's queues, as they were at the last stop
      private/<name>/           the same again, of somebody who came while the lock was held
      sha256:<hex>              of the original: counted, and the first to go

A second program (a tool, a daemon started by hand) never touches what the first one keeps: it gets
a folder of its own below `private`, and removes it at its end. Those of the dead are removed by
whoever gets the lock next.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import tempfile
from typing import FrozenSet, Iterator, List, Optional, Tuple

log = logging.getLogger("cache.folder")

_DIGEST = re.compile(r"[a-z0-9]{1,32}:[0-9a-f]{32,128}")
_FILE = re.compile(r"([a-z0-9]{1,32})-([0-9a-f]{32,128})")
_SUMS = ".sums"


def is_digest(text: str) -> bool:
    """Something that may become a file's name."""
    return _DIGEST.fullmatch(text) is not None


class Locked(Exception):
    """Somebody else keeps this cache."""


class Folder:
    """Names below one cache folder, and the lock, held from construction to close()."""

    def __init__(self, path: str) -> None:
        """OSError when it cannot be made or written; Locked when it is somebody else's."""
        self.path = path
        self.is_private = False
        self._lock_fd = -1
        os.makedirs(self.blobs, mode=0o755, exist_ok=True)
        self._lock_fd = _lock(os.path.join(path, "lock"))
        self._remove_dead()

    @classmethod
    def private(cls, path: str) -> "Folder":
        """One of our own below a cache that somebody else keeps; removed by close()."""
        parent = os.path.join(path, "private")
        os.makedirs(parent, mode=0o755, exist_ok=True)
        folder = cls(tempfile.mkdtemp(dir=parent))
        folder.is_private = True
        return folder

    @property
    def blobs(self) -> str:
        return os.path.join(self.path, "blobs")

    def data_path(self, digest: str) -> str:
        return os.path.join(self.blobs, digest.replace(":", "-"))

    def record_path(self, digest: str) -> str:
        return self.data_path(digest) + _SUMS

    def close(self) -> None:
        if self._lock_fd < 0:
            return
        if self.is_private:
            shutil.rmtree(self.path, ignore_errors=True)
        fd, self._lock_fd = self._lock_fd, -1
        os.close(fd)

    def renew(self) -> None:
        """
        Somebody removed the folder under us: makes it again, and locks it again, for a lock on a
        file that is gone keeps nobody out. OSError, or Locked when another was faster.
        """
        os.makedirs(self.blobs, mode=0o755, exist_ok=True)
        path = os.path.join(self.path, "lock")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(self._lock_fd)):
                return
        fd, self._lock_fd = self._lock_fd, _lock(path)
        os.close(fd)

    def digests(self) -> List[str]:
        """Of all records there are."""
        with contextlib.suppress(OSError):
            return digests_in(self.blobs)
        return []

    def remove(self, digest: str) -> None:
        """A blob's files. The record first: without it the data means nothing."""
        for path in (self.record_path(digest), self.data_path(digest)):
            unlink(path)

    def remove_strays(self) -> None:
        """Data without a record, and what an interrupted creation left."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.blobs):
                alone = _FILE.fullmatch(name) and not os.path.exists(
                    os.path.join(self.blobs, name + _SUMS)
                )
                if alone or name.endswith(_SUMS + ".tmp"):
                    os.unlink(os.path.join(self.blobs, name))

    def originals(self) -> Iterator[Tuple[str, int]]:
        """(path, bytes it takes) of what the original's cache left here."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.path):
                if is_digest(entry.name) and entry.is_file(follow_symlinks=False):
                    yield entry.path, entry.stat(follow_symlinks=False).st_blocks * 512

    # -- small files

    def pinned(self) -> FrozenSet[str]:
        return frozenset(self._lines("pinned"))

    def write_pinned(self, digests: FrozenSet[str]) -> None:
        self._write_lines("pinned", sorted(digests))

    def order(self) -> List[str]:
        return self._lines("order")

    def write_order(self, lines: List[str]) -> None:
        self._write_lines("order", lines)

    def _lines(self, name: str) -> List[str]:
        try:
            with open(os.path.join(self.path, name), encoding="ascii", errors="replace") as file:
                return file.read().splitlines()
        except OSError:
            return []

    def _write_lines(self, name: str, lines: List[str]) -> None:
        """All or nothing; OSError."""
        path = os.path.join(self.path, name)
        with open(path + ".tmp", "w", encoding="ascii") as file:
            file.writelines(line + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".tmp", path)

    def _remove_dead(self) -> None:
        """Private folders whose owner was killed: nobody holds their lock."""
        parent = os.path.join(self.path, "private")
        with contextlib.suppress(OSError):
            for name in os.listdir(parent):
                path = os.path.join(parent, name)
                try:
                    os.close(_lock(os.path.join(path, "lock"), create=False))
                except (Locked, FileNotFoundError):
                    continue  # in use, or about to be
                log.info("removing what a killed program left path=%s", path)
                shutil.rmtree(path, ignore_errors=True)


def digests_in(blobs: str) -> List[str]:
    """The digests that have a record in a `blobs` folder; OSError."""
    found = []
    for name in os.listdir(blobs):
        match = _FILE.fullmatch(name[: -len(_SUMS)]) if name.endswith(_SUMS) else None
        if match:
            found.append(":".join(match.groups()))
    return sorted(found)


def unlink(path: str) -> None:
    """What cannot be removed stays, and is counted at the next start."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def open_folder(path: str) -> Optional[Folder]:
    """The cache's folder, or one of our own, or None: then memory alone has to do."""
    try:
        try:
            return Folder(path)
        except Locked:
            log.info("cache is in use by another program; ours is private path=%s", path)
            return Folder.private(path)
    except OSError as error:
        log.error("cache folder cannot be used path=%s error=%s", path, error.strerror)
        return None


def _lock(path: str, create: bool = True) -> int:
    fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0) | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Locked(path) from None
    except BaseException:
        os.close(fd)
        raise
    return fd
