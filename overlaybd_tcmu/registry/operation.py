# SPDX-License-Identifier: Apache-2.0
"""
What one call may take: until when it runs, and who may cancel it.

A Scope belongs to a blob; its cancel() ends every Operation in it at once by shutting the socket
that the operation waits on, whoever waits. `_lock` guards the sockets of a scope and is held for
moments; a socket is detached under it before it is closed or goes back to its pool, so that no one
else's connection is ever shut.
"""

import socket
import threading
from typing import Dict

from .. import errors
from . import retry

_LOOK_S = 0.1  # how long a wait for something else than a socket may miss a cancellation


class Scope:
    """Operations that end together."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._sockets: Dict[int, socket.socket] = {}  # by the operation's id()

    def cancel(self) -> None:
        """For good: what runs fails with CLOSED, and so does what comes later."""
        with self._lock:
            self.cancelled.set()
            for one in self._sockets.values():
                _shut(one)

    def attach(self, owner: int, one: socket.socket) -> None:
        with self._lock:
            self._sockets[owner] = one
            if self.cancelled.is_set():
                _shut(one)

    def detach(self, owner: int) -> None:
        with self._lock:
            self._sockets.pop(owner, None)


class Operation:
    """One call of a user of the registry. Used by one thread."""

    def __init__(
        self, scope: Scope, seconds: float, what: str, clock: retry.Clock = retry.CLOCK
    ) -> None:
        self.clock = clock
        self._scope = scope
        self._seconds = seconds
        self._what = what  # of which a failure is told
        self._deadline = clock.now() + seconds

    def remaining_s(self) -> float:
        """What is left, more than 0; RegistryError when nothing is or it was cancelled."""
        self.check()
        left_s = self._deadline - self.clock.now()
        if left_s <= 0:
            cause = f"{self._what}: not done within {self._seconds:.0f} s"
            raise errors.RegistryError(errors.RegistryFailure.TIMEOUT, cause)
        return left_s

    def check(self) -> None:
        """RegistryError when it was cancelled."""
        if self._scope.cancelled.is_set():
            cause = f"{self._what}: closed meanwhile"
            raise errors.RegistryError(errors.RegistryFailure.CLOSED, cause)

    def wait(self, event: threading.Event) -> None:
        """Until event is set; RegistryError when time is up or it was cancelled before."""
        while not event.wait(min(self.remaining_s(), _LOOK_S)):
            pass

    def attach(self, one: socket.socket) -> None:
        """The socket it waits on from now on."""
        self._scope.attach(id(self), one)

    def detach(self) -> None:
        self._scope.detach(id(self))


def never_cancelled(seconds: float, what: str) -> Operation:
    """An operation of nobody's blob."""
    return Operation(Scope(), seconds, what)


def _shut(one: socket.socket) -> None:
    try:
        # Not SSLSocket.shutdown(): that takes the TLS object away from the thread that reads.
        socket.socket.shutdown(one, socket.SHUT_RDWR)
    except OSError:
        pass  # gone already
