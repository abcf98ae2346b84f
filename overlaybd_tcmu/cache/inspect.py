# SPDX-License-Identifier: Apache-2.0
"""
Looks at a cache's folder without being its keeper: nothing is locked, nothing changed.

What is evicted meanwhile is cleared in the record before its bytes go, so a checksum that does not
match counts only if it still stands in the record afterwards.
"""

import dataclasses
import hashlib
import os
from typing import Iterator, Optional, Tuple

from .. import errors, units
from ..ffi import cachefile
from . import folder, record

_CHUNK = 4 * units.MiB


@dataclasses.dataclass(frozen=True)
class Blob:
    """What a cache has of one blob."""

    digest: str
    size: int  # bytes
    present: int  # of these
    sources: Tuple[str, ...]  # repositories that gave it to us

    @property
    def is_whole(self) -> bool:
        return self.present == self.size


def blobs(path: str) -> Iterator[Blob]:
    """All of the cache in this folder; none when there is no such cache."""
    try:
        digests = folder.digests_in(os.path.join(path, "blobs"))
    except FileNotFoundError:
        return
    for digest in digests:
        one = blob(path, digest)
        if one is not None:
            yield one


def blob(path: str, digest: str) -> Optional[Blob]:
    """None: nothing is known of it."""
    try:
        kept = record.Record.open(_data(path, digest) + ".sums", writable=False)
    except (OSError, errors.FormatError):
        return None
    try:
        present = 0
        for offset, count in _chunks(kept.size):
            sums = kept.sums(offset, count)
            present += sum(1 for one in sums[:-1] if one) * record.GRANULE
            present += (count - (len(sums) - 1) * record.GRANULE) if sums[-1] else 0
        return Blob(kept.digest, kept.size, present, tuple(sorted(kept.sources)))
    finally:
        kept.close()


def damaged(path: str, digest: str) -> int:
    """
    Granules whose bytes are not what the record says of them; and all of them if the blob is whole
    and does not have its digest. OSError, FormatError: it cannot be told.
    """
    os.stat(_data(path, digest))  # opening it below would make it
    kept = record.Record.open(_data(path, digest) + ".sums", writable=False)
    try:
        with cachefile.Misses(record.GRANULE) as misses:
            with cachefile.CacheFile(misses, _data(path, digest), kept.size, 0) as file:
                bad, whole = 0, True
                for offset, count in _chunks(kept.size):
                    sums = kept.sums(offset, count)
                    right = file.recover(offset, count, sums)
                    whole = whole and right == len(sums)
                    if right != sum(1 for one in sums if one):
                        again = kept.sums(offset, count)
                        bad += sum(1 for one in again if one) - file.recover(offset, count, again)
        if whole and not bad and not _has_digest(_data(path, digest), digest):
            return -(-kept.size // record.GRANULE)
        return max(bad, 0)
    finally:
        kept.close()


def _has_digest(path: str, digest: str) -> bool:
    name, _, expected = digest.partition(":")
    if name not in hashlib.algorithms_available:
        return True  # nobody can tell
    found = hashlib.new(name)
    with open(path, "rb") as file:
        while True:
            data = file.read(_CHUNK)
            if not data:
                return found.hexdigest() == expected
            found.update(data)


def _data(path: str, digest: str) -> str:
    return os.path.join(path, "blobs", digest.replace(":", "-"))


def _chunks(size: int) -> Iterator[Tuple[int, int]]:
    for offset in range(0, size, _CHUNK):
        yield offset, min(_CHUNK, size - offset)
