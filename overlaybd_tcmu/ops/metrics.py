# SPDX-License-Identifier: Apache-2.0
"""
Metrics for Prometheus: what the core has counted, read when somebody asks.

The first five have the original's names, its misspelling included, so that what was built on them
goes on. Histograms are of the whole node: a device has only sums, so 200 devices stay a few
thousand lines. Counters of devices that are gone stay in the node's.
"""

import re
import socket
from typing import Any, Callable, Iterable, Iterator, List, Tuple

import prometheus_client
from prometheus_client import core, exposition

from .. import __version__
from ..cache import counters
from ..ffi import latency, native
from ..tcmu import device, handler, usage
from . import cache_metrics, documents, message, sampler

Family = core.Metric

DEVICE = ("device", "image")


class Collector:
    """Called by the registry for each scrape; keeps nothing."""

    def __init__(
        self,
        survey: Callable[[], handler.Survey],
        cache: Callable[[], counters.Report],
        rates: sampler.Sampler,
    ) -> None:
        self._survey = survey
        self._cache = cache
        self._rates = rates
        self._node = socket.gethostname()

    def collect(self) -> Iterator[Family]:
        survey = self._survey()
        yield from self._original(survey)
        report = self._cache()
        yield from _node(survey, report)
        yield from cache_metrics.node(report)
        yield from _devices(survey.devices)
        yield from cache_metrics.devices(survey.devices)

    def _original(self, survey: handler.Survey) -> Iterator[Family]:
        """Rates are means over updateInterval, the latency is the longest in it."""
        window = self._rates.window(survey)
        names = ("node", "type", "mode")
        asked_s, got_s = window.read_latency.quantile_s(1), window.fetch_latency.quantile_s(1)
        for name, text, asked, got in (
            ("Read_Throughtput", "Bytes / sec", window.read_bytes, window.fetched_bytes),
            ("QPS", "requests / sec", window.reads, window.fetches),
            ("MaxLatency", "us", asked_s * 1e6, got_s * 1e6),
        ):
            family = core.GaugeMetricFamily("OverlayBD_" + name, text, labels=names)
            per_s = 1.0 if name == "MaxLatency" else window.elapsed_s
            family.add_metric([self._node, "pread", ""], asked / per_s)
            family.add_metric([self._node, "download", ""], got / per_s)
            yield family
        family = core.GaugeMetricFamily("OverlayBD_Count", "Bytes", labels=names[:2])
        family.add_metric([self._node, "pread"], survey.total().image.read_bytes)
        family.add_metric([self._node, "download"], window.fetched_total)
        yield family
        family = core.GaugeMetricFamily("OverlayBD_Alive", "1 while it runs", labels=names[:1])
        family.add_metric([self._node], 1)
        yield family


# ---- the node


def _node(survey: handler.Survey, cache: counters.Report) -> Iterator[Family]:
    info = core.GaugeMetricFamily("overlaybd_build_info", "Always 1", labels=("version", "core"))
    info.add_metric([__version__, native.build_info()], 1)
    yield info
    states = core.GaugeMetricFamily("overlaybd_devices", "Devices by state", labels=("state",))
    for state in ("opening", "serving", "failed", "closed"):
        states.add_metric([state], sum(one.state == state for one in survey.devices))
    yield states
    total = survey.total()
    yield _errors(total, survey.open_failures)
    yield _histogram(
        "overlaybd_request_duration_seconds",
        "From a command taken to it answered",
        "kind",
        [(one.name, took) for one, took in zip(latency.Kind, total.kinds)],
    )
    yield _histogram(
        "overlaybd_stage_duration_seconds",
        "queue: until a thread takes up what waits for the disk; lookup: finding the layer, one"
        f" search in {latency.SAMPLED[latency.Stage.LOOKUP]}; cache: reads of the cache's files"
        " that waited for their disk; disk: the same, of other layers; wait: for bytes that were"
        " not here; fetch: a registry's answer to one request for them; decode: one block in"
        f" {latency.SAMPLED[latency.Stage.DECODE]}",
        "stage",
        [(one.name, took) for one, took in zip(latency.Stage, total.stages)]
        + [("fetch", cache.fetched.took)],
    )


def _errors(total: usage.Usage, open_failures: int) -> Family:
    family = core.CounterMetricFamily("overlaybd_errors", "Failures by kind", labels=("kind",))
    family.add_metric(["read"], total.tcmu.read_errors)
    family.add_metric(["change"], total.tcmu.change_errors)
    family.add_metric(["rejected"], total.tcmu.rejected)
    family.add_metric(["open"], open_failures)
    return family


def _histogram(name: str, text: str, label: str, values: Iterable[Tuple[str, Any]]) -> Family:
    family = core.HistogramMetricFamily(name, text, labels=(label,))
    for which, took in values:
        buckets, seen = [], 0
        for number, count in enumerate(took.buckets):
            seen += count
            last = number == len(took.buckets) - 1
            buckets.append(("+Inf" if last else repr(latency.bound_s(number)), seen))
        family.add_metric([which.lower()], buckets, took.total_ns / 1e9)
    return family


# ---- each device

