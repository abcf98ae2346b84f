# SPDX-License-Identifier: Apache-2.0
"""
The cache as its users see it: leases of blobs, for layers that are fetched as they are read.

    cache = Cache(service_config, registry); cache.start()
    with cache.lease(repo_blob_url, digest, size) as lease:
        layer = lease.open_layer()
        ... until the image is closed
    cache.stop()
"""

import concurrent.futures
import dataclasses
import logging
import threading
import time
from types import TracebackType
from typing import List, Optional, Type

from .. import config, errors, units
from ..ffi import cachefile, native
from ..registry import blob, retry
from . import control, counters, entry, folder, outage, prefetch, refill, schedule, sources, store

log = logging.getLogger("cache.service")

OPEN_S = 30.0  # a layer that is not open by then fails
LOOK_S = 0.1  # how late it is noticed that nobody wants a layer any more
UNIT_MAX = 4 * units.MiB
# The end of a blob is its index: fetched at once with its beginning, as both are read to open it.
TAIL_SHARE = 256  # of its size
TAIL_MAX = 4 * units.MiB

_Kind = errors.RegistryFailure


@dataclasses.dataclass(frozen=True)
class Blob:
    """What a cache has of one blob, in bytes."""

    digest: str
    size: int
    used: int  # on disk
    pinned: bool
    open: bool  # some image has it


class Cache:
    """One for the whole process: what is kept, what is fetched, and who waits for it."""

    def __init__(
        self, service: config.ServiceConfig, registry: blob.Registry, private: bool = False
    ) -> None:
        """private: for a program that is gone soon, and must not keep the cache from a daemon."""
        self._registry = registry
        settings = service.cache
        # A power of two already, unless cacheType is one of those that never asked for it.
        unit = min(max(settings.refill_size, cachefile.GRANULE), UNIT_MAX)
        unit = 1 << (unit.bit_length() - 1)
        self.store = store.Store(settings.dir, settings.size_gb * units.GiB, unit, private=private)
        # Who fails reads after a while must notice before that when the registry is back.
        pause_s = min(schedule.LONGEST_S, service.outage.deadline_s / 4)
        self.refill = refill.Refill(self.store, pause_s)
        self.prefetch = prefetch.Prefetch(self.store, self.refill)
        self.watch = outage.Watch()
        self._control: Optional[control.Server] = None
        self._trimming: List[threading.Thread] = []

    def start(self) -> None:
        self.refill.start()
        self.watch.start()
        place = self.store.folder
        if place is not None and not place.is_private:
            try:
                self._control = control.Server(self.store, place.path)
                self._control.start()
                self.store.renewed = self._renew_control
            except OSError as error:
                log.warning("overlaybd-cache cannot ask us error=%s", error)

    def _renew_control(self) -> None:
        try:
            if self._control is not None:
                self._control.renew()
        except OSError as error:
            log.warning("overlaybd-cache cannot ask us any more error=%s", error)

    def stop(self) -> None:
        """Every lease has been closed."""
        if self._control is not None:
            self._control.stop()
        self.watch.stop()
        self.prefetch.stop()
        for thread in self._trimming:
            thread.join()
        self.refill.stop()
        self.store.close()

    def reload(self, service: config.ServiceConfig) -> None:
        """Its size and the credentials."""
        self._registry.reload(service)
        if self.store.room is not None:
            self.store.room.resize(service.cache.size_gb * units.GiB)
            # It may be much, and who asks has other things to do.
            self._trimming = [one for one in self._trimming if one.is_alive()]
            self._trimming.append(threading.Thread(target=self.store.trim, name="trim"))
            self._trimming[-1].start()

    def report(self) -> counters.Report:
        """Counts what is counted, and looks at nothing else."""
        room = self.store.room
        return counters.Report(
            self.store.folder.path if self.store.folder else "",
            room.capacity if room else 0,
            room.used() if room else 0,
            self.store.in_memory(),
            len(self.store.pinned()),
            self.store.misses.parked(),
            room.evicted if room else 0,
            self.refill.counters.read(),
        )

    @staticmethod
    def is_digest(text: str) -> bool:
        """Whether a blob could have that name."""
        return folder.is_digest(text)

    def blobs(self) -> List[Blob]:
        """All of which something is here."""
        found = [self.known(digest) for digest in self.store.digests()]
        return [one for one in found if one is not None]

    def known(self, digest: str) -> Optional[Blob]:
        """What is here of one blob; None: nothing."""
        size = self.store.size_of(digest)
        if size is None:
            return None
        used = self.store.room.used_by(digest) if self.store.room else 0
        one = self.store.hold(digest)
        if one is not None:
            self.store.give_back(one)
        return Blob(digest, size, used, digest in self.store.pinned(), one is not None)

    def remote(self, repository: str, digest: str, size: int) -> blob.RemoteBlob:
        """The blob of a registry, for who reads all of it; to be closed."""
        return self._registry.blob(repository, digest, size)

    def lease(
        self,
        repository: str,
        digest: str,
        size: int,
        stop: Optional[threading.Event] = None,
    ) -> "Lease":
        """
        The blob, for as long as the lease lasts. size: bytes, 0 when the image does not say.
        RegistryError when it cannot be had; a blob this repository gave us before needs no network.
        """
        if not folder.is_digest(digest):
            raise errors.RegistryError(_Kind.CONFIG, f"digest {digest!r} is none")
        remote = self._registry.blob(repository, digest, size)
        source = sources.Source(remote, repository)
        try:
            known = size or self.store.size_of(digest) or _open(source, stop or threading.Event())
            one = self.store.open(digest, known)
        except BaseException:
            remote.close()
            raise
        lease = Lease(self, one, source, stop or threading.Event())
        try:
            lease.confirm()
        except BaseException:
            lease.close()
            raise
        return lease


