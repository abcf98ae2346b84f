# SPDX-License-Identifier: Apache-2.0
"""
What is known of each server, for all who use it: asked to wait, or failing.

A server that answers 429 (or names a Retry-After with 503) is not asked again by anybody before its
time is over: all of a host's layers wait together instead of each finding out by itself. One that
failed lately is tried after its mirrors. `_lock` guards the table and is held for moments.
"""

import dataclasses
import threading
from typing import Optional

import cachetools

from .. import errors
from . import retry

DOWN_S = 30.0  # how long a server that failed is tried last
FIRST_PAUSE_S = 1.0  # after a 429 that does not say for how long; doubles
LONGEST_PAUSE_S = 300.0  # obeyed, whatever a server asks for
_SERVERS = 1024


@dataclasses.dataclass
class _State:
    wait_until: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    down_until: float = 0.0


class Health:
    """By origin ("https://host:port"); thread-safe."""

    def __init__(self, clock: retry.Clock = retry.CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._states: "cachetools.LRUCache[str, _State]" = cachetools.LRUCache(_SERVERS)

    def check(self, origin: str) -> None:
        """RegistryError while the server wants to be left alone."""
        with self._lock:
            state = self._states.get(origin)
            left_s = state.wait_until - self._clock.now() if state else 0.0
        if left_s > 0:
            cause = f"{origin} asked to be left alone for {left_s:.1f} s more"
            kind = errors.RegistryFailure.THROTTLED
            raise errors.RegistryError(kind, cause, retry_after_s=left_s)

    def throttled(self, origin: str, retry_after_s: Optional[float]) -> float:
        """It wants fewer requests; for how many seconds none will be sent."""
        with self._lock:
            state = self._state(origin)
            pause_s = state.pause_s if retry_after_s is None else retry_after_s
            pause_s = min(max(pause_s, 0.0), LONGEST_PAUSE_S)
            state.pause_s = min(state.pause_s * 2, DOWN_S)
            state.wait_until = max(state.wait_until, self._clock.now() + pause_s)
            return pause_s

    def failed(self, origin: str) -> None:
        with self._lock:
            self._state(origin).down_until = self._clock.now() + DOWN_S

    def worked(self, origin: str) -> None:
        with self._lock:
            state = self._states.get(origin)
            if state is not None:
                state.pause_s, state.down_until = FIRST_PAUSE_S, 0.0

    def is_down(self, origin: str) -> bool:
        """It failed lately, or wants to be left alone."""
        with self._lock:
            state = self._states.get(origin)
            now = self._clock.now()
            return state is not None and max(state.down_until, state.wait_until) > now

    def _state(self, origin: str) -> _State:
        return self._states.setdefault(origin, _State())
