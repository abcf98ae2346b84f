# SPDX-License-Identifier: Apache-2.0
"""
Images that only a registry has, measured against a registry of our own with a set delay, in a
process of its own on loopback, beside a bare C client that fetches the same ranges.

    first     one 4 KiB read of a unit that is not here: ms, beside one request of the client; idle
              CPUs poll meanwhile, where the kernel has /dev/cpu_dma_latency
    stream    the whole layer from its beginning, cold: MB/s, beside the client over as many
              connections as ours had, which drops the bytes
    kept      the same, beside the client that keeps them in a sparse file, as a cache has to
    hit       what is cached, in thousand reads a second, beside a local file with the same layer
    random    64 readers all over the image: units fetched, beside units there are

What would void the numbers: the registry is Python, and at no delay it is most of what is measured,
on both sides alike.
"""

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import random
import statistics
import struct
import tempfile
import urllib.parse
from typing import Any, Dict, Iterator, List, Tuple

from overlaybd_tcmu import config
from overlaybd_tcmu.cache import service
from overlaybd_tcmu.ffi import core, native
from overlaybd_tcmu.image import config as image_config
from overlaybd_tcmu.image import opener, remote
from overlaybd_tcmu.registry import blob
from overlaybd_tcmu.units import KiB, MiB

from ..support import fault_registry
from . import probe

DELAYS_MS = (0, 5, 50)
LAYER = 128 * MiB
READERS = 64


@dataclasses.dataclass(frozen=True)
class Lazy:
    """One row. ours and limit in the unit that belongs to `what`; the ratio as a gain is read."""

    what: str
    delay_ms: int
    ours: float
    limit: float
    ratio: float


def rows(disk: probe.Disk, pace: probe.Pace) -> Iterator[Lazy]:
    """Measures one after another."""
    wire = load()
    data = layer(disk, min(LAYER, pace.disk_size))
    with fault_registry.in_process() as registry:
        digest = registry.put(data)
        for delay_ms in DELAYS_MS:
            registry.delay(delay_ms / 1000)
            yield _first(wire, registry, digest, data, delay_ms, pace)
            yield from _stream(wire, registry, digest, data, delay_ms, pace)
        registry.delay(0)
        yield from _hits(wire, registry, digest, data, pace)
        yield _random(registry, digest, data)


class Service:
    """A cache of its own, as the daemon has it; empty at first."""

    def __init__(self, registry: Any, lowers: List[Tuple[str, int]]) -> None:
        """lowers: digests and sizes."""
        self._folder = tempfile.TemporaryDirectory(dir=probe.BUILD)
        settings = {"cacheConfig": {"cacheType": "file", "cacheDir": self._folder.name}}
        one = config.parse("bench", {**settings, "credentialConfig": {"mode": "file"}})[0]
        self._registry = blob.Registry(one)
        self.cache = service.Cache(one, self._registry)
        self.cache.start()
        document = {
            "repoBlobUrl": registry.repo_url(),
            "lowers": [{"digest": digest, "size": size} for digest, size in lowers],
        }
        self._remote = remote.Remote(one, self.cache)
        self._config = image_config.parse("bench", document)
        self.image = self.open()

    def open(self) -> native.Image:
        """The image once more; the caller's."""
        return opener.open_image(self._config, remote=self._remote)

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.image.close()
        self.cache.stop()
        self._registry.close()
        self._folder.cleanup()


def load() -> Any:
    """What wire.c has."""
    library = ctypes.CDLL(str(probe.BUILD / "wire.so"))
    for name in ("obd_bench_fetch", "obd_bench_reads"):
        getattr(library, name).restype = ctypes.c_double
    return library