class Lease:
    """One user's hold on a blob. Close it after the layers opened from it."""

    def __init__(
        self, cache: Cache, one: entry.Entry, source: sources.Source, stop: threading.Event
    ) -> None:
        self.one = one
        self._cache = cache
        self._stop = stop
        self._closed = False
        mine = one.sources.add(source)
        if mine is not source:
            source.remote.close()
        self.source = mine

    def confirm(self) -> None:
        """
        A blob that is here already is shown only to who may have it: a repository that has not
        given it to us yet is asked.
        """
        if self.one.knows(self.source.repository):
            return
        told = _open(self.source, self._stop)
        if told != self.one.size:
            cause = f"the registry has {told} bytes, {self.one.size} were expected"
            raise errors.RegistryError(_Kind.PROTOCOL, f"{self.one.digest}: {cause}")
        self.one.learn(self.source.repository)

    def open_layer(self, lean: native.Lean = native.Lean.NOT) -> native.Layer:
        """
        A layer that reads through the cache. RegistryError when the registry is why it cannot be
        opened, NativeError when its content is. What turns out to be damaged is fetched again once.
        """
        try:
            return self._open_layer(lean)
        except errors.NativeError as error:
            if self.one.whole:
                raise
            log.warning("layer damaged, fetched again digest=%s error=%s", self.one.digest, error)
        self.one.discard()
        return self._open_layer(lean)

    def _open_layer(self, lean: native.Lean) -> native.Layer:
        opened = time.monotonic()
        one = self.one
        one.sources.begin_opening(self, opened)
        try:
            self._prefetch()
            opened_from = one.file.blob(int(OPEN_S * 1000))
            with self._cache.watch.opening(opened_from, self._stop):
                return native.Layer(opened_from, lean)
        except errors.NativeError as error:
            failure = one.sources.last_error
            given_up = (_Kind.TIMEOUT.code, _Kind.CLOSED.code)
            if failure is not None and error.code in (failure.errno, *given_up):
                raise failure.copy() from error
            if error.code in given_up:
                cause = f"{one.digest}: no answer within {time.monotonic() - opened:.0f} s"
                raise errors.RegistryError(_Kind.TIMEOUT, cause) from error
            raise
        finally:
            one.sources.end_opening(self)

    def _prefetch(self) -> None:
        unit, size = self._cache.store.unit, self.one.size
        tail = min(max(size // TAIL_SHARE, 1), TAIL_MAX)
        for offset, count in ((0, min(unit, size)), (size - tail, tail)):
            if self.one.gap(offset - offset % unit, min(count, size)) is not None:
                self._cache.refill.want(self.one, offset, count, id(self))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self.one.sources.remove(self.source):
            self._cache.refill.forget(self.one)
        self._cache.store.give_back(self.one)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


def _open(source: sources.Source, stop: threading.Event) -> int:
    """
    The blob's size, from a registry that is given a little time to recover. RegistryError at once
    when stop is set: the source may be others' too, so whoever asks is left alone, and ends at the
    latest when the source is closed.
    """
    answer: "concurrent.futures.Future[int]" = concurrent.futures.Future()

    def ask() -> None:
        try:
            policy = retry.Policy(give_up_after_s=refill.PATIENCE_S)
            answer.set_result(retry.call(source.open, policy, stop))
        except BaseException as error:  # told to who waits
            answer.set_exception(error)

    threading.Thread(target=ask, name="ask").start()
    while True:
        concurrent.futures.wait([answer], timeout=LOOK_S)
        if answer.done():
            return answer.result()
        if stop.is_set():
            cause = f"{source.repository}: not wanted any more"
            raise errors.RegistryError(_Kind.CLOSED, cause)
