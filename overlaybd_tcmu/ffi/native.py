# SPDX-License-Identifier: Apache-2.0
"""
The native core as Python sees it: a class for each handle of native/obd.h, a record for each struct
it fills.

A handle belongs to whoever created it: close() it, or leave its `with` block; closing twice is
harmless, use after close raises ValueError. Handing a handle on (a Blob to a Layer, Layers to an
Image) empties it. Any thread may use a handle, but nobody may close it while another thread is
inside a call: that is the owner's business, as in C.
"""

import ctypes
import dataclasses
import enum
import os
from ctypes import c_char, c_uint64, c_void_p
from typing import Any, Optional, Sequence, Tuple

from . import core, handle, layer, upper

Handle = handle.Handle
Blob = layer.Blob
Layer = layer.Layer
LayerInfo = layer.LayerInfo
Lean = layer.Lean
Upper = upper.Upper
UpperInfo = upper.UpperInfo
create_upper = upper.create_upper


class Engine(enum.IntEnum):
    """How layer files are read; the numbers are those of ioEngine in the service config."""

    PSYNC = 0
    LIBAIO = 1
    POSIX_AIO = 2


class EventKind(enum.IntEnum):
    READ_ERROR = 1
    SLOW_READ = 2
    DEVICE = 3
    WRITE_ERROR = 4


def build_info() -> str:
    """Which versions of the kernels the core chose for this CPU."""
    return str(core.library().build_info().decode())


# ---- records: what the structs say, as Python values


@dataclasses.dataclass(frozen=True)
class Event:
    """struct obd_event: something the data plane has to say."""

    kind: int
    code: int
    offset: int
    count: int
    latency_us: int
    dropped: int
    image: str
    text: str


@dataclasses.dataclass(frozen=True)
class ImageInfo:
    """struct obd_image_info; sizes in bytes."""

    virtual_size: int
    segments: int
    mapped: int
    memory: int
    layers: int
    engine: int
    writable: int
    discard: int


@dataclasses.dataclass(frozen=True)
class ImageStats:
    """struct obd_image_stats: counters that only grow."""

    reads: int
    read_bytes: int
    zero_bytes: int
    errors: int
    inline_reads: int
    disk_reads: int
    disk_bytes: int
    hits: int
    blocked: int
    inflight_max: int
    blocks_decoded: int
    block_hits: int
    slow_reads: int
    in_place: int
    threads: int
    writes: int
    write_bytes: int
    discards: int
    flushes: int
    in_place_bytes: int
    cache_reads: int
    cache_bytes: int
    misses: int


@dataclasses.dataclass(frozen=True)
class TcmuStats:
    """struct obd_tcmu_stats: counters that only grow, and what is in flight now."""

    wakeups: int
    commands: int
    reads: int
    others: int
    rejected: int
    notifies: int
    inflight: int
    writes: int
    read_errors: int
    change_errors: int


# ---- handles


class Events(handle.Handle):
    """The bounded queue of what the data plane has to say. Outlives the images it was given to."""

    def __init__(self) -> None:
        super().__init__()
        ret = c_void_p()
        core.library().events_create(ctypes.byref(ret))
        self._address = ret.value

    def next(self, timeout_ms: int = -1) -> Optional[Event]:
        """The next event; None after timeout_ms; EOFError once stopped and drained."""
        event = core.Event()
        result = core.library().events_next(self.address, timeout_ms, ctypes.byref(event))
        if result < 0:
            raise EOFError("events stopped")
        return handle.record(Event, event) if result else None

    def stop(self) -> None:
        """Lets next() end once the queue is drained."""
        core.library().events_stop(self.address)

    def _destroy(self, address: int) -> None:
        core.library().events_destroy(address)


