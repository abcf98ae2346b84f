# SPDX-License-Identifier: Apache-2.0
"""
One device: its image, its front end, and the thread that serves it.

    opening --image open--> serving --stop()--> closed
       |  ^                    `----ENODEV----> closed   (the kernel took it away)
       v  | back-off
     failed    only for a device that was live before this process: see Device.adopt()

The thread makes one call into the core and stays there; Python runs in it only before and after.
Whatever the device holds is closed by that thread, so nothing is open once stop() has joined it.

Lock `_lock` guards `_tcmu`, so that stop() never reaches a front end that is being destroyed. It is
held for moments, never across the opening; of other locks only the cache's are taken under it. Lock
`_operating` is held while a snapshot is taken or the disk grows, which waits for the disk under it:
by that, and by the closing that must not come in between. `_lock` may be taken under it.
"""

import contextlib
import dataclasses
import errno
import logging
import select
import threading
import time
from typing import Callable, Iterator, List, Optional, Tuple

from .. import errors, units
from ..ffi import latency, libtcmu, native
from ..image import local, remote
from . import kernel, snapshot, usage

log = logging.getLogger("tcmu.device")

OpenImage = Callable[[], native.Image]

# A failed adoption is repeated after 1 s, 2 s, ... 60 s, for as long as the device exists.
RETRY_FIRST_S = 1.0
RETRY_LONGEST_S = 60.0

# No fabric sends more in one command (tcm_loop: 1 MiB), and the kernel sizes its requests by it.
LARGEST_TRANSFER = 4 * units.MiB

# What the kernel sets when nobody said anything; it enforces nothing by it for TCMU.
DEFAULT_HW_MAX_SECTORS = 128


@dataclasses.dataclass(frozen=True)
class Report:
    """A device at one moment. info is None until its image has been opened."""

    uio: str
    device_id: str
    path: str  # of its config
    state: str
    error: str  # why it is not served, "" when it is
    opened_at: float  # seconds since 1970; 0: not yet
    info: Optional[native.ImageInfo]
    usage: usage.Usage
    pending: List[latency.Pending]  # longest waiting first
    remote: Optional[local.Report]  # None: no layer of it is fetched as it is read


