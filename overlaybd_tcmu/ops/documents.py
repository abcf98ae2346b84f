# SPDX-License-Identifier: Apache-2.0
"""What the API says of devices, as JSON documents; docs/api.schema.json describes them."""

import dataclasses
import time
from typing import Any, Dict, Optional

from .. import __version__
from ..cache import counters
from ..ffi import latency, native
from ..tcmu import device, handler, usage
from . import sampler

Document = Dict[str, Any]


def hit_ratio(image: native.ImageStats) -> Optional[float]:
    """Which share of the reads of layer files did not wait for the disk; None: there were none."""
    reads = image.hits + image.blocked
    return image.hits / reads if reads else None


def health(survey: handler.Survey, started_at: float) -> Document:
    """degraded says what is wrong; a restart does not mend any of it."""
    states: Dict[str, int] = {}
    for one in survey.devices:
        states[one.state] = states.get(one.state, 0) + 1
    hung = sum(sampler.hung(one) for one in survey.devices)
    reasons = []
    if hung:
        reasons.append(f"{hung} commands hang")
    if states.get("failed"):
        reasons.append(f"{states['failed']} devices could not be taken over yet")
    if states.get("closed"):
        reasons.append(f"{states['closed']} devices are not served any more")
    return {
        "status": "degraded" if reasons else "ok",
        "reasons": reasons,
        "version": __version__,
        "core": native.build_info(),
        "uptime_s": round(time.monotonic() - started_at, 3),
        "devices": states,
        "open_failures": survey.open_failures,
        "hung": hung,
    }


def summary(report: device.Report) -> Document:
    """A device as a row of a table."""
    image, tcmu = report.usage.image, report.usage.tcmu
    reads = report.usage.kinds[latency.Kind.READ]
    ratio = hit_ratio(image)
    return {
        "name": report.uio,
        "id": report.device_id,
        "config": report.path,
        "state": report.state,
        "error": report.error,
        "opened_at": report.opened_at,
        "size": report.info.virtual_size if report.info else 0,
        "layers": report.info.layers if report.info else 0,
        "writable": bool(report.info and report.info.writable),
        "memory": report.info.memory if report.info else 0,
        "reads": image.reads,
        "read_bytes": image.read_bytes,
        "writes": image.writes,
        "write_bytes": image.write_bytes,
        "errors": tcmu.read_errors + tcmu.change_errors,
        "inflight": tcmu.inflight,
        "oldest_s": report.pending[0].age_ns / 1e9 if report.pending else 0,
        "hung": sampler.hung(report),
        "present_bytes": report.remote.present if report.remote else 0,
        "remote_bytes": report.remote.size if report.remote else 0,
        "hit_ratio": None if ratio is None else round(ratio, 6),
        "read_mean_s": reads.total_ns / 1e9 / reads.count if reads.count else 0,
        "read_p50_s": reads.quantile_s(0.5),
        "read_p99_s": reads.quantile_s(0.99),
    }


def detail(report: device.Report) -> Document:
    """A device with everything that is counted."""
    used = report.usage
    return {
        **summary(report),
        "image": dataclasses.asdict(report.info) if report.info else None,
        "counters": dataclasses.asdict(used.image),
        "commands": dataclasses.asdict(used.tcmu),
        "latency": _named(latency.Kind, used.kinds),
        "stages": _stages(used),
        "remote": dataclasses.asdict(report.remote) if report.remote else None,
        "bounds_s": [latency.bound_s(number) for number in range(len(latency.NONE.buckets) - 1)],
        "pending": [
            {
                "kind": latency.Kind(one.kind).name.lower(),
                "offset": one.offset,
                "count": one.count,
                "age_s": one.age_ns / 1e9,
            }
            for one in report.pending
        ],
    }


def cache(report: counters.Report) -> Document:
    """Of the cache, without its blobs."""
    fetched = report.fetched
    return {
        **dataclasses.asdict(report),
        "fetched": {
            "requests": fetched.requests,
            "bytes": fetched.bytes,
            "failures": fetched.failures,
            "took": _latency(fetched.took),
        },
    }


def _named(names: Any, values: Any) -> Document:
    return {name.name.lower(): _latency(value) for name, value in zip(names, values)}


def _stages(used: usage.Usage) -> Document:
    """sampled: one in so many was timed, so times are those of a sample."""
    found = _named(latency.Stage, used.stages)
    for stage in latency.Stage:
        found[stage.name.lower()]["sampled"] = latency.SAMPLED.get(stage, 1)
    return found


def _latency(value: latency.Latency) -> Document:
    return {
        "count": value.count,
        "total_s": value.total_ns / 1e9,
        "p50_s": value.quantile_s(0.5),
        "p90_s": value.quantile_s(0.9),
        "p99_s": value.quantile_s(0.99),
        "max_s": value.quantile_s(1),
        "buckets": list(value.buckets),
    }