class Image(handle.Handle):
    """
    A stack of layers, lowest first, read as one disk, and written where it has an upper one; takes
    the layers over unless it raises.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        engine: int = Engine.PSYNC,
        helpers: int = 0,
        depth: int = 0,
        slow_read_us: int = 0,
        events: Optional[Events] = None,
        name: str = "",
        upper: Optional[Upper] = None,
    ) -> None:
        super().__init__()
        stack = (c_void_p * len(layers))(*(layer.address for layer in layers))
        options = core.ImageOptions(engine, helpers, depth, slow_read_us)
        ret = c_void_p()
        core.library().image_create(
            stack,
            len(layers),
            upper.address if upper else None,
            ctypes.byref(options),
            events.address if events else None,
            os.fsencode(name),
            ctypes.byref(ret),
            ctypes.byref(core.Error()),
        )
        for one in layers:
            one.release()
        if upper:
            upper.release()
        self._address = ret.value
        self._events = events  # must outlive us

    def info(self) -> ImageInfo:
        struct = core.ImageInfo()
        core.library().image_info(self.address, ctypes.byref(struct))
        return handle.record(ImageInfo, struct)

    def stats(self) -> ImageStats:
        struct = core.ImageStats()
        core.library().image_stats(self.address, ctypes.byref(struct))
        return handle.record(ImageStats, struct)

    def pread(self, count: int, offset: int) -> bytes:
        """count bytes at offset, for tests and small reads; see pread_into."""
        buffer = bytearray(count)
        return bytes(buffer[: self.pread_into(buffer, offset)])

    def pread_into(self, buffer: Any, offset: int) -> int:
        """Fills a writable buffer from offset; the bytes read."""
        if offset < 0:
            raise ValueError("negative offset")
        count = memoryview(buffer).nbytes
        memory = (c_char * count).from_buffer(buffer)
        return int(
            core.library().image_pread(self.address, ctypes.addressof(memory), count, offset)
        )

    def pwrite(self, data: Any, offset: int) -> int:
        """Writes a buffer of whole sectors; the bytes written."""
        if offset < 0:
            raise ValueError("negative offset")
        view = memoryview(data).cast("B")
        if view.readonly:
            view = memoryview(bytearray(view))
        memory = (c_char * view.nbytes).from_buffer(view)
        return int(
            core.library().image_pwrite(self.address, ctypes.addressof(memory), view.nbytes, offset)
        )

    def discard(self, offset: int, count: int) -> None:
        """The range, whole sectors, reads as zeros from now on."""
        core.library().image_discard(self.address, offset, count)

    def flush(self) -> None:
        """What was written before is on the disk when this returns."""
        core.library().image_flush(self.address)

    def snapshot(self, upper: Upper, config_from: str = "", config_to: str = "") -> None:
        """
        Seals the writable layer, which becomes the topmost read-only one, and goes on with a new
        upper, which is taken over unless this raises. In between config_from, if there is one, is
        renamed to config_to. Writes wait meanwhile.
        """
        core.library().image_snapshot(
            self.address,
            upper.address,
            os.fsencode(config_from) if config_from else None,
            os.fsencode(config_to) if config_from else None,
            ctypes.byref(core.Error()),
        )
        upper.release()

    def grow(self, virtual_size: int) -> None:
        """
        The disk is so many bytes from now on, and its writable layer says so, synced. NativeError:
        EROFS without one, EINVAL for what is no size, EPERM for less than it has.
        """
        core.library().image_grow(self.address, virtual_size, ctypes.byref(core.Error()))

    def cancel(self, error: int) -> None:
        """
        Requests that wait for missing bytes end with this errno, now and from now on; a front end
        leaves those with ECANCELED unanswered, for whoever serves the device next.
        """
        core.library().image_cancel(self.address, error)

    def advance(self) -> int:
        """
        Of an image that is gone through: makes what it knows of the disk the next part, and says
        where that ends; its size at last. Nobody reads it meanwhile.
        """
        end = c_uint64()
        core.library().image_advance(self.address, ctypes.byref(end), ctypes.byref(core.Error()))
        return end.value

    def next_data(self, offset: int) -> Optional[Tuple[int, int]]:
        """(start, end) of the next range from offset on that a layer has; None: holes only."""
        start, end = c_uint64(), c_uint64()
        found = core.library().image_next_data(
            self.address, offset, ctypes.byref(start), ctypes.byref(end)
        )
        return (start.value, end.value) if found else None

    def forget(self) -> None:
        """
        Unmaps what reads have mapped of the page cache, which counts as memory of this process. It
        happens within seconds anyway; whoever reads fast has many GiB by then.
        """
        core.library().image_forget(self.address)

    def _destroy(self, address: int) -> None:
        core.library().image_destroy(address)


@dataclasses.dataclass(frozen=True)
class TcmuOptions:
    """struct obd_tcmu_options: one device, as libtcmu opened it."""

    uio_fd: int  # stays libtcmu's
    map: int  # address of the shared mapping
    map_size: int  # bytes
    block_size: int  # bytes
    max_transfer: int = 0  # bytes a command may carry; 0 = no limit reported
    read_only: bool = False  # an image without a writable layer is anyway
    serial_path: Optional[str] = None
    cfgstring: str = ""


class Tcmu(handle.Handle):
    """The front end of one device; the image must outlive it."""

    def __init__(self, image: Image, options: TcmuOptions) -> None:
        super().__init__()
        struct = core.TcmuOptions(
            uio_fd=options.uio_fd,
            block_size=options.block_size,
            map=options.map,
            map_size=options.map_size,
            max_transfer=options.max_transfer,
            read_only=int(options.read_only),
            serial_path=(os.fsencode(options.serial_path) if options.serial_path else None),
            cfgstring=os.fsencode(options.cfgstring),
        )
        ret = c_void_p()
        core.library().tcmu_create(
            image.address,
            ctypes.byref(struct),
            ctypes.byref(ret),
            ctypes.byref(core.Error()),
        )
        self._address = ret.value
        self._keep = (image, struct)  # must outlive us

    def run(self) -> None:
        """Serves in C, without the GIL, until stop(); NativeError(ENODEV): the device is gone."""
        core.library().tcmu_run(self.address)

    def stop(self) -> None:
        """Makes run() return, from any thread."""
        core.library().tcmu_stop(self.address)

    def stats(self) -> TcmuStats:
        struct = core.TcmuStats()
        core.library().tcmu_stats(self.address, ctypes.byref(struct))
        return handle.record(TcmuStats, struct)

    def _destroy(self, address: int) -> None:
        core.library().tcmu_destroy(address)
