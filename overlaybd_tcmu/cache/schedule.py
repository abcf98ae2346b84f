# SPDX-License-Identifier: Apache-2.0
"""
What is fetched next, of all that is wanted: jobs, in the order of need.

    READ    somebody waits
    AHEAD   somebody will, probably; at most half of a host's places, and EACH_AHEAD a blob

Within a priority the readers take turns, or the blobs that are read ahead, so a device with a
hundred misses does not keep one with a single miss waiting. A host has EACH places of TOTAL, and
one of SPARE when those are taken: some that hang are not in the way of another. One that fails is
left alone for a while, longer each time, and then asked once before everybody goes there again:
however many wait, a registry that is down sees one request at a time.

Plain data, no lock and no clock: refill.py has both.
"""

import collections
import dataclasses
import enum
import heapq
import itertools
import random
from typing import Callable, Deque, Dict, Iterator, List, Optional, Tuple

from . import entry

EACH = 16  # jobs under way at one host
TOTAL = 64  # in all, and
SPARE = 16  # more for hosts that would have none
FIRST_S, LONGEST_S = 0.1, 10.0  # pauses after failures: doubled, and half of each is jitter
EACH_AHEAD = 5  # of these that are one blob's read-ahead
AHEAD_MAX = 64  # jobs waiting; more read-ahead than that is dropped


class Priority(enum.IntEnum):
    READ = 0
    AHEAD = 1


@dataclasses.dataclass(eq=False)
class Job:
    """Units of an entry to be fetched. Holds the entry."""

    one: entry.Entry
    first: int  # unit
    stop: int
    priority: Priority
    reader: int
    host: str
    running: bool = False


@dataclasses.dataclass
class _Host:
    running: int = 0
    ahead: int = 0  # of these
    failures: int = 0  # in a row
    not_before: float = 0.0


_ORDER = tuple(Priority)
_Turn = Tuple[int, str]  # a reader's, or a blob's with what is read ahead of it, at one host


def _turn(job: Job) -> _Turn:
    return job.reader if job.priority is Priority.READ else job.one.number, job.host


