# SPDX-License-Identifier: Apache-2.0
"""
Layers that are only in a registry: opened through the cache, and given back with their image.

Whoever opens images with such layers hands a Remote around; without one they are refused.
"""

import functools
import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple

from .. import config, errors
from ..cache import counters, outage
from ..ffi import cachefile, native
from ..registry import url
from . import config as image_config
from . import local

if TYPE_CHECKING:
    from ..cache import service
    from ..download import downloader

log = logging.getLogger("image.remote")


class LazyImage(native.Image):
    """An image some of whose layers are fetched as they are read; gives them back when closed."""

    def __init__(
        self,
        layers: Sequence[native.Layer],
        remote: "Remote",
        leases: "List[service.Lease]",
        **more: Any,
    ) -> None:
        self._leases: "List[service.Lease]" = []  # the caller's until we exist
        self.download: "Optional[downloader.Downloader]" = None
        super().__init__(layers, **more)
        self._leases = leases
        self._remote = remote

    def reason(self) -> str:
        """What the registry said last, of any layer."""
        failures = [lease.one.sources.last_error for lease in self._leases]
        return str(next((one for one in failures if one is not None), "no answer yet"))

    def report(self) -> local.Report:
        """What of it is here; the caller sees to it that the image stays open."""
        moved = self.download.progress() if self.download is not None else None
        waiting, _ = cachefile.parked(self)
        download = local.Download(*moved) if moved is not None else None
        return local.Report(local.layers(self._leases), waiting, download)

    def maps(self, parts: int) -> Tuple[local.Map, ...]:
        """As report(), each layer in so many parts."""
        return local.maps(self._leases, parts)

    def prefetch(self) -> int:
        """Begins to fetch what is missing; bytes."""
        missing = 0
        for lease in self._leases:
            missing += lease.one.size - lease.one.present()
            self._remote.cache.prefetch.want(lease.one)
        return missing

    def _destroy(self, address: int) -> None:
        if self.download is not None:
            self.download.stop()
        self._remote.cache.watch.remove(address)
        super()._destroy(address)
        for lease in self._leases:
            lease.close()


class Opening:
    """The remote layers of one image while it is opened; whoever does not finish it closes it."""

    def __init__(
        self,
        remote: Optional["Remote"],  # None: remote layers cannot be had
        image: image_config.ImageConfig,
        stop: Optional[threading.Event] = None,
        lean: native.Lean = native.Lean.NOT,
    ) -> None:
        """lean: what the layers will be, local ones too."""
        self.lean = lean
        self._remote = remote
        self._image = image
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._leases: "Dict[int, service.Lease]" = {}  # by the layer's number

    def open_layer(self, number: int, lower: image_config.LowerConfig) -> native.Layer:
        """ImageError in the words users know."""
        place = blob_url(self._image.repo_blob_url, lower.digest)
        try:
            if self._remote is None:
                cause = "there is nothing to fetch it with"
                raise errors.RegistryError(errors.RegistryFailure.CONFIG, cause)
            lease = self._remote.cache.lease(
                self._image.repo_blob_url, lower.digest, lower.size, self._stop
            )
            with self._lock:
                self._leases[number] = lease
            return lease.open_layer(self.lean)
        except errors.RegistryError as error:
            raise errors.ImageError(f"failed to open remote file /{place}", str(error)) from error
        except errors.NativeError as error:
            raise errors.ImageError(f"failed to open layer {number}", str(error)) from error

    def give_up(self) -> None:
        """Whoever waits for a registry waits no longer."""
        self._stop.set()

    def image(self, layers: Sequence[native.Layer], **more: Any) -> native.Image:
        """The image of all layers; takes the leases over."""
        if self._remote is None or not self._leases:
            return native.Image(layers, **more)
        leases, remote = self._leases, self._remote
        image = LazyImage(layers, remote, list(leases.values()), **more)
        self._leases = {}
        policy = remote.outage_policy(self._image)
        remote.cache.watch.add(image, self._image.path, policy, image.reason)
        image.download = self._downloader(remote, leases)
        if image.download is not None:
            image.download.start()
        return image

    def _downloader(
        self, remote: "Remote", leases: "Dict[int, service.Lease]"
    ) -> "Optional[downloader.Downloader]":
        settings = remote.download_settings(self._image)
        if not settings.enable or remote.short_lived:
            return None
        from ..download import downloader  # here for the reason Remote._start() has

        repository = self._image.repo_blob_url
        wanted = [
            downloader.Layer(
                leases[number],
                lower.dir,
                functools.partial(remote.cache.remote, repository, lower.digest, lower.size),
            )
            for number, lower in enumerate(self._image.data_lowers)
            if number in leases and lower.dir
        ]
        if not wanted:
            return None
        made = downloader.Downloader(wanted, remote.cache, settings, self._image.path)
        if not self._image.has_download:
            remote.follow(made)
        return made

    def close(self) -> None:
        for lease in self._leases.values():
            lease.close()
        self._leases = {}


