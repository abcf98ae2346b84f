# SPDX-License-Identifier: Apache-2.0
"""
Fetches what is missed: takes misses out of the core, fetches them side by side, fills them in.

    core's queue --> schedule --> recovered from disk, or the registry --> store --> readers resume

All by the threads "fetch". Who has nothing to do waits in the core for misses, puts those that come
into the schedule, and takes the first job itself: between a miss and its request no thread waits
for another. Jobs that are left call others from there, and new threads when there are none.

A miss is a whole unit, or several. One that many wait for is fetched once. What a job cannot get
is asked for again later: in a running device reads wait for as long as it takes (outage.py ends
that for those who want it). Who only opens a layer is told when the registry says no, or after
PATIENCE_S of saying nothing useful.

`_lock` guards the schedule, the streams and the threads' list, for moments; of the other locks only
that of the store's tables, and the misses' in the core, are taken under it. Who stands back waits
on `_quiet`. Jobs hold their entries, so none is closed while it is filled.
"""

import logging
import mmap
import threading
import time
from typing import Callable, Dict, List, Optional, Tuple

from .. import errors
from .. import log as rates
from .. import units
from ..ffi import cachefile
from . import counters, entry, readahead, schedule, sink, store

log = logging.getLogger("cache.refill")

THREADS = schedule.TOTAL + schedule.SPARE
SPARE = 4  # kept: one waits for misses while the others have something to do
IDLE_S = 10.0  # the others end without work
JOB = 4 * units.MiB  # fetched with one request, at most
LONGEST_AHEAD = 32 * units.MiB
PATIENCE_S = 5.0  # of who opens a layer, with a registry that fails
TICK_S = 5.0

_Kind = errors.RegistryFailure
_Priority = schedule.Priority

# What of a request's bytes is given to the readers while the others come: little to who waits, and
# much of what is read ahead, for the kernel keeps in large pages what is written in large pieces.
PARTS = {_Priority.READ: 64 * units.KiB, _Priority.AHEAD: 512 * units.KiB}

# What is the server's fault and not the blob's: others need not ask it either.
_OF_THE_HOST = (_Kind.CONNECT, _Kind.DNS, _Kind.TIMEOUT, _Kind.THROTTLED, _Kind.SERVER, _Kind.TLS)