class Schedule:
    """Jobs waiting, paused and under way."""

    def __init__(
        self,
        longest_s: float = LONGEST_S,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._longest_s = longest_s
        self._uniform = uniform
        # Who was served last stands last.
        self._queues: "Dict[Priority, collections.OrderedDict[_Turn, Deque[Job]]]" = {
            one: collections.OrderedDict() for one in Priority
        }
        self._waiting = {one: 0 for one in Priority}
        self._paused: List[Tuple[float, int, Job]] = []
        self._numbers = itertools.count()
        self._ahead: "collections.Counter[int]" = collections.Counter()  # under way, by entry
        self._units: Dict[Tuple[int, int], Job] = {}  # (entry's number, unit): who fetches it
        self._hosts: Dict[str, _Host] = {}
        self._running = 0

    def end_of_gap(self, one: entry.Entry, unit: int, stop: int) -> int:
        """The first unit, of [unit, stop), that somebody fetches; stop when nobody does."""
        units, number = self._units, one.number
        while unit < stop and (number, unit) not in units:
            unit += 1
        return unit

    def find(self, one: entry.Entry, unit: int) -> Optional[Job]:
        """Who fetches, or is to fetch, this unit."""
        return self._units.get((one.number, unit))

    def reads(self) -> int:
        """Jobs somebody waits for, under way or not; paused ones not counted."""
        running = sum(host.running - host.ahead for host in self._hosts.values())
        return self._waiting[Priority.READ] + running

    def waits(self) -> bool:
        """Whether there are jobs that are neither under way nor paused."""
        return any(self._waiting.values())

    def add(self, job: Job) -> bool:
        """False: too much read-ahead waits already."""
        if job.priority is Priority.AHEAD and self._waiting[Priority.AHEAD] >= AHEAD_MAX:
            return False
        for unit in range(job.first, job.stop):
            self._units[job.one.number, unit] = job
        self._push(job)
        return True

    def takes_ahead(self) -> bool:
        """Whether more read-ahead that is no reader's would leave enough room for theirs."""
        return self._waiting[Priority.AHEAD] < AHEAD_MAX // 4

    def promote(self, job: Job, reader: int) -> None:
        """Somebody waits for it now."""
        if job.running or job.priority is Priority.READ:
            return
        if job not in self._queues[job.priority].get(_turn(job), ()):
            return  # paused: it comes back as what its readers are then
        self._take_out(job)
        job.priority, job.reader = Priority.READ, reader
        self._push(job)

    def is_ready(self, now: float) -> bool:
        """take() would give one."""
        return self._next(now) is not None

    def take(self, now: float) -> Optional[Job]:
        """The next job to run, which is to be ended by done() or failed(); None: none may."""
        job = self._next(now)
        if job is None:
            return None
        self._take_out(job)
        turn, queues = _turn(job), self._queues[job.priority]
        if turn in queues:
            queues.move_to_end(turn)
        host, ahead = self._hosts[job.host], job.priority is Priority.AHEAD
        job.running = True
        self._running += 1
        host.running += 1
        host.ahead += ahead
        self._ahead[job.one.number] += ahead
        return job

    def done(self, job: Job) -> None:
        """It was fetched."""
        host = self._ended(job)
        host.failures, host.not_before = 0, 0.0
        self._forget(job)

    def failed(self, job: Job, now: float, least_s: float, failures: int, blame: bool) -> None:
        """
        It was not, for the failures-th time in a row; it is due again after a pause of at least
        least_s. blame: its host is left alone for as long.
        """
        host = self._ended(job)
        if blame:
            host.failures += 1
            host.not_before = now + max(least_s, self._pause_s(host.failures))
        due = max(now + max(least_s, self._pause_s(failures)), host.not_before)
        heapq.heappush(self._paused, (due, next(self._numbers), job))

    def due(self, now: float) -> Iterator[Job]:
        """Paused jobs whose time has come; they are forgotten: whoever still waits asks again."""
        while self._paused and self._paused[0][0] <= now:
            job = heapq.heappop(self._paused)[2]
            self._forget(job)
            yield job

    def drop(self, one: entry.Entry) -> List[Job]:
        """All jobs of an entry that are not under way, taken out."""
        mine = {job for key, job in self._units.items() if key[0] == one.number}
        dropped = [job for job in mine if not job.running]
        for job in dropped:
            if any(job is paused[2] for paused in self._paused):
                self._paused = [paused for paused in self._paused if paused[2] is not job]
                heapq.heapify(self._paused)
            else:
                self._take_out(job)
            self._forget(job)
        return dropped

    def next_s(self, now: float) -> Optional[float]:
        """Seconds until something may be due; None: only new jobs or ended ones change anything."""
        times = [self._paused[0][0]] if self._paused else []
        times += [host.not_before for host in self._hosts.values() if host.not_before > now]
        return max(min(times) - now, 0.0) if times else None

    # -- inside

    def _next(self, now: float) -> Optional[Job]:
        for priority in _ORDER:
            queues = self._queues[priority]
            ahead = priority is Priority.AHEAD
            for queue in queues.values():
                job = queue[0]
                if ahead and self._ahead[job.one.number] >= EACH_AHEAD:
                    continue
                host = self._hosts.setdefault(job.host, _Host())
                if self._may_run(host, ahead, now):
                    return job
        return None

    def _may_run(self, host: _Host, ahead: bool, now: float) -> bool:
        if host.failures:
            return now >= host.not_before and not host.running
        if ahead and host.ahead >= EACH // 2:
            return False
        spare = 0 if ahead or host.running else SPARE
        return host.running < EACH and self._running < TOTAL + spare

    def _pause_s(self, failures: int) -> float:
        whole_s = min(self._longest_s, FIRST_S * 2.0 ** min(failures - 1, 30))
        return self._uniform(whole_s / 2, whole_s)

    def _push(self, job: Job) -> None:
        queues = self._queues[job.priority]
        queues.setdefault(_turn(job), collections.deque()).append(job)
        self._waiting[job.priority] += 1

    def _take_out(self, job: Job) -> None:
        queues = self._queues[job.priority]
        turn = _turn(job)
        queues[turn].remove(job)
        if not queues[turn]:
            del queues[turn]
        self._waiting[job.priority] -= 1

    def _ended(self, job: Job) -> _Host:
        host = self._hosts[job.host]
        job.running = False
        self._running -= 1
        host.running -= 1
        if job.priority is Priority.AHEAD:
            host.ahead -= 1
            self._ahead[job.one.number] -= 1
            if not self._ahead[job.one.number]:
                del self._ahead[job.one.number]
        return host

    def _forget(self, job: Job) -> None:
        for unit in range(job.first, job.stop):
            if self._units.get((job.one.number, unit)) is job:
                del self._units[job.one.number, unit]
        host = self._hosts.get(job.host)
        if host and not host.running and not host.failures and len(self._hosts) > 64:
            del self._hosts[job.host]
