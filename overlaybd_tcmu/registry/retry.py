# SPDX-License-Identifier: Apache-2.0
"""
When to try again: the one place that knows how long to wait between attempts.

    retry.call(lambda: blob.pread_into(buffer, offset), retry.Policy(), stop)

A pause doubles from `first_s` to `longest_s`; half of it is jitter, so that those who failed
together do not come back together. What the server asked for with Retry-After is never cut short.
Nothing here is about a certain operation: what is worth an immediate second try is blob.py's
business.
"""

import dataclasses
import random
import threading
import time
from typing import Callable, Optional, TypeVar

from .. import errors

_Result = TypeVar("_Result")


class Clock:
    """Monotonic time and waiting, in seconds; tests make both up."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """True when stop was set before the time was over."""
        return stop.wait(seconds)


CLOCK = Clock()


@dataclasses.dataclass(frozen=True)
class Policy:
    """How patient a user of the registry is."""

    first_s: float = 0.1
    longest_s: float = 30.0
    give_up_after_s: Optional[float] = None  # of trying, pauses included; None: never
    final_too: bool = False  # also what does not heal by itself, such as a denied access


class Attempts:
    """One sequence of attempts: ask pause() after each that failed. Used by one thread."""

    def __init__(
        self,
        policy: Policy,
        stop: threading.Event,
        clock: Clock = CLOCK,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.failed = 0  # attempts so far
        self._policy = policy
        self._stop = stop
        self._clock = clock
        self._uniform = uniform
        self._started = clock.now()

    def pause(self, error: errors.RegistryError) -> None:
        """
        Waits until the next attempt is due. Raises the error itself when there will be none: it is
        final, the patience is over or would be before the server wants to be asked again, or stop
        was set.
        """
        self.failed += 1
        policy = self._policy
        if not (error.temporary or policy.final_too) or self._stop.is_set():
            raise error
        whole_s = min(policy.longest_s, policy.first_s * 2.0 ** min(self.failed - 1, 60))
        pause_s = self._uniform(whole_s / 2, whole_s)
        asked_s = error.retry_after_s or 0.0
        if asked_s:
            pause_s = asked_s + self._uniform(0.0, min(asked_s / 10, policy.longest_s))
        if policy.give_up_after_s is not None:
            left_s = self._started + policy.give_up_after_s - self._clock.now()
            if left_s <= 0 or left_s < asked_s:
                raise error
            pause_s = min(pause_s, left_s)
        if self._clock.wait(self._stop, pause_s):
            raise error


def call(
    function: Callable[[], _Result],
    policy: Policy,
    stop: threading.Event,
    clock: Clock = CLOCK,
    uniform: Callable[[float, float], float] = random.uniform,
) -> _Result:
    """function's result, from as many attempts as the policy allows; else its last error."""
    attempts = Attempts(policy, stop, clock, uniform)
    while True:
        try:
            return function()
        except errors.RegistryError as error:
            attempts.pause(error)
