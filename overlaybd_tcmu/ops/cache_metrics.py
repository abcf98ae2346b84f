# SPDX-License-Identifier: Apache-2.0
"""The metrics of what is fetched and kept: of the cache and of the devices that read through it."""

from typing import Callable, Iterator, List, Tuple

from prometheus_client import core

from ..cache import counters
from ..image import local
from ..tcmu import device

Family = core.Metric

DEVICE = ("device", "image")

GAUGES: Tuple[Tuple[str, str, Callable[[counters.Report], int]], ...] = (
    ("size_bytes", "What the cache may take", lambda one: one.size),
    ("used_bytes", "What it takes", lambda one: one.used),
    ("memory_bytes", "What its disk did not take", lambda one: one.memory),
    ("pinned_blobs", "Blobs that are never evicted", lambda one: one.pinned),
    ("waiting", "Reads that wait for a registry", lambda one: one.waiting),
)


def node(report: counters.Report) -> Iterator[Family]:
    """Of the cache, and of registries."""
    for name, text, value in GAUGES:
        gauge = core.GaugeMetricFamily("overlaybd_cache_" + name, text)
        gauge.add_metric([], value(report))
        yield gauge
    evicted = core.CounterMetricFamily("overlaybd_cache_evicted_bytes", "Bytes evicted")
    evicted.add_metric([], report.evicted)
    yield evicted
    fetched = report.fetched
    for name, text, values in (
        ("requests", "Requests for bytes, by purpose", fetched.requests),
        ("bytes", "Bytes they gave, by purpose", fetched.bytes),
    ):
        family = core.CounterMetricFamily("overlaybd_registry_" + name, text, labels=["purpose"])
        for purpose, count in values.items():
            family.add_metric([purpose], count)
        yield family
    text = "Requests that failed, by kind"
    failures = core.CounterMetricFamily("overlaybd_registry_errors", text, labels=["kind"])
    for kind, count in fetched.failures.items():
        failures.add_metric([kind], count)
    yield failures


REMOTE: Tuple[Tuple[str, str, Callable[[local.Report], int]], ...] = (
    ("remote_bytes", "Of its layers that are fetched as they are read", lambda one: one.size),
    ("present_bytes", "Of these, here", lambda one: one.present),
    ("waiting", "Requests that wait for a registry", lambda one: one.waiting),
)

STATES = ("waiting", "downloading", "done", "failed", "stopped")


def devices(found: List[device.Report]) -> Iterator[Family]:
    """Of those that have layers which are fetched as they are read."""
    lazy = [([one.uio, one.path], one.remote) for one in found if one.remote is not None]
    text = "Bytes registries gave for its blobs, whoever read them"
    family = core.CounterMetricFamily("overlaybd_device_registry_bytes", text, labels=DEVICE)
    for labels, report in lazy:
        family.add_metric(labels, report.fetched)
    yield family
    for name, text, value in REMOTE:
        gauge = core.GaugeMetricFamily("overlaybd_device_" + name, text, labels=DEVICE)
        for labels, report in lazy:
            gauge.add_metric(labels, value(report))
        yield gauge
    yield _cache_hit_ratio(found)
    yield from _downloads([(labels, one.download) for labels, one in lazy if one.download])


def _cache_hit_ratio(found: List[device.Report]) -> Family:
    text = "Reads of those layers that did not wait for a registry, of all; absent before the first"
    family = core.GaugeMetricFamily("overlaybd_device_cache_hit_ratio", text, labels=DEVICE)
    for one in found:
        reads, misses = one.usage.image.cache_reads, one.usage.image.misses
        if reads:
            family.add_metric([one.uio, one.path], max(1 - misses / reads, 0))
    return family


def _downloads(found: List[Tuple[List[str], local.Download]]) -> Iterator[Family]:
    name = "overlaybd_device_download"
    text = "1 for the state of its background download"
    states = core.GaugeMetricFamily(name, text, labels=(*DEVICE, "state"))
    size = core.GaugeMetricFamily(name + "_size_bytes", "Bytes to be downloaded", labels=DEVICE)
    done = core.GaugeMetricFamily(name + "_done_bytes", "Of these, here", labels=DEVICE)
    for labels, one in found:
        for state in STATES:
            states.add_metric([*labels, state], state == one.state)
        size.add_metric(labels, one.size)
        done.add_metric(labels, one.done)
    yield from (states, size, done)
