# SPDX-License-Identifier: Apache-2.0
"""
Where the bytes of one request go: into the store, part by part, as they come.

A part is as large as the buffer, and given to the readers as soon as it is whole. From a plain
socket the core takes the bytes itself, so that nobody waits for the interpreter between two parts;
what comes through urllib3 (the beginning, and all of it with TLS), and what the disk refuses, is
filled from here.
"""

from typing import Tuple

from .. import trace
from ..ffi import cachefile
from . import entry, store


class Sink:
    """A registry.body.Sink. One thread's, who holds the entry."""

    direct = True

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
        held = coming.held()
        if held and (done == coming.count or not coming.room()):
            trace.point("refill.fetched")
            self._store.fill(self._one, held, coming.offset + coming.filled)
            coming.filled = done
            trace.point("refill.filled")

    def receive(self, fd: int, done: int, timeout_s: float) -> Tuple[int, float]:
        """
        More of them after the first `done`, from a stream socket: how many, 0 at its end, and the
        seconds it was waited for. socket.timeout when none came in time, OSError.
        """
        self._coming.received = done
        trace.point("refill.fetched")
        count = self._store.receive(self._one, self._coming, fd, timeout_s)
        trace.point("refill.filled")
        return count, self._coming.waited_s
