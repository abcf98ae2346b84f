# SPDX-License-Identifier: Apache-2.0
"""
Where an entry's bytes come from: the repositories whose images have it open.

Images of several repositories may share a blob. Each brings its own RemoteBlob, with its own
credentials; the first that gives us anything serves all. `_lock` guards the list, for moments; a
source's `opening` is held while its blob is opened, so that the threads that need it wait for one
answer.
"""

import threading
import urllib.parse
from typing import Dict, List, Optional, Set

from .. import errors
from ..registry import blob, body

_Kind = errors.RegistryFailure

# What another repository may not say, even of the same registry.
_OF_THE_REPOSITORY = (_Kind.AUTH, _Kind.NOT_FOUND, _Kind.PROTOCOL, _Kind.TLS, _Kind.CLOSED)


class Source:
    """One repository's way to the blob."""

    def __init__(self, remote: blob.RemoteBlob, repository: str) -> None:
        self.remote = remote
        self.repository = repository  # repoBlobUrl
        self.host = urllib.parse.urlsplit(repository).netloc
        self.opening = threading.Lock()
        self.opened = False
        self.users = 1

    def open(self) -> int:
        """The blob's size, as the registry says; RegistryError."""
        with self.opening:
            if not self.opened:
                self.remote.open()
                self.opened = True
        return self.remote.size()


class Sources:
    """Those of one entry. Thread-safe."""

    def __init__(self) -> None:
        self.last_error: Optional[errors.RegistryError] = None  # None: the last answer was good
        self.failures = 0  # in a row
        self._lock = threading.Lock()
        self._all: List[Source] = []
        self._openers: Dict[object, float] = {}  # who opens a layer, since when

    @property
    def host(self) -> str:
        """Whom the next request goes to; "" when there is nobody to ask."""
        source = self._next(set())
        return source.host if source is not None else ""

    def is_empty(self) -> bool:
        with self._lock:
            return not self._all

    def begin_opening(self, who: object, now: float) -> None:
        """Somebody opens a layer, and wants to know soon when that cannot be."""
        with self._lock:
            self._openers[who] = now

    def end_opening(self, who: object) -> None:
        with self._lock:
            self._openers.pop(who, None)

    def impatient(self, now: float, patience_s: float) -> bool:
        """Somebody has been opening a layer for longer than that."""
        with self._lock:
            return any(now - since >= patience_s for since in self._openers.values())

    def add(self, source: Source) -> Source:
        """The source to use for this repository: another image may have brought one already."""
        with self._lock:
            for known in self._all:
                if known.repository == source.repository:
                    known.users += 1
                    return known
            self._all.append(source)
            return source

    def remove(self, source: Source) -> bool:
        """
        Gives one of add()'s back; with its last user it is closed, whatever it is doing. True:
        there are no others.
        """
        with self._lock:
            source.users -= 1
            if not source.users:
                self._all.remove(source)
            last, empty = not source.users, not self._all
        if last:
            source.remote.close()
        return empty

    def read(self, offset: int, count: int, size: int, into: body.Sink) -> None:
        """
        A range of a blob of that size from whoever gives it; RegistryError when nobody does. It
        may begin anew when another is asked.
        """
        failure = errors.RegistryError(_Kind.CLOSED, "nobody has the blob open any more")
        tried: Set[Source] = set()
        while True:
            source = self._next(tried)
            if source is None:
                break
            tried.add(source)
            try:
                self._read(source, offset, count, size, into)
                self.last_error, self.failures = None, 0
                return
            except errors.RegistryError as error:
                if error.temporary or not failure.temporary:  # what may heal is waited for
                    failure = error
                if error.kind not in _OF_THE_REPOSITORY:
                    tried |= self._all_of(source.host)
                self._move_back(source)
        if failure.kind is not _Kind.CLOSED:  # which says nothing of whom is asked next
            self.last_error = failure
            self.failures += 1
        raise failure

    def _next(self, tried: "Set[Source]") -> Optional[Source]:
        """
        Whom to ask next; also who has come while another was asked. Who has answered before comes
        first: a registry that hangs is not to hold up those who have another.
        """
        with self._lock:
            left = [one for one in self._all if one not in tried]
        return min(left, key=lambda one: not one.opened, default=None)

    def _all_of(self, host: str) -> "Set[Source]":
        with self._lock:
            return {one for one in self._all if one.host == host}

    @staticmethod
    def _read(
        source: Source,
        offset: int,
        count: int,
        size: int,
        into: body.Sink,
    ) -> None:
        told = source.open()
        if told != size:
            cause = f"{source.repository}: the blob has {told} bytes, {size} were expected"
            raise errors.RegistryError(_Kind.PROTOCOL, cause)
        source.remote.read(offset, count, into)

    def _move_back(self, source: Source) -> None:
        """Others are asked before it from now on."""
        with self._lock:
            if source in self._all:
                self._all.remove(source)
                self._all.append(source)
