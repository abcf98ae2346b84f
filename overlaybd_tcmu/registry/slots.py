# SPDX-License-Identifier: Apache-2.0
"""
Bounds how many connections are busy, for each server and in all.

`_free` guards the counts and is held for moments; who finds no place waits on it.
"""

import threading
from typing import Dict

from . import operation

_LOOK_S = 0.1  # how long a cancellation may go unnoticed


class Slots:
    """Places for connections in use; thread-safe."""

    def __init__(self, each: int, total: int) -> None:
        self._each = each
        self._total = total
        self._free = threading.Condition()
        self._used: Dict[str, int] = {}
        self._sum = 0

    def take(self, origin: str, current: operation.Operation) -> None:
        """Waits for a place; RegistryError when the operation's time is up before."""
        with self._free:
            while self._sum >= self._total or self._used.get(origin, 0) >= self._each:
                self._free.wait(min(current.remaining_s(), _LOOK_S))
            self._used[origin] = self._used.get(origin, 0) + 1
            self._sum += 1

    def give_back(self, origin: str) -> None:
        with self._free:
            self._sum -= 1
            self._used[origin] -= 1
            if not self._used[origin]:
                del self._used[origin]
            self._free.notify_all()