class Refill:
    """start() it once, stop() it when no image is open any more."""

    def __init__(
        self,
        kept: store.Store,
        longest_pause_s: float = schedule.LONGEST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = kept
        self._clock = clock
        self._unit = kept.unit
        self._schedule = schedule.Schedule(longest_pause_s)
        self._streams: Dict[int, readahead.Streams] = {}  # by an entry's number
        self._lock = threading.Lock()
        self._quiet = threading.Condition(self._lock)
        self._threads: List[threading.Thread] = []
        self._stopped = False
        self._limit = rates.RateLimit()
        self.counters = counters.Counters()

    def start(self) -> None:
        with self._lock:
            for _ in range(SPARE):
                self._start_thread()

    def stop(self) -> None:
        """Joins all threads. Every source is closed: nothing under way takes long."""
        with self._lock:
            self._stopped = True
            threads = list(self._threads)
        self._store.misses.stop()  # now: who waits there looks whether it is over
        for thread in threads:
            thread.join()

    def busy(self) -> bool:
        """Somebody waits for something: whoever only fetches for later stands back."""
        with self._lock:
            return self._schedule.reads() > 0

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until nobody waits; False when that took too long."""
        with self._lock:
            return self._quiet.wait_for(lambda: not self._schedule.reads(), timeout_s)

    def want(self, one: entry.Entry, offset: int, count: int, reader: int) -> None:
        """Fetches a range as if it had been missed, for who knows what will be read first."""
        self._want(one, offset, count, _Priority.READ, reader)

    def want_ahead(self, one: entry.Entry, offset: int, count: int) -> bool:
        """Fetches a range nobody waits for; False: so much of that is waiting, come again."""
        with self._lock:
            if not self._schedule.takes_ahead():
                return False
        self._want(one, offset, count, _Priority.AHEAD, 0)
        return True

    def _want(
        self,
        one: entry.Entry,
        offset: int,
        count: int,
        priority: schedule.Priority,
        reader: int,
    ) -> None:
        """For who does not look at the schedule itself."""
        self._add(one, *self._units_of(offset, count), priority, reader)
        with self._lock:
            self._call_threads()

    def _units_of(self, offset: int, count: int) -> Tuple[int, int]:
        """(first, stop)"""
        return offset // self._unit, -(-(offset + count) // self._unit)

    def forget(self, one: entry.Entry) -> None:
        """The entry has no source any more: what is not under way is dropped."""
        with self._lock:
            dropped = self._schedule.drop(one)
            self._streams.pop(one.number, None)
        for job in dropped:
            self._store.give_back(job.one)

    # -- misses

    def _wait(self, wait_s: float) -> bool:
        """For misses, which are put into the schedule; False when that took so long."""
        try:
            misses = self._store.misses.next(int(wait_s * 1000) + 1)
        except EOFError:
            return True  # stop() has said so to everybody
        for number, miss in enumerate(misses or ()):
            if number == 1:  # this thread has something to do before it looks
                with self._lock:
                    self._call_threads()
            try:
                self._missed(miss)
            except Exception:  # a bug: the others' readers wait all the same
                log.exception("miss lost file=%d offset=%d", miss.file, miss.offset)
        self._store.tick()
        return misses is not None

    def _missed(self, miss: cachefile.Miss) -> None:
        one = self._store.hold_number(miss.file)
        if one is None:
            return
        try:
            if one.sources.is_empty():
                return
            first, stop = self._units_of(miss.offset, miss.count)
            read = miss.kind == cachefile.MissKind.READ
            if read:
                self._add(one, first, stop, _Priority.READ, miss.reader)
            with self._lock:
                streams = self._streams_of(one)
                ahead = streams.missed(first, stop) if read else streams.reached(first)
            if ahead is not None:
                self._add(one, ahead.start, ahead.stop, _Priority.AHEAD, miss.reader)
                one.file.mark(ahead.mark * self._unit)
        finally:
            self._store.give_back(one)

    def _streams_of(self, one: entry.Entry) -> readahead.Streams:
        if one.number not in self._streams:
            longest = LONGEST_AHEAD // self._unit
            self._streams[one.number] = readahead.Streams(-(-one.size // self._unit), longest)
        return self._streams[one.number]

    def _add(
        self, one: entry.Entry, first: int, stop: int, priority: schedule.Priority, reader: int
    ) -> None:
        """Jobs for the units nobody fetches yet."""
        # What is waited for comes in the smallest pieces, side by side; the rest in large ones.
        longest = 1 if stop - first <= 4 and priority is _Priority.READ else JOB // self._unit
        with self._lock:
            if one.sources.is_empty():
                return
            unit = first
            while unit < stop:
                known = self._schedule.find(one, unit)
                if known is not None:
                    if priority is _Priority.READ:
                        self._schedule.promote(known, reader)
                    unit += 1
                    continue
                end = self._schedule.end_of_gap(one, unit, min(stop, unit + max(longest, 1)))
                job = schedule.Job(one, unit, end, priority, reader, one.sources.host)
                if self._schedule.add(job):
                    self._store.hold_again(one)
                unit = end

    # -- threads

    def _start_thread(self) -> None:
        """_lock is held."""
        thread = threading.Thread(target=self._fetch_jobs, name="fetch")
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more: then those there are do it
            log.warning("no further thread count=%d error=%s", len(self._threads), error)
            return
        self._threads.append(thread)

    def _call_threads(self) -> None:
        """
        One more of them if there is something to do, or nobody waits for misses; who takes a job
        calls the next. _lock is held.
        """
        misses = self._store.misses
        if misses.takers() and not self._schedule.is_ready(self._clock()):
            return
        if not misses.call() and len(self._threads) < THREADS and not self._stopped:
            self._start_thread()

    def _fetch_jobs(self) -> None:
        buffer = memoryview(mmap.mmap(-1, max(PARTS.values())))  # no memory until it is used
        while True:
            try:
                job = self._next_job()
            except Exception:  # a bug, but not the end of the thread
                log.exception("fetching goes on")
                continue
            if job is None:
                return
            try:
                self._fetch(job, buffer)
            except errors.RegistryError as error:
                self._failed(job, error)
            except Exception as error:  # no memory, or a bug: whoever waits is not forgotten
                log.exception("fetch failed digest=%s", job.one.digest)
                self._failed(job, errors.RegistryError(_Kind.SERVER, str(error)))
            else:
                self._done(job)

    def _next_job(self) -> Optional[schedule.Job]:
        """Waits for one, and for misses meanwhile; None: this thread may go."""
        rested_s = 0.0
        while True:
            with self._lock:
                if self._stopped or (rested_s >= IDLE_S and self._leave()):
                    return None
                now = self._clock()
                due = list(self._schedule.due(now))
                job = None if due else self._schedule.take(now)
                if job is not None:
                    self._call_threads()
                    return job
                next_s = self._schedule.next_s(now)
            for paused in due:
                self._settle(paused)
            if not due:
                wait_s = TICK_S if next_s is None else min(TICK_S, next_s)
                rested_s = 0.0 if self._wait(wait_s) else rested_s + wait_s

    def _leave(self) -> bool:
        """This thread goes, unless it is one of those that are kept. _lock is held."""
        if len(self._threads) <= SPARE:
            return False
        self._threads.remove(threading.current_thread())
        return True

    def _fetch(self, job: schedule.Job, buffer: memoryview) -> None:
        one = job.one
        offset = job.first * self._unit
        count = min(job.stop * self._unit, one.size) - offset
        one.recover(offset, count)
        for start, missing in one.gaps(offset, count):
            self._fetch_gap(one, buffer, start, start + missing, job.priority)

    def _fetch_gap(
        self,
        one: entry.Entry,
        buffer: memoryview,
        start: int,
        end: int,
        priority: schedule.Priority,
    ) -> None:
        buffer = buffer[: PARTS[priority]]
        while start < end:
            part = buffer[: end - start]
            if not one.borrow(part, start):
                break
            self._store.fill(one, part, start)
            start += len(part)
        else:
            return
        into = sink.Sink(self._store, one, buffer, start, end - start)
        with self.counters.fetching(priority.name.lower(), one, end - start):
            try:
                one.sources.read(start, end - start, one.size, into)
            except errors.RegistryError:
                one.file.unexpect(start, end - start)
                raise

    def _done(self, job: schedule.Job) -> None:
        with self._lock:
            self._schedule.done(job)
            self._ended()
        self._settle(job)
        self._store.trim()

    def _ended(self) -> None:
        """A place has become free; _lock is held."""
        if self._schedule.waits():
            self._call_threads()
        if not self._schedule.reads():
            self._quiet.notify_all()

    def _settle(self, job: schedule.Job) -> None:
        """Its readers have what they wanted, or ask again."""
        offset = job.first * self._unit
        job.one.file.settle(offset, min(job.stop * self._unit, job.one.size) - offset)
        self._store.give_back(job.one)

    def _failed(self, job: schedule.Job, error: errors.RegistryError) -> None:
        one = job.one
        self.counters.failed(error.kind)
        offset = job.first * self._unit
        count = min(job.stop * self._unit, one.size) - offset
        allowed, _ = self._limit.allow(one.digest)
        if allowed and error.kind is not _Kind.CLOSED:
            text = "fetch failed digest=%s offset=%d count=%d failures=%d error=%s"
            log.warning(text, one.digest, offset, count, one.sources.failures, error)
        # Whose source was closed under this request said nothing about those who have come since.
        spared = error.kind is _Kind.CLOSED and not one.sources.is_empty()
        final = not error.temporary or one.sources.impatient(self._clock(), PATIENCE_S)
        if final and not spared:
            one.file.refuse(offset, count, error.errno)
        with self._lock:
            failures = max(one.sources.failures, 1)
            least_s = error.retry_after_s or 0.0
            blame = error.kind in _OF_THE_HOST
            self._schedule.failed(job, self._clock(), least_s, failures, blame)
            self._ended()
        if one.sources.is_empty():
            self.forget(one)
