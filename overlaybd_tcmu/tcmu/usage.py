# SPDX-License-Identifier: Apache-2.0
"""What a device, or all of them together, have done so far: the core's counters at one moment."""

import dataclasses
from typing import Tuple, TypeVar

from ..ffi import latency, native

_Record = TypeVar("_Record", native.ImageStats, native.TcmuStats)


def _add(one: _Record, other: _Record) -> _Record:
    names = [field.name for field in dataclasses.fields(one)]
    return type(one)(**{name: getattr(one, name) + getattr(other, name) for name in names})


@dataclasses.dataclass(frozen=True)
class Usage:
    """kinds are by latency.Kind, stages by latency.Stage."""

    image: native.ImageStats
    tcmu: native.TcmuStats
    kinds: Tuple[latency.Latency, ...]
    stages: Tuple[latency.Latency, ...]

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            _add(self.image, other.image),
            _add(self.tcmu, other.tcmu),
            tuple(a + b for a, b in zip(self.kinds, other.kinds)),
            tuple(a + b for a, b in zip(self.stages, other.stages)),
        )


def of(image: native.Image, tcmu: native.Tcmu) -> Usage:
    """Both stay open meanwhile: the caller sees to that."""
    return Usage(
        image.stats(),
        tcmu.stats(),
        tuple(latency.of_kind(tcmu, kind) for kind in latency.Kind),
        tuple(latency.of_stage(image, stage) for stage in latency.Stage),
    )


NONE = Usage(
    native.ImageStats(*[0] * len(dataclasses.fields(native.ImageStats))),
    native.TcmuStats(*[0] * len(dataclasses.fields(native.TcmuStats))),
    (latency.NONE,) * len(latency.Kind),
    (latency.NONE,) * len(latency.Stage),
)


def finished(last: Usage) -> Usage:
    """The counters of a device that is closed: nothing of it goes on."""
    return dataclasses.replace(
        last,
        image=dataclasses.replace(last.image, threads=0, inflight_max=0),
        tcmu=dataclasses.replace(last.tcmu, inflight=0),
    )
