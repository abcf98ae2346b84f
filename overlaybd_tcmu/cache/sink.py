# SPDX-License-Identifier: Apache-2.0
"""
Where the bytes of one request go: into the store, part by part, as they come.

A part is as large as the buffer, or as what somebody waits for, and given to the readers as soon as
it is whole. Over a plain connection the core asks, and takes the bytes itself, so that nobody waits
for the interpreter; what comes through urllib3 (first answers, odd ones, and all of TLS), and what
the disk refuses, is filled from here.
"""

from typing import Tuple

from .. import trace
from ..ffi import cachefile
from ..registry import exchange
from . import entry, store


class Sink:
    """A registry.body.Sink. One thread's, who holds the entry."""

    direct = True

    @property
    def asks(self) -> bool:
        """Nothing of it is filled yet."""
        return not self._coming.filled

    def __init__(
        self, kept: store.Store, one: entry.Entry, buffer: memoryview, offset: int, count: int
    ) -> None:
        """For count bytes at offset; buffer: whole granules."""
        self._store = kept
        self._one = one
        self._coming = cachefile.Receiving(one.file, buffer, offset, count)

    def room(self, done: int) -> memoryview:
        """Where those after the first `done` go; from 0 on again with another host."""
        self._coming.received = done
        return self._coming.room()

    def came(self, done: int) -> None:
        """So many are there."""
        coming = self._coming
        coming.received = done
        part = coming.ready()
        if part:
            trace.point("refill.fetched")
            self._store.fill(self._one, part, coming.offset + coming.filled)
            coming.took(len(part))
            trace.point("refill.filled")

    def receive(self, fd: int, done: int, timeout_s: float) -> Tuple[int, float]:
        """
        More of them after the first `done`, from a stream socket: how many, 0 at its end, and the
        seconds it was waited for. socket.timeout when none came in time, OSError.
        """
        self._coming.received = done
        trace.point("refill.fetched")
        count = self._store.receive(
            self._one, self._coming, lambda coming, fill: coming.receive(fd, fill, timeout_s)
        )
        trace.point("refill.filled")
        return count, self._coming.waited_s

    def ask(
        self, fd: int, request: bytes, wanted: exchange.Wanted, timeout_s: float
    ) -> exchange.Taken:
        """As exchange.Asker says."""
        asked = cachefile.question(request, wanted.digest, wanted.etag, wanted.size)
        trace.point("refill.fetched")
        odd = self._store.receive(
            self._one, self._coming, lambda coming, fill: coming.ask(fd, asked, fill, timeout_s)
        )
        trace.point("refill.filled")
        return exchange.Taken(asked.head > 0, self._coming.received, self._coming.waited_s, odd)