def layer(disk: probe.Disk, size: int) -> bytes:
    """A plain layer, in which an offset of the disk is one of the blob."""
    with open(disk.data, "rb") as file:
        data = file.read(size)
    magic = bytes.fromhex("4c534d5400010200657e63d29444084ca2d2c8ec4fcfae8a")
    step = 8192
    sectors = range(0, size // 512, step)
    index = b"".join(
        struct.pack("<QQ", at | min(step, size // 512 - at) << 50, at + 8) for at in sectors
    )

    def record(flags: int) -> bytes:
        fields = struct.pack("<IIQQQ", 390, flags, 4096 + size, len(index) // 16, size)
        return (magic + fields).ljust(4096, b"\0")

    return record(7) + data + index + record(6)


def words(values: List[int]) -> Any:
    """As C wants them."""
    return (ctypes.c_uint64 * len(values))(*values)


def _fetch(
    wire: Any, registry: Any, digest: str, ranges: List[Tuple[int, int]], many: int, file: int = -1
) -> float:
    url = urllib.parse.urlsplit(registry.repo_url())
    offsets, counts = words([one[0] for one in ranges]), words([one[1] for one in ranges])
    path = f"{url.path}/{digest}".encode()
    seconds: float = wire.obd_bench_fetch(url.port, path, offsets, counts, len(ranges), many, file)
    if seconds <= 0:
        raise probe.ProbeError("the bare client failed")
    return seconds


def _read(
    wire: Any, image: native.Image, count: int, offsets: List[int], cpu: bool = False
) -> float:
    """Seconds; cpu: of CPU time, which other programs on the machine do not change."""
    pread = ctypes.cast(core.library().image_pread, ctypes.c_void_p)
    address = ctypes.c_void_p(image.address)
    seconds: float = wire.obd_bench_reads(
        pread, address, ctypes.c_size_t(count), words(offsets), ctypes.c_size_t(len(offsets)), cpu
    )
    if seconds <= 0:
        raise probe.ProbeError("a read failed")
    return seconds


@contextlib.contextmanager
def _cpus_awake() -> Iterator[None]:
    """To wake a virtual CPU up takes its host a good part of what is measured here."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file = stack.enter_context(open("/dev/cpu_dma_latency", "wb", buffering=0))
            file.write(struct.pack("=i", 0))
        yield


def _first(
    wire: Any, registry: Any, digest: str, layer: bytes, delay_ms: int, pace: probe.Pace
) -> Lazy:
    unit = 256 * KiB
    units = list(range(8, len(layer) // unit - 8, 2))
    random.Random(1).shuffle(units)
    ours, limit = [], []
    with Service(registry, [(digest, len(layer))]) as lazily, _cpus_awake():
        for number in units[: 12 * pace.rounds]:
            ours.append(_read(wire, lazily.image, 4096, [number * unit]) * 1000)
            limit.append(_fetch(wire, registry, digest, [(number * unit, unit)], 1) * 1000)
    mine, bare = statistics.median(ours), statistics.median(limit)
    return Lazy("first", delay_ms, mine, bare, mine - delay_ms)


def _stream(
    wire: Any, registry: Any, digest: str, layer: bytes, delay_ms: int, pace: probe.Pace
) -> Iterator[Lazy]:
    size = len(layer) - len(layer) % MiB - MiB
    ours: List[float] = []
    limits: Dict[str, List[float]] = {"stream": [], "kept": []}
    for _ in range(2 * pace.rounds):
        with Service(registry, [(digest, len(layer))]) as lazily:
            registry.clear()
            seconds = _read(wire, lazily.image, 128 * KiB, list(range(0, size, 128 * KiB)))
            ranges = [one for one in registry.ranges(digest) if one[1] > 1]
            asked = [one for one in registry.requests("blob") if one.range and one.range[1] > 1]
            many = len({one.connection for one in asked})
        ours.append(size / seconds / 1e6)
        fetched = sum(count for _, count in ranges)
        bare = _fetch(wire, registry, digest, ranges, many)
        limits["stream"].append(fetched / bare / 1e6)
        with tempfile.TemporaryFile(dir=probe.BUILD) as file:
            file.truncate(len(layer))
            kept = _fetch(wire, registry, digest, ranges, many, file.fileno())
        limits["kept"].append(fetched / kept / 1e6)
    for what, limit in limits.items():
        ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, limit))
        yield Lazy(what, delay_ms, statistics.median(ours), statistics.median(limit), ratio)


def _hits(wire: Any, registry: Any, digest: str, layer: bytes, pace: probe.Pace) -> Iterator[Lazy]:
    size = len(layer) // MiB * MiB - MiB
    rng = random.Random(2)
    accesses = {
        "hit, random 4 KiB": (4096, [rng.randrange(size // 4096) * 4096 for _ in range(20000)]),
        "hit, 128 KiB": (128 * KiB, list(range(0, size, 128 * KiB))),
    }
    with Service(registry, [(digest, len(layer))]) as lazily, tempfile.NamedTemporaryFile(
        dir=probe.BUILD
    ) as local:
        for offset in range(0, len(layer), 256 * KiB):  # as cp and containerd write it
            local.write(layer[offset : offset + 256 * KiB])
            local.flush()
        _read(wire, lazily.image, MiB, list(range(0, size, MiB)))
        with native.Image([native.Layer.open(local.name)], helpers=opener.helpers()) as image:
            for what, (count, offsets) in accesses.items():
                yield _hit(wire, what, count, offsets, lazily.image, image, pace)


def _hit(
    wire: Any,
    what: str,
    count: int,
    offsets: List[int],
    cached: native.Image,
    local: native.Image,
    pace: probe.Pace,
) -> Lazy:
    sides: Dict[bool, List[float]] = {True: [], False: []}
    for number in range(4 * pace.rounds):
        # In turns: whoever comes second finds the CPU's caches warmer.
        for is_ours in (number % 2 == 0, number % 2 == 1):
            image = cached if is_ours else local
            seconds = _read(wire, image, count, offsets, cpu=True)
            sides[is_ours].append(len(offsets) / seconds / 1e3)
    ours, limit = sides[True], sides[False]
    ratios = [mine / theirs for mine, theirs in zip(ours, limit)]
    return Lazy(
        what, 0, statistics.median(ours), statistics.median(limit), statistics.median(ratios)
    )


def _random(registry: Any, digest: str, layer: bytes) -> Lazy:
    """ours: units asked for; limit: units there are among them."""
    size, seen = len(layer) - 2 * MiB, []  # type: int, List[int]
    with Service(registry, [(digest, len(layer))]) as lazily:
        registry.clear()

        def read(number: int) -> None:
            rng, buffer = random.Random(number), bytearray(4096)
            for _ in range(40):
                lazily.image.pread_into(buffer, rng.randrange(size))

        with concurrent.futures.ThreadPoolExecutor(READERS) as executor:
            list(executor.map(read, range(READERS)))
        for offset, count in registry.ranges(digest):
            seen += range(offset // (256 * KiB), (offset + count - 1) // (256 * KiB) + 1)
    return Lazy("random", 0, float(len(seen)), float(len(set(seen))), len(seen) / len(set(seen)))


def show(row: Dict[str, Any]) -> str:
    """A line for who watches."""
    return (
        f"lazy {row['what']:<20} delay {row['delay_ms']:>3} ms {row['ours']:>12,.2f}  "
        f"limit {row['limit']:>12,.2f} {row['ratio']:6.2f}"
    )
