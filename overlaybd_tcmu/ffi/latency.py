# SPDX-License-Identifier: Apache-2.0
"""
How long things took, as the core counts it: in powers of two, and which commands still wait.

The core adds while these functions read, and never waits for them.
"""

import ctypes
import dataclasses
import enum
from typing import List, Tuple

from . import core, native


class Stage(enum.IntEnum):
    """enum obd_stage: where the time of requests goes that are not simply answered."""

    QUEUE = 0
    LOOKUP = 1
    CACHE = 2
    DISK = 3
    WAIT = 4
    DECODE = 5


# Of these stages one in so many is timed; of the others all.
SAMPLED = {Stage.LOOKUP: 64, Stage.DECODE: 64}


class Kind(enum.IntEnum):
    """enum obd_tcmu_kind: what a submitted command does."""

    READ = 0
    WRITE = 1
    DISCARD = 2
    FLUSH = 3


@dataclasses.dataclass(frozen=True)
class Latency:
    """
    struct obd_latency. buckets[i] counts what took less than bound_s(i), and at least half of that
    unless i is 0; the last one everything longer.
    """

    total_ns: int
    buckets: Tuple[int, ...]

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def quantile_s(self, share: float) -> float:
        """
        A bound in seconds below which that share of all lies; 0 when there are none. For the last
        bucket, which has none, its lower one.
        """
        wanted, seen = share * self.count, 0
        for bucket, number in enumerate(self.buckets):
            seen += number
            if number and seen >= wanted:
                return bound_s(min(bucket, len(self.buckets) - 2))
        return 0.0

    def __add__(self, other: "Latency") -> "Latency":
        pairs = zip(self.buckets, other.buckets)
        return Latency(self.total_ns + other.total_ns, tuple(a + b for a, b in pairs))

    def __sub__(self, earlier: "Latency") -> "Latency":
        pairs = zip(self.buckets, earlier.buckets)
        return Latency(self.total_ns - earlier.total_ns, tuple(a - b for a, b in pairs))


NONE = Latency(0, (0,) * core.LATENCY_BUCKETS)


def bucket_of(took_ns: int) -> int:
    """The one that counts such a duration; as latency.h has it."""
    return min((took_ns >> 10).bit_length(), core.LATENCY_BUCKETS - 1)


def bound_s(bucket: int) -> float:
    """What every duration in a bucket is shorter than, in seconds; the last one has none."""
    return float((1024 << bucket) / 1e9)


@dataclasses.dataclass(frozen=True)
class Pending:
    """struct obd_tcmu_pending: a command that was taken and is not answered; bytes."""

    age_ns: int
    offset: int
    count: int
    kind: int


def of_stage(image: native.Image, stage: int) -> Latency:
    """What a Stage took since the image was opened."""
    struct = core.Latency()
    core.library().image_latency(image.address, stage, ctypes.byref(struct))
    return Latency(struct.total_ns, tuple(struct.buckets))


def of_kind(tcmu: native.Tcmu, kind: int) -> Latency:
    """From commands of a Kind taken to them answered."""
    struct = core.Latency()
    core.library().tcmu_latency(tcmu.address, kind, ctypes.byref(struct))
    return Latency(struct.total_ns, tuple(struct.buckets))


def pending(tcmu: native.Tcmu, most: int = 1024) -> List[Pending]:
    """Commands that are not answered, longest waiting first."""
    structs = (core.TcmuPending * most)()
    count = core.library().tcmu_pending(tcmu.address, structs, most)
    found = [Pending(one.age_ns, one.offset, one.count, one.kind) for one in structs[:count]]
    return sorted(found, key=lambda one: one.age_ns, reverse=True)
