# SPDX-License-Identifier: Apache-2.0
"""
The thread "sampler": keeps the totals of the last while, for values that are rates, and says in the
log which commands hang, once each.

A command hangs when it has not been answered for HUNG_S. Lock `_lock` guards the samples; it is
held for moments, nothing is taken under it.
"""

import collections
import logging
import threading
import time
from typing import Callable, Deque, NamedTuple, Set, Tuple

from ..cache import counters
from ..ffi import latency
from ..tcmu import device, handler, usage

log = logging.getLogger("ops.sampler")

# A disk that takes longer than this for one command is what operators call hung; the kernel's own
# limit is 30 s too, where nobody raised it.
HUNG_S = 30.0

# The window is told by so many samples, and none of them is closer to the next than this.
SAMPLES = 12
SHORTEST_S = 0.25
LONGEST_S = 3600.0


class Sample(NamedTuple):
    """Monotonic seconds, and the totals then."""

    at_s: float
    total: usage.Usage
    fetched: counters.Fetched


class Window(NamedTuple):
    """What happened between two samples."""

    elapsed_s: float
    read_bytes: int
    reads: int
    read_latency: latency.Latency
    fetched_bytes: int
    fetches: int
    fetch_latency: latency.Latency
    fetched_total: int  # since the start


def hung(report: device.Report) -> int:
    """How many commands of a device hang."""
    return sum(one.age_ns >= HUNG_S * 1e9 for one in report.pending)


class Sampler:
    """length_s: of the window."""

    def __init__(
        self,
        survey: Callable[[], handler.Survey],
        fetched: Callable[[], counters.Fetched],
        length_s: float,
    ) -> None:
        self._survey = survey
        self._fetched = fetched
        self._period_s = min(max(length_s / SAMPLES, SHORTEST_S), LONGEST_S)
        self._lock = threading.Lock()
        self._samples: Deque[Sample] = collections.deque(maxlen=SAMPLES + 1)
        self._told: Set[Tuple[str, int, int]] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")

    def start(self) -> None:
        self.sample(self._survey())
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()

    def window(self, now: handler.Survey) -> Window:
        """From the oldest sample that is kept to now."""
        with self._lock:
            first = self._samples[0]
        total, fetched, old = now.total(), self._fetched(), first.fetched
        return Window(
            max(time.monotonic() - first.at_s, 1e-3),
            total.image.read_bytes - first.total.image.read_bytes,
            total.image.reads - first.total.image.reads,
            total.kinds[latency.Kind.READ] - first.total.kinds[latency.Kind.READ],
            sum(fetched.bytes.values()) - sum(old.bytes.values()),
            sum(fetched.requests.values()) - sum(old.requests.values()),
            fetched.took - old.took,
            sum(fetched.bytes.values()),
        )

    def _run(self) -> None:
        while not self._ending.wait(self._period_s):
            try:
                survey = self._survey()
                self.sample(survey)
                self._tell_hung(survey)
            except Exception:  # the thread's top
                log.exception("sampling failed")

    def sample(self, survey: handler.Survey) -> None:
        one = Sample(time.monotonic(), survey.total(), self._fetched())
        with self._lock:
            self._samples.append(one)

    def _tell_hung(self, survey: handler.Survey) -> None:
        found = set()
        for report in survey.devices:
            for one in report.pending[: hung(report)]:
                key = (report.uio, one.offset, one.kind)
                found.add(key)
                if key not in self._told:
                    text = "command hangs uio=%s config=%s kind=%s offset=%d count=%d age_s=%.1f"
                    kind = latency.Kind(one.kind).name.lower()
                    age_s = one.age_ns / 1e9
                    log.error(text, report.uio, report.path, kind, one.offset, one.count, age_s)
        for uio, offset, _ in self._told - found:
            log.info("command hangs no more uio=%s offset=%d", uio, offset)
        self._told = found