# (name, text, what of the report); names of counters end in _total on the wire.
COUNTERS: Tuple[Tuple[str, str, Callable[[usage.Usage], int]], ...] = (
    ("reads", "Reads", lambda used: used.image.reads),
    ("read_bytes", "Bytes read", lambda used: used.image.read_bytes),
    ("hole_bytes", "Of these, never written: zeros", lambda used: used.image.zero_bytes),
    ("writes", "Writes", lambda used: used.image.writes),
    ("write_bytes", "Bytes written", lambda used: used.image.write_bytes),
    ("discards", "Discards", lambda used: used.image.discards),
    ("flushes", "Flushes", lambda used: used.image.flushes),
    ("read_errors", "Reads that failed", lambda used: used.tcmu.read_errors),
    (
        "change_errors",
        "Writes, discards and flushes that failed",
        lambda used: used.tcmu.change_errors,
    ),
    (
        "local_bytes",
        "Bytes read from local layer files",
        lambda used: used.image.disk_bytes + used.image.in_place_bytes - used.image.cache_bytes,
    ),
    (
        "cache_bytes",
        "Bytes read from layers that are fetched as they are read",
        lambda used: used.image.cache_bytes,
    ),
    ("cache_reads", "Reads of those", lambda used: used.image.cache_reads),
    (
        "cache_misses",
        "Pieces of reads that waited for a registry",
        lambda used: used.image.misses,
    ),
    ("local_hits", "Reads of layer files that found the page cache", lambda used: used.image.hits),
    (
        "local_waits",
        "Reads of layer files that waited for the disk",
        lambda used: used.image.blocked,
    ),
    ("slow_reads", "Of these, 10 ms and more", lambda used: used.image.slow_reads),
    ("decoded_blocks", "ZFile blocks decoded", lambda used: used.image.blocks_decoded),
    ("decoded_hits", "ZFile blocks found decoded", lambda used: used.image.block_hits),
)


def _oldest_s(one: device.Report) -> float:
    return one.pending[0].age_ns / 1e9 if one.pending else 0.0


GAUGES: Tuple[Tuple[str, str, Callable[[device.Report], float]], ...] = (
    ("inflight", "Commands that are not answered", lambda one: one.usage.tcmu.inflight),
    ("oldest_inflight_seconds", "How long the oldest of them waits", _oldest_s),
    ("hung", f"Of these, waiting for {sampler.HUNG_S:g} s and more", sampler.hung),
    ("threads", "Helper threads alive", lambda one: one.usage.image.threads),
    (
        "index_memory_bytes",
        "Held for the merged index",
        lambda one: one.info.memory if one.info else 0,
    ),
    ("size_bytes", "Of the disk", lambda one: one.info.virtual_size if one.info else 0),
)


def _devices(devices: List[device.Report]) -> Iterator[Family]:
    for name, text, count in COUNTERS:
        family = core.CounterMetricFamily("overlaybd_device_" + name, text, labels=DEVICE)
        for one in devices:
            family.add_metric([one.uio, one.path], count(one.usage))
        yield family
    for name, text, value in GAUGES:
        gauge = core.GaugeMetricFamily("overlaybd_device_" + name, text, labels=DEVICE)
        for one in devices:
            gauge.add_metric([one.uio, one.path], value(one))
        yield gauge
    yield _hit_ratio(devices)
    yield _device_latency(devices)


def _hit_ratio(devices: List[device.Report]) -> Family:
    text = "Reads of layer files that did not wait, of all; absent before the first"
    family = core.GaugeMetricFamily("overlaybd_device_hit_ratio", text, labels=DEVICE)
    for one in devices:
        ratio = documents.hit_ratio(one.usage.image)
        if ratio is not None:
            family.add_metric([one.uio, one.path], ratio)
    return family


def _device_latency(devices: List[device.Report]) -> Family:
    text = "From a command taken to it answered"
    name = "overlaybd_device_request_duration_seconds"
    family = core.SummaryMetricFamily(name, text, labels=(*DEVICE, "kind"))
    for one in devices:
        for kind, took in zip(latency.Kind, one.usage.kinds):
            labels = [one.uio, one.path, kind.name.lower()]
            family.add_metric(labels, took.count, took.total_ns / 1e9)
    return family


# ---- the exporter


class Exporter:
    """The route of a server: any path that begins with prefix."""

    def __init__(self, collector: Collector, prefix: str) -> None:
        self._prefix = prefix
        self._registry = prometheus_client.CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        prometheus_client.ProcessCollector(registry=self._registry)

    def route(self, request: message.Request) -> message.Answer:
        if not request.path.startswith(self._prefix):
            raise message.Refusal(404, f"{request.path}: metrics are at {self._prefix}")
        message.allow(request, "GET")
        encode, kind = exposition.choose_encoder(_plain(request.accept))
        return message.Answer(encode(self._registry), kind=kind)


def _plain(accept: str) -> str:
    """
    OpenMetrics or text, nothing a client might make up; of OpenMetrics the version that every
    release of the library speaks.
    """
    wants = re.search(r"application/openmetrics-text", accept)
    return "application/openmetrics-text; version=1.0.0" if wants else "text/plain"