class Device:
    """start() or adopt() once, then stop() once; any state may end by itself in between."""

    def __init__(
        self,
        handle: libtcmu.Device,
        name: str,
        open_image: OpenImage,
        path: str = "",
        device_id: str = "",
    ) -> None:
        self.name = name  # the configuration string
        self.path = path  # the image's config that it names
        self.device_id = device_id
        self.state = "opening"
        self._error = ""
        self._opened_at = 0.0
        self._info: Optional[native.ImageInfo] = None
        self._block_size = 0  # bytes; 0: not opened yet
        self._usage = usage.NONE  # of what is closed
        self._handle = handle
        self._open_image = open_image
        self.uio = handle.uio_name()
        self._lock = threading.Lock()
        self._image: Optional[native.Image] = None
        self._tcmu: Optional[native.Tcmu] = None
        self._operating = threading.Lock()
        self.stopping = threading.Event()  # set: whoever opens its image gives up
        self.settled = threading.Event()  # set: its image was opened, or could not be
        self._thread = threading.Thread(target=self._run, name=self.uio)

    def start(self) -> None:
        """Opens the image and serves it, or raises and leaves nothing behind."""
        self._open()
        self.settled.set()
        self._thread.start()

    def adopt(self) -> None:
        """
        As start() for a device that was live before us, but its thread opens the image, and it
        never fails for good: libtcmu offers it only once, so a refusal would leave its readers
        hanging until the next restart. They wait until `settled`, at least.
        """
        self._thread.start()

    def cancel(self) -> None:
        """Whoever opens its image gives up."""
        self.stopping.set()

    def is_gone(self) -> bool:
        """Whether the kernel has taken the device away, whoever has been told of it."""
        poll = select.poll()
        poll.register(self._handle.fd(), 0)
        return bool(poll.poll(0))

    def stop(self) -> None:
        """Ends the serving and joins the thread; everything is closed then."""
        self.cancel()
        with self._lock:
            if self._image is not None:
                self._image.cancel(errno.ECANCELED)  # what waits for a registry waits no more
            if self._tcmu is not None:
                self._tcmu.stop()
        if self._thread.ident is not None:  # else it was never to open its image
            self._thread.join()

    def describe(self) -> str:
        """One line for whoever looks for what hangs."""
        text = f"name={self.name} uio={self.uio} state={self.state}"
        with self._lock:
            if self._tcmu is not None:
                stats = self._tcmu.stats()
                text += f" commands={stats.commands} inflight={stats.inflight}"
        return text

    def report(self) -> Report:
        """For machines; delays neither the device nor what is being done to it."""
        with self._lock:
            used, waiting, fetched = self._usage, [], None
            if self._tcmu is not None and self._image is not None:
                used = usage.of(self._image, self._tcmu)
                waiting = latency.pending(self._tcmu)
            if isinstance(self._image, remote.LazyImage):
                fetched = self._image.report()
            return Report(
                self.uio,
                self.device_id,
                self.path,
                self.state,
                self._error,
                self._opened_at,
                self._info,
                used,
                waiting,
                fetched,
            )

    def maps(self, parts: int) -> Tuple[local.Map, ...]:
        """What is here of its remote layers, the lowest first; none when all are local."""
        with self._lock:
            image = self._image
            return image.maps(parts) if isinstance(image, remote.LazyImage) else ()

    def prefetch(self) -> int:
        """Begins to fetch what is missing of it; bytes."""
        with self._lock:
            image = self._image
            return image.prefetch() if isinstance(image, remote.LazyImage) else 0

    def snapshot(self, next_path: str) -> None:
        """Goes on with the config at next_path: see snapshot.take()."""
        with self._operating_on() as image:
            snapshot.take(image, self.path, next_path)

    def grow(self, size: int) -> None:
        """
        The disk has so many bytes from now on; who has it open learns of it with the next command.
        ValueError for what is no number of its blocks; else as Image.grow().
        """
        with self._operating_on() as image:
            before = image.info().virtual_size
            if size % self._block_size:
                raise ValueError(f"size: {size} is not a multiple of {self._block_size}")
            image.grow(size)
            self._handle.set_geometry(self._block_size, size // self._block_size)
            log.info("dev resized name=%s size=%d before=%d", self.name, size, before)

    @contextlib.contextmanager
    def _operating_on(self) -> Iterator[native.Image]:
        """The image, not to be closed meanwhile; what is said of it may be different afterwards."""
        with self._operating:
            with self._lock:
                image = self._image
            if image is None:
                raise errors.ImageError("device is not served", self.state)
            yield image
            info = image.info()
            with self._lock:
                self._info = info

    def _open(self) -> None:
        started = time.monotonic()
        image = self._open_image()
        try:
            tcmu = native.Tcmu(image, self._options(image))
        except BaseException:
            image.close()
            raise
        info = image.info()
        with self._lock:
            self._image, self._tcmu, self._info = image, tcmu, info
            self.state, self._error, self._opened_at = "serving", "", time.time()
            if self.stopping.is_set():  # stop() came before there was anything to stop
                tcmu.stop()
        log.info(
            "dev opened name=%s uio=%s size=%d layers=%d segments=%d memory=%d elapsed_ms=%.1f",
            self.name,
            self.uio,
            info.virtual_size,
            info.layers,
            info.segments,
            info.memory,
            (time.monotonic() - started) * 1000,
        )

    def _options(self, image: native.Image) -> native.TcmuOptions:
        block_size = self._block_size = self._handle.attribute("hw_block_size")
        mapping = self._handle.mapping()
        self._handle.set_geometry(block_size, image.info().virtual_size // block_size)
        return native.TcmuOptions(
            uio_fd=self._handle.fd(),
            map=mapping.address,
            map_size=mapping.size,
            block_size=block_size,
            max_transfer=max_transfer(
                mapping.data_size, block_size, self._handle.attribute("hw_max_sectors")
            ),
            serial_path=kernel.serial_path(self.uio),
            cfgstring=self.name,
        )

    def _run(self) -> None:
        try:
            if self._tcmu is None and not self._open_at_last():
                return
            assert self._tcmu is not None
            self._tcmu.run()
        except errors.NativeError as error:
            if error.code == errno.ENODEV:
                log.info("device is gone name=%s", self.name)
            else:
                self._error = str(error)
                log.error("device is not served any more name=%s error=%s", self.name, error)
        except Exception:  # the thread's top
            log.exception("device thread failed name=%s", self.name)
        finally:
            self._close()

    def _open_at_last(self) -> bool:
        """Repeats the opening until it works (True) or the device is stopped (False)."""
        delay_s = RETRY_FIRST_S
        while not self.stopping.is_set():
            try:
                self._open()
                return True
            except (errors.Error, OSError) as error:
                self._tell_failure(error, delay_s)
            finally:
                self.settled.set()
            self.stopping.wait(delay_s)
            delay_s = min(2 * delay_s, RETRY_LONGEST_S)
        return False

    def _tell_failure(self, error: Exception, next_s: float) -> None:
        self._error = str(error)
        text = "adoption failed again name=%s next_s=%.0f error=%s"
        if not self.settled.is_set():
            self.state = "failed"
            text = "adoption failed, will be repeated name=%s next_s=%.0f error=%s"
        log.warning(text, self.name, next_s, error)

    def _close(self) -> None:
        with self._operating:
            self._close_now()

    def _close_now(self) -> None:
        with self._lock:
            if self._tcmu is not None and self._image is not None:
                self._usage = usage.finished(usage.of(self._image, self._tcmu))
            tcmu, self._tcmu = self._tcmu, None
            image, self._image = self._image, None
            self.state = "closed"
        if tcmu is not None:
            tcmu.close()
        if image is not None:
            image.close()
        log.info("dev closed name=%s", self.name)


def max_transfer(data_size: int, block_size: int, hw_max_sectors: int) -> int:
    """
    Bytes one command may carry. The kernel fails a command larger than the data area with INVALID
    FIELD IN CDB, so that is the limit; hw_max_sectors counts only where somebody set it.
    """
    limit = min(data_size, LARGEST_TRANSFER)
    if hw_max_sectors > 0 and hw_max_sectors != DEFAULT_HW_MAX_SECTORS:
        limit = min(limit, hw_max_sectors * block_size)
    return max(limit // block_size, 1) * block_size