class Remote:
    """
    What opening a remote layer takes: the cache and the registry, made and started by the first
    layer that needs them. A host whose images are all local has neither.
    """

    def __init__(
        self,
        service_config: config.ServiceConfig,
        cache: "Optional[service.Cache]" = None,
        path: str = "",
        short_lived: bool = False,
    ) -> None:
        """
        cache: one that is running, and stays the caller's. path: of the service configuration,
        whose `download` counts as it is when a device starts. short_lived: for who downloads
        nothing in the background, and leaves the cache to a daemon.
        """
        self._service = service_config
        self.short_lived = short_lived
        self._path = path
        self._lock = threading.Lock()
        self._cache = cache
        self._stop: Callable[[], None] = lambda: None
        self._stopped = False
        self._downloads: "weakref.WeakSet[downloader.Downloader]" = weakref.WeakSet()

    @property
    def cache(self) -> "service.Cache":
        """RegistryError when the configuration makes no sense."""
        with self._lock:
            if self._cache is None:
                self._cache = self._start()
            return self._cache

    @property
    def running(self) -> "Optional[service.Cache]":
        """The cache, if any layer has needed it yet."""
        with self._lock:
            return self._cache

    def report(self) -> counters.Report:
        """Of the cache, for machines."""
        cache = self.running
        return counters.NO_CACHE if cache is None else cache.report()

    def follow(self, download: "downloader.Downloader") -> None:
        """It has the service's rate, whatever that will be."""
        with self._lock:
            self._downloads.add(download)

    def reload(self, service_config: config.ServiceConfig) -> None:
        """
        Another configuration: the cache's size, credentials and the rate of downloads act at once,
        what is asked for each image from its next opening on.
        """
        with self._lock:
            self._service = service_config
            for download in self._downloads:
                download.set_rate(service_config.download.max_mbps)
            if self._cache is not None and not self._stopped:
                self._cache.reload(service_config)

    def stop(self) -> None:
        """Every image is closed."""
        with self._lock:
            self._stopped = True
            self._stop()

    def outage_policy(self, image: image_config.ImageConfig) -> outage.Policy:
        """The image's own, else the service's."""
        mode = image.on_outage or self._service.outage.on_outage
        return outage.Policy(self._service.outage.deadline_s if mode == "eio" else None)

    def download_settings(self, image: image_config.ImageConfig) -> config.DownloadConfig:
        """The image's own, else the service's, as its file says now."""
        if image.has_download or not self._path:
            return image.download if image.has_download else self._service.download
        try:
            return config.load(self._path)[0].download
        except errors.ConfigError as error:
            log.warning("download settings stay as they were error=%s", error)
            return self._service.download

    def _start(self) -> "service.Cache":
        # Here: they bring urllib3 along, 60 ms and 8 MB that local images need not pay.
        from ..cache import service
        from ..registry import blob

        registry = blob.Registry(self._service)
        cache = service.Cache(self._service, registry, private=self.short_lived)
        cache.start()

        def stop() -> None:
            cache.stop()
            registry.close()

        self._stop = stop
        return cache


def blob_url(repository: str, digest: str) -> str:
    """Where a blob is, as the original names it in its messages; but no password, no query."""
    place = url.stripped(repository)
    return place + ("" if place.endswith("/") else "/") + digest
