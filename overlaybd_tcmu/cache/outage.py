# SPDX-License-Identifier: Apache-2.0
"""
What a device does while its registry is away: wait for as long as it takes, or fail reads in time.

One thread looks at every image that has lazily fetched layers, and at every layer that is being
opened: those end early when nobody wants them any more. With `eio` it ends reads that have
waited for the deadline; with `block` it only says in the log, once in a while, that some wait and
what the registry said last: a hang nobody can explain is worse than one with a reason.

`_lock` guards the table of images and is held while they are looked at, so that none is closed in
the middle of it.
"""

import contextlib
import errno
import logging
import threading
import time
from typing import Callable, Dict, Iterator, NamedTuple, Optional

from ..ffi import cachefile, native

log = logging.getLogger("cache.outage")

LOOK_S = 0.25
TELL_AFTER_S = 10.0
TELL_AGAIN_S = 60.0


class Policy(NamedTuple):
    """deadline_s: a read that has waited for so long fails with EIO; None: none ever does."""

    deadline_s: Optional[float] = None


class _Watched(NamedTuple):
    image: native.Image
    name: str
    policy: Policy
    reason: Callable[[], str]  # what the registry said last


class Watch:
    """The thread "outage". add() images, remove() them before they are closed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._images: Dict[int, _Watched] = {}
        self._told: Dict[int, float] = {}
        self._openings: Dict[cachefile.CachedBlob, threading.Event] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outage")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def add(
        self, image: native.Image, name: str, policy: Policy, reason: Callable[[], str]
    ) -> None:
        """Looks after an image from now on."""
        with self._lock:
            self._images[image.address] = _Watched(image, name, policy, reason)

    def remove(self, address: int) -> None:
        """The image at this address is about to be closed; harmless if it was never added."""
        with self._lock:
            self._images.pop(address, None)
            self._told.pop(address, None)

    @contextlib.contextmanager
    def opening(self, one: cachefile.CachedBlob, stop: threading.Event) -> Iterator[None]:
        """A layer is opened from the blob within; stop, once set, ends that."""
        with self._lock:
            self._openings[one] = stop
        try:
            yield
        finally:
            with self._lock:
                del self._openings[one]

    def look(self) -> None:
        """What the thread does, once."""
        with self._lock:
            for one, stop in self._openings.items():
                if stop.is_set():
                    one.cancel()
            for address, watched in self._images.items():
                with contextlib.suppress(ValueError):  # closed already, and about to be removed
                    self._look_at(address, watched)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.look()
            except Exception:  # the thread's top
                log.exception("look failed")

    def _look_at(self, address: int, watched: _Watched) -> None:
        count, oldest_ms = cachefile.parked(watched.image)
        if not count:
            return
        deadline_s = watched.policy.deadline_s
        if deadline_s is not None and oldest_ms >= deadline_s * 1000:
            ended = cachefile.expire(watched.image, int(deadline_s * 1000), errno.EIO)
            text = "reads failed after waiting image=%s count=%d deadline_s=%.1f reason=%s"
            log.error(text, watched.name, ended, deadline_s, watched.reason())
        elif oldest_ms >= TELL_AFTER_S * 1000 and self._is_due(address):
            text = "reads wait for the registry image=%s count=%d oldest_s=%.0f reason=%s"
            log.warning(text, watched.name, count, oldest_ms / 1000, watched.reason())

    def _is_due(self, address: int) -> bool:
        now = self._clock()
        due = now - self._told.get(address, -TELL_AGAIN_S) >= TELL_AGAIN_S
        if due:
            self._told[address] = now
        return due
