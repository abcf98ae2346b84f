# SPDX-License-Identifier: Apache-2.0
"""
Bounds how many connections are busy, for each server and in all.

A server that has none may have one even when all are taken, as long as there are spare ones: some
that hang are not to be in the way of another. Who finds no place waits in a queue; a place that
becomes free goes to the first one there who may have it, so nobody is overtaken by others who want
the same server. `_lock` guards counts and queue and is held for moments; waiting happens outside.
"""

import threading
from typing import Dict, List

from . import operation


class _Waiter:
    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.admitted = threading.Event()  # set under the lock, with the place counted


class Slots:
    """Places for connections in use; thread-safe."""

    def __init__(self, each: int, total: int, spare: int = 0) -> None:
        self._each = each
        self._total = total
        self._spare = spare
        self._lock = threading.Lock()
        self._used: Dict[str, int] = {}
        self._sum = 0
        self._queue: List[_Waiter] = []

    def take(self, origin: str, current: operation.Operation) -> None:
        """Waits for a place; RegistryError when the operation ends before there is one."""
        with self._lock:
            if self._has_place(origin):  # then nobody in the queue may have it
                return self._enter(origin)
            waiter = _Waiter(origin)
            self._queue.append(waiter)
        try:
            current.wait(waiter.admitted)
        except BaseException:
            with self._lock:
                if waiter.admitted.is_set():
                    self._leave(origin)
                else:
                    self._queue.remove(waiter)
            raise

    def give_back(self, origin: str) -> None:
        with self._lock:
            self._leave(origin)

    def _has_place(self, origin: str) -> bool:
        used = self._used.get(origin, 0)
        return used < self._each and self._sum < self._total + (0 if used else self._spare)

    def _enter(self, origin: str) -> None:
        self._used[origin] = self._used.get(origin, 0) + 1
        self._sum += 1

    def _leave(self, origin: str) -> None:
        self._sum -= 1
        self._used[origin] -= 1
        if not self._used[origin]:
            del self._used[origin]
        self._admit()

    def _admit(self) -> None:
        """Whoever may have a place, in the order they came."""
        at = 0
        while at < len(self._queue) and self._sum < self._total + self._spare:
            origin = self._queue[at].origin
            if self._has_place(origin):
                self._enter(origin)
                self._queue.pop(at).admitted.set()
            else:
                at += 1
