# SPDX-License-Identifier: Apache-2.0
"""The bytes of one range, out of an answer that was found good: all of them, or an error."""

from types import TracebackType
from typing import Callable, Iterator, Optional, Type

from .. import errors, units
from . import client, url

CHUNK = 256 * units.KiB

# Told of how many bytes of a range have come, so that they can be used before the rest has.
Progress = Optional[Callable[[int], None]]

_Kind = errors.RegistryFailure


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

    def read_into(self, buffer: memoryview, progress: Progress = None) -> None:
        """Fills a buffer of count bytes; what is in it after an error is undefined."""
        assert len(buffer) == self._count
        self._skip_first()
        done = 0
        while done < self._count:
            received = self.response.read_into(buffer[done:])
            if not received:
                raise self._short(done)
            done += received
            if progress is not None:
                progress(done)
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
