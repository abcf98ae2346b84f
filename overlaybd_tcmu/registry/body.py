# SPDX-License-Identifier: Apache-2.0
"""The bytes of one range, out of an answer that was found good: all of them, or an error."""

from types import TracebackType
from typing import Iterator, Optional, Protocol, Tuple, Type

from .. import errors, units
from . import client, exchange, url

CHUNK = 256 * units.KiB

_Kind = errors.RegistryFailure


class Sink(Protocol):
    """Who uses the bytes of a range before the last of them has come."""

    direct: bool  # it can receive()

    @property
    def asks(self) -> bool:
        """It can ask(), which comes before all else."""

    def room(self, done: int) -> memoryview:
        """Where those after the first `done` go: one at least, and none behind the range."""

    def came(self, done: int) -> None:
        """So many are there."""

    def receive(self, fd: int, done: int, timeout_s: float) -> Tuple[int, float]:
        """
        Takes more after the first `done` from a socket: how many, 0 at its end, and the seconds it
        was waited for. socket.timeout when none came in time, OSError.
        """

    def ask(
        self, fd: int, request: bytes, wanted: exchange.Wanted, timeout_s: float
    ) -> exchange.Taken:
        """As exchange.Asker says."""


class Buffer:
    """A sink for who wants them all at once."""

    direct = asks = False

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def room(self, done: int) -> memoryview:
        return self._view[done:]

    def came(self, done: int) -> None:
        pass

    def receive(self, fd: int, done: int, timeout_s: float) -> Tuple[int, float]:
        raise NotImplementedError

    def ask(
        self, fd: int, request: bytes, wanted: exchange.Wanted, timeout_s: float
    ) -> exchange.Taken:
        raise NotImplementedError


class Body:
    """`count` bytes after `skip` others; a context that gives the connection back. One thread's."""

    def __init__(self, response: client.Response, skip: int, count: int) -> None:
        self.response = response
        self._skip = skip
        self._count = count

    def __enter__(self) -> "Body":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.response.close(keep=error is None)

    def read(self, into: Sink) -> None:
        """All of the range; what is there after an error is undefined."""
        self._skip_first()
        done = self.response.taken or 0
        if self.response.taken is not None:
            into.came(done)
            self.response.check()
        direct = into.direct and self.response.is_direct(self._count - done)
        while done < self._count:
            if direct and not self.response.buffered:
                received = self.response.receive(into.receive, done)
            else:
                received = self.response.read_into(into.room(done), first=direct)
            if not received:
                raise self._short(done)
            done += received
            into.came(done)
        self._check_end()

    def chunks(self) -> Iterator[bytes]:
        """The range in pieces of at most CHUNK bytes, as they come."""
        self._skip_first()
        done = 0
        while done < self._count:
            piece = self.response.read(min(CHUNK, self._count - done))
            if not piece:
                raise self._short(done)
            done += len(piece)
            yield piece
        self._check_end()

    def _skip_first(self) -> None:
        left = self._skip
        while left:
            piece = self.response.read(min(CHUNK, left))
            if not piece:
                raise self._short(0)
            left -= len(piece)

    def _check_end(self) -> None:
        """A range without a length may still turn out to be longer than it said it is."""
        if self.response.status == 206 and self.response.chunked and self.response.read(1):
            cause = (
                f"{url.shown(self.response.address)}: more than the {self._count} bytes it named"
            )
            raise errors.RegistryError(_Kind.PROTOCOL, cause)

    def _short(self, done: int) -> errors.RegistryError:
        """Worth another try: connections break, and servers restart."""
        self.response.failed()
        cause = f"{url.shown(self.response.address)}: ended after {done} of {self._count} bytes"
        return errors.RegistryError(_Kind.PROTOCOL, cause, temporary=True)
