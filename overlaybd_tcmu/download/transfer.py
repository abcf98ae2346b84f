# SPDX-License-Identifier: Apache-2.0
"""
One blob from where it can be had into its download, in order, verified as a whole.

    each block:  in .download already | in the cache | from the registry, within the rate limit
                 --> .download, and into the digest

One pass: what was there before is read for the digest, what comes is in memory anyway. Before each
block that needs the network, whoever waits for a miss goes first. A digest that does not match
means that some of it is wrong and nobody knows which: everything is dropped, what the cache has of
the blob as well, and the next attempt gets it all from the registry.
"""

import hashlib
import logging
import threading
from typing import Iterator, NamedTuple

from .. import errors, trace, units
from ..cache import entry, refill, store
from ..registry import blob
from . import bucket, partial

log = logging.getLogger("download.transfer")

GRANULE = 4096
SPAN = 4 * units.MiB  # asked for with one request; then what the cache got meanwhile counts
GIVE_WAY_S = 1.0  # for misses, at most, before a block: a download must end some day

_Kind = errors.RegistryFailure


class Stopped(Exception):
    """Nobody wants the blob any more."""


class Means(NamedTuple):
    """What a transfer uses and does not own."""

    kept: store.Store
    fetching: refill.Refill
    limit: bucket.Bucket
    stop: threading.Event


class Transfer:
    """From an entry of the cache and a registry's blob into a partial."""

    def __init__(
        self,
        source: entry.Entry,
        remote: blob.RemoteBlob,
        target: partial.Partial,
        block_size: int,
        means: Means,
    ) -> None:
        self.fetched = 0  # bytes from the registry
        self.done = 0  # bytes, wherever they came from
        self._source = source
        self._remote = remote
        self._target = target
        self._means = means
        self._size = source.size
        granules = max(1, min(block_size, SPAN) // GRANULE)
        self._block = memoryview(bytearray(granules * GRANULE))
        self._digest = hashlib.new(_algorithm(source.digest))

    def run(self) -> None:
        """The blob is whole and right, or raises: RegistryError, OSError, Stopped."""
        offset = 0
        while offset < self._size:
            end = self.done = self._first_to_fetch(offset)
            if end > offset:
                offset = end
                continue
            span = self._span(offset)
            for view in self._blocks(offset, span):
                self._keep(view, offset)
                offset = self.done = offset + len(view)
        found = f"{self._digest.name}:{self._digest.hexdigest()}"
        if found != self._source.digest:
            self._target.one.discard()
            self._means.kept.remove(self._source.digest)
            cause = f"downloaded bytes have the digest {found}, not {self._source.digest}"
            raise errors.RegistryError(_Kind.PROTOCOL, cause, temporary=True)

    def _first_to_fetch(self, offset: int) -> int:
        """Takes blocks that are here; where the first begins that is not."""
        while offset < self._size:
            self._check()
            view = self._block[: min(len(self._block), self._size - offset)]
            self._target.one.recover(offset, len(view))
            if not self._target.lend(view, offset):
                if self._source.file.copy_into(view, offset) != len(view):
                    return offset
                self._target.one.fill(view, offset)
            self._digest.update(view)
            offset += len(view)
            trace.point("download.taken")
        return offset

    def _span(self, offset: int) -> int:
        """Bytes from offset on that are to be fetched together."""
        end = min(offset + SPAN, self._size)
        at = offset + len(self._block)
        while at < end and self._is_missing(at):
            at += len(self._block)
        return min(at, end) - offset

    def _is_missing(self, offset: int) -> bool:
        count = min(len(self._block), self._size - offset)
        self._target.one.recover(offset, count)
        both = self._target.one, self._source
        return all(one.gap(offset, count) is not None for one in both)

    def _blocks(self, offset: int, count: int) -> Iterator[memoryview]:
        """A range from the registry, a block at a time; each is valid until the next."""
        filled, wanted = 0, min(len(self._block), count)
        self._means.fetching.counters.fetched("download", self._source, 0)
        with self._remote.stream(offset, count) as chunks:
            for chunk in chunks:
                self._pace(len(chunk))
                rest = memoryview(chunk)
                while rest:
                    part = rest[: wanted - filled]
                    self._block[filled : filled + len(part)] = part
                    filled, rest = filled + len(part), rest[len(part) :]
                    if filled == wanted:
                        yield self._block[:filled]
                        count -= filled
                        filled, wanted = 0, min(len(self._block), count)

    def _pace(self, count: int) -> None:
        self.fetched += count
        self._means.fetching.counters.fetched("download", self._source, count, requests=0)
        self._check()
        if not self._means.limit.take(count, self._means.stop):
            raise Stopped()
        self._means.fetching.wait_idle(GIVE_WAY_S)

    def _keep(self, view: memoryview, offset: int) -> None:
        self._target.one.fill(view, offset)
        self._digest.update(view)
        trace.point("download.kept")

    def _check(self) -> None:
        if self._means.stop.is_set():
            raise Stopped()


def _algorithm(digest: str) -> str:
    name = digest.partition(":")[0]
    if name not in ("sha256", "sha384", "sha512"):
        raise errors.RegistryError(_Kind.CONFIG, f"digest {digest} cannot be verified")
    return name
