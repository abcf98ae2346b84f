# SPDX-License-Identifier: Apache-2.0
"""
A rate limit: bytes a second, smooth over a tenth of one.

Whoever takes more than there is goes into debt and waits until it is paid, so the sum of what all
takers got never runs ahead of the rate by more than a tenth of a second and one take. `_lock`
guards the balance; nobody waits under it.
"""

import threading
from typing import Callable

from ..registry import retry

BURST_S = 0.1


class Bucket:
    """Thread-safe; its takers share the rate."""

    def __init__(
        self,
        rate: float,
        clock: retry.Clock = retry.CLOCK,
        on_wait: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """rate: bytes a second; 0 or less: no limit."""
        self._rate = rate
        self._clock = clock
        self._on_wait = on_wait
        self._lock = threading.Lock()
        self._balance = rate * BURST_S
        self._seen = clock.now()

    def set_rate(self, rate: float) -> None:
        """From now on; who waits already waits as it was told."""
        with self._lock:
            self._rate = rate
            self._balance = min(self._balance, rate * BURST_S)

    def take(self, count: int, stop: threading.Event) -> bool:
        """Waits until count bytes were due; False: stop was set."""
        with self._lock:
            if self._rate <= 0:
                return not stop.is_set()
            now = self._clock.now()
            earned = (now - self._seen) * self._rate
            self._balance = min(self._balance + earned, self._rate * BURST_S) - count
            self._seen = now
            wait_s = -self._balance / self._rate
        if wait_s <= 0:
            return not stop.is_set()
        self._on_wait(wait_s)
        return not self._clock.wait(stop, wait_s)
