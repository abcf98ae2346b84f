# SPDX-License-Identifier: Apache-2.0
"""
Downloads the layers of one device, in the background, until it needs its registry no more.

    wait delay + 0..delayExtra --> each layer: .download --> overlaybd.commit --> readers switched
                                      |  ^ tryCnt attempts, with growing pauses
                                      v  |
                                   somebody else downloads it: wait for theirs

One thread a device, and never more than TRANSFERS of them at work at once: a registry sees little
of it, and fifty devices that start together get their turns. Everything ends at once when stop()
says so; what was fetched is found again next time. `_remote` is closed by stop() while it is used;
that is what it is for. `_lock` guards it, for moments.
"""

import contextlib
import logging
import os
import random
import threading
from typing import Callable, List, NamedTuple, Optional

from .. import config, errors, units
from ..cache import service
from ..registry import blob, retry
from . import bucket, partial, transfer

log = logging.getLogger("download.downloader")

TRANSFERS = 2
LOOK_S = 1.0  # how often somebody else's download is looked at
FIRST_S, LONGEST_S = 1.0, 60.0  # pauses between attempts
NICE = 10  # digests are computed when nobody else needs the CPU

_turns = threading.BoundedSemaphore(TRANSFERS)


class Layer(NamedTuple):
    """One layer to be downloaded, and how to get a blob of its own for that."""

    lease: service.Lease
    folder: str  # lowers[].dir
    remote: Callable[[], blob.RemoteBlob]


class Progress(NamedTuple):
    """Of a device's download, in bytes; state: waiting, downloading, done, failed, stopped."""

    state: str
    size: int
    done: int


class Downloader:
    """start() it once, stop() it before the leases are closed."""

    def __init__(
        self,
        layers: List[Layer],
        cache: service.Cache,
        settings: config.DownloadConfig,
        name: str,
        clock: retry.Clock = retry.CLOCK,
    ) -> None:
        self._layers = layers
        self._cache = cache
        self._settings = settings
        self._name = name
        self._clock = clock
        self._stop = threading.Event()
        self._limit = bucket.Bucket(settings.max_mbps * units.MiB, clock)
        self._lock = threading.Lock()
        self._remote: Optional[blob.RemoteBlob] = None
        self._state = "waiting"
        self._finished = 0  # bytes, of whole layers
        self._moved: Optional[transfer.Transfer] = None
        self._thread = threading.Thread(target=self._run, name="download")

    def start(self) -> None:
        self._thread.start()

    def set_rate(self, max_mbps: int) -> None:
        """MiB/s from now on; 0 or less: no limit."""
        self._limit.set_rate(max_mbps * units.MiB)

    def progress(self) -> Progress:
        """At any time; nothing waits for it."""
        moved = self._moved
        size = sum(layer.lease.one.size for layer in self._layers)
        return Progress(self._state, size, self._finished + (moved.done if moved else 0))

    def stop(self) -> None:
        """Joins the thread, whatever it is doing."""
        self._stop.set()
        with self._lock:
            if self._remote is not None:
                self._remote.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # of this thread alone, on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            self._download()
        except transfer.Stopped:
            self._state = "stopped"
            log.debug("download stopped image=%s", self._name)
        except Exception:  # the thread's top
            self._state = "failed"
            log.exception("download failed image=%s", self._name)

    def _download(self) -> None:
        settings = self._settings
        delay_s = settings.delay_s + random.uniform(0, settings.delay_extra_s)
        text = "background download image=%s layers=%d delay_s=%.0f maxMBps=%d tryCnt=%d"
        log.info(
            text, self._name, len(self._layers), delay_s, settings.max_mbps, settings.try_count
        )
        self._wait(delay_s)
        self._state, outcome = "downloading", "done"
        waiting = [(layer, 0) for layer in self._layers]
        while waiting:
            layer, failed = waiting.pop(0)
            if self._attempt(layer, failed + 1):
                self._finished += layer.lease.one.size
                continue
            if settings.try_count and failed + 1 >= settings.try_count:
                log.error("layer not downloaded digest=%s", layer.lease.one.digest)
                outcome = "failed"
                continue
            waiting.append((layer, failed + 1))
            whole_s = min(LONGEST_S, FIRST_S * 2.0 ** min(failed, 30))
            self._wait(random.uniform(whole_s / 2, whole_s))
        self._state = outcome
        log.info("background download over image=%s", self._name)

    def _attempt(self, layer: Layer, number: int) -> bool:
        """Whether the layer is here now."""
        one = layer.lease.one
        try:
            path = os.path.join(layer.folder, partial.COMMIT)
            while not os.path.exists(path):
                try:
                    with partial.Partial(
                        layer.folder, one.digest, one.size, self._cache.store
                    ) as target:
                        self._download_into(layer, target)
                except partial.Busy:
                    self._wait(LOOK_S)
            self._switch(layer, path)
            return True
        except (errors.Error, OSError) as error:
            self._check()
            if isinstance(error, errors.RegistryError):
                self._cache.refill.counters.failed(error.kind)
            log.warning("download failed digest=%s attempt=%d error=%s", one.digest, number, error)
            return False

    def _download_into(self, layer: Layer, target: partial.Partial) -> None:
        """All of the layer, up to its readers."""
        layer.lease.one.lend_from(target.lend)
        try:
            self._wait_for_turn()
            try:
                self._transfer(layer, target)
            finally:
                self._close()
                _turns.release()
            self._switch(layer, target.commit())
        finally:
            layer.lease.one.lend_from(None)

    def _transfer(self, layer: Layer, target: partial.Partial) -> None:
        cache, size = self._cache, self._settings.block_size
        means = transfer.Means(cache.store, cache.refill, self._limit, self._stop)
        moved = transfer.Transfer(layer.lease.one, self._open(layer), target, size, means)
        self._moved = moved
        try:
            moved.run()
        finally:
            self._moved = None
        text = "downloaded digest=%s size=%d fetched=%d"
        log.info(text, layer.lease.one.digest, layer.lease.one.size, moved.fetched)

    def _switch(self, layer: Layer, path: str) -> None:
        """Readers take it from the file from now on; harmless when they do already."""
        one = layer.lease.one
        if os.path.getsize(path) != one.size:
            # containerd unpacks a layer's tar into the same file; it counts at the next start.
            log.info("layer is local but not as a blob digest=%s path=%s", one.digest, path)
        elif not one.whole:
            self._cache.store.switch(one, path)
            log.info("layer is local now digest=%s path=%s", one.digest, path)

    def _open(self, layer: Layer) -> blob.RemoteBlob:
        remote = layer.remote()
        with self._lock:
            self._remote = remote
        self._check()  # stop() may have come before there was anything to close
        remote.open()
        return remote

    def _close(self) -> None:
        with self._lock:
            remote, self._remote = self._remote, None
        if remote is not None:
            remote.close()

    def _wait_for_turn(self) -> None:
        while not _turns.acquire(timeout=0.1):
            self._check()

    def _wait(self, seconds: float) -> None:
        if self._clock.wait(self._stop, seconds):
            raise transfer.Stopped()

    def _check(self) -> None:
        if self._stop.is_set():
            raise transfer.Stopped()
