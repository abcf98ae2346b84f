# SPDX-License-Identifier: Apache-2.0
"""
What of a blob is on disk, remembered beside its data in a file of checksums.

    0        "OBDCACHE"  u32 length  u32 CRC-32 of the text  text (JSON), to 4096
    4096     u32 for granule 0, 1, 2 ...: its checksum as the core computes it, 0 when it is absent

A granule counts as present after a restart only if its bytes in the data file have the checksum
that stands here. So nothing has to reach the disk in any order, and nothing is ever synced: after a
kill both files are what was written; after a power failure whatever got lost, of the data or of the
checksums, does not match and is fetched again. An old checksum is never wrong, for the content of a
blob at an offset never changes. A damaged head drops the whole record.

The text names the blob, its size, and the repositories that were seen to give it to us.
"""

import array
import contextlib
import errno
import json
import os
import struct
import sys
import zlib
from typing import Any, Dict, FrozenSet, List, Sequence

from .. import errors, units
from ..ffi import cachefile

GRANULE = cachefile.GRANULE
HEAD = 4096
_MAGIC = b"OBDCACHE"
_PREFIX = struct.Struct("<8sII")
_SUM = 4  # bytes
_MAX_SIZE = 1 << 62
_ZEROS = bytes(64 * units.KiB)


class Record:
    """One record, open for reading and writing. Any thread may use it; ranges must not overlap."""

    def __init__(self, path: str, fd: int, head: Dict[str, Any]) -> None:
        self.path = path
        self.digest: str = head["digest"]
        self.size: int = head["size"]
        self.sources: FrozenSet[str] = frozenset(head["sources"])
        self._fd = fd

    @classmethod
    def create(cls, path: str, digest: str, size: int) -> "Record":
        """A new one, of nothing; it appears complete or not at all. OSError."""
        temporary = f"{path}.tmp"
        head = {"digest": digest, "size": size, "sources": []}
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, _packed(head), 0)
            os.rename(temporary, path)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        return cls(path, fd, head)

    @classmethod
    def open(cls, path: str, writable: bool = True) -> "Record":
        """FormatError when it is damaged, OSError when it cannot be read."""
        mode = os.O_RDWR if writable else os.O_RDONLY
        fd = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return cls(path, fd, _unpacked(path, os.pread(fd, HEAD, 0)))
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def is_removed(self) -> bool:
        """The file has no name any more."""
        return os.fstat(self._fd).st_nlink == 0

    def add_source(self, source: str) -> None:
        """Remembers that a repository gave us the blob. What does not fit is asked again."""
        head = {
            "digest": self.digest,
            "size": self.size,
            "sources": sorted(self.sources | {source}),
        }
        try:
            packed = _packed(head)
        except ValueError:
            return
        os.pwrite(self._fd, packed, 0)
        self.sources = self.sources | {source}

    def sums(self, offset: int, count: int) -> List[int]:
        """The checksum of each granule of a range that begins with one; 0 for an absent one."""
        wanted = -(-count // GRANULE)
        raw = os.pread(self._fd, wanted * _SUM, HEAD + offset // GRANULE * _SUM)
        sums = array.array("I", raw[: len(raw) // _SUM * _SUM])
        if sys.byteorder == "big":
            sums.byteswap()
        return sums.tolist() + [0] * (wanted - len(sums))

    def write(self, offset: int, sums: Sequence[int]) -> None:
        """Says that the granules from offset on are in the data file."""
        packed = array.array("I", sums)
        if sys.byteorder == "big":
            packed.byteswap()
        os.pwrite(self._fd, packed.tobytes(), HEAD + offset // GRANULE * _SUM)

    def clear(self, offset: int, count: int) -> None:
        """Says that they are not; before their room is given back."""
        at = HEAD + offset // GRANULE * _SUM
        end = min(at + -(-count // GRANULE) * _SUM, os.fstat(self._fd).st_size)
        while at < end:
            at += os.pwrite(self._fd, _ZEROS[: end - at], at)


def _packed(head: Dict[str, Any]) -> bytes:
    text = json.dumps(head).encode()
    if len(text) > HEAD - _PREFIX.size:
        raise ValueError("the head is full")
    return (_PREFIX.pack(_MAGIC, len(text), zlib.crc32(text)) + text).ljust(HEAD, b"\0")


def _unpacked(path: str, raw: bytes) -> Dict[str, Any]:
    if len(raw) != HEAD:
        raise errors.FormatError(errno.EIO, f"{path}: a cache record of {len(raw)} bytes", 0)
    magic, length, crc = _PREFIX.unpack_from(raw)
    text = raw[_PREFIX.size : _PREFIX.size + length]
    if magic != _MAGIC or length > HEAD - _PREFIX.size or zlib.crc32(text) != crc:
        raise errors.FormatError(errno.EBADMSG, f"{path}: not a cache record, or a damaged one", 0)
    try:
        head = json.loads(text)
        good = isinstance(head["digest"], str) and 0 <= head["size"] + 0 <= _MAX_SIZE
        good = good and all(isinstance(one, str) for one in head["sources"])
    except (ValueError, LookupError, TypeError, RecursionError):
        good = False
    if not good:
        raise errors.FormatError(errno.EINVAL, f"{path}: the cache record makes no sense", 0)
    return dict(head)
