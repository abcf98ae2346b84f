# SPDX-License-Identifier: Apache-2.0
"""What is fetched and kept, in metrics: each moves when what it counts happens."""

import json
import os
import subprocess

import pytest

from ..native import lazy
from ..native import tcmu_device as scsi
from .conftest import read, until
from .test_metrics import device_values, samples, value


@pytest.fixture
def disk(rng):
    """(virtual disk, LSMT stream); every other 4 KiB are a hole."""
    return lazy.stream_of(rng, 4096)


@pytest.fixture
def stream(disk):
    return disk[1]


def test_before_any_layer_was_fetched(daemon):
    daemon.start()
    daemon.add(daemon.image())
    found = samples(daemon)
    for name in ("size_bytes", "used_bytes", "memory_bytes", "pinned_blobs", "waiting"):
        assert value(found, f"overlaybd_cache_{name}") == 0
    assert value(found, "overlaybd_registry_bytes_total", purpose="read") == 0
    assert value(found, "overlaybd_registry_errors_total", kind="timeout") == 0
    assert "overlaybd_device_remote_bytes" not in found


def test_a_miss_and_then_a_hit(daemon, server, disk, stream):
    daemon.start(cacheConfig=daemon.cache(cacheSizeGB=2))
    kernel = daemon.add(daemon.lazy_image(server, stream))
    before = device_values(daemon)
    lba = 2048  # neither the first unit nor the last, which opening fetches
    assert read(kernel, lba).data == disk[0][lba * 512 :][:4096]
    missed = device_values(daemon)
    assert (before["cache_misses_total"], missed["cache_misses_total"]) == (0, 1)
    assert missed["present_bytes"] > before["present_bytes"]
    assert missed["remote_bytes"] == len(stream)
    assert missed["cache_bytes_total"] - before["cache_bytes_total"] == 4096
    assert (missed["local_bytes_total"], missed["waiting"]) == (0, 0)
    read(kernel, lba)
    hit = device_values(daemon)
    assert hit["cache_misses_total"] == 1
    assert hit["cache_reads_total"] > missed["cache_reads_total"]
    assert hit["cache_hit_ratio"] > missed["cache_hit_ratio"]


def forget(folder):
    """The kernel has nothing of the files there in its page cache any more."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_what_waits_for_the_disk_of_the_cache(daemon, server, disk, stream):
    kind = subprocess.run(["stat", "-fc", "%T", daemon.folder], stdout=subprocess.PIPE, text=True)
    if kind.stdout.strip() == "tmpfs":
        pytest.skip("no read of a tmpfs waits")
    daemon.start(cacheConfig=daemon.cache())
    kernel = daemon.add(daemon.lazy_image(server, stream))
    read(kernel, 2048)
    name = "overlaybd_stage_duration_seconds_count"

    def waited():
        forget(daemon.folder / "cache")
        assert read(kernel, 2048).data == disk[0][2048 * 512 :][:4096]
        return value(samples(daemon), name, stage="cache")

    until(waited)
    assert value(samples(daemon), name, stage="disk") == 0


def test_what_is_fetched(daemon, server, stream):
    daemon.start(cacheConfig=daemon.cache(cacheSizeGB=2))
    kernel = daemon.add(daemon.lazy_image(server, stream))
    name = "overlaybd_registry_requests_total"
    before = until(lambda: value(samples(daemon), name, purpose="read") >= 2 and samples(daemon))
    read(kernel, 2048)
    after = until(
        lambda: value(samples(daemon), name, purpose="read") > value(before, name, purpose="read")
        and samples(daemon)
    )
    for metric, labels in (
        ("overlaybd_registry_bytes_total", {"purpose": "read"}),
        ("overlaybd_device_registry_bytes_total", {}),
        ("overlaybd_stage_duration_seconds_count", {"stage": "fetch"}),
        ("overlaybd_stage_duration_seconds_sum", {"stage": "fetch"}),
        ("overlaybd_stage_duration_seconds_count", {"stage": "wait"}),
        ("overlaybd_stage_duration_seconds_sum", {"stage": "wait"}),
    ):
        assert value(after, metric, **labels) > value(before, metric, **labels), metric
    assert value(after, "overlaybd_cache_size_bytes") == 2 << 30
    assert until(lambda: value(samples(daemon), "overlaybd_cache_used_bytes"))


def test_what_the_cache_lets_go(daemon, server, stream):
    daemon.start(cacheConfig=daemon.cache())
    daemon.add(daemon.lazy_image(server, stream))
    (blob,) = daemon.get("/v1/cache")["blobs"]
    daemon.ask(f"/v1/cache/{blob['digest']}", "PUT", b'{"pinned": true}')
    assert value(samples(daemon), "overlaybd_cache_pinned_blobs") == 1
    daemon.ask(f"/v1/cache/{blob['digest']}", "PUT", b'{"pinned": false}')
    assert value(samples(daemon), "overlaybd_cache_evicted_bytes_total") == 0
    freed = daemon.ask("/v1/cache/evict", "POST", b'{"bytes": 1000000000}')[1]["freed"]
    assert value(samples(daemon), "overlaybd_cache_evicted_bytes_total") == freed > 0


def test_a_stream_is_read_ahead(daemon, server, stream):
    daemon.start(cacheConfig=daemon.cache())
    kernel = daemon.add(daemon.lazy_image(server, stream))
    for lba in range(0, 2048, 32):
        read(kernel, lba)
    name = "overlaybd_registry_bytes_total"
    assert until(lambda: value(samples(daemon), name, purpose="ahead"))


def test_the_original_s_names_of_downloads(daemon, server, stream):
    daemon.start(cacheConfig=daemon.cache(), exporter={"updateInterval": 60000000})
    before = samples(daemon)
    daemon.add(daemon.lazy_image(server, stream))
    after = samples(daemon)
    for name in ("Read_Throughtput", "QPS", "MaxLatency", "Count"):
        assert value(before, "OverlayBD_" + name, type="download") == 0
        assert value(after, "OverlayBD_" + name, type="download") > 0


def test_a_registry_that_fails(daemon, server, stream):
    daemon.start(cacheConfig=daemon.cache())
    kernel = daemon.add(daemon.lazy_image(server, stream))
    server.down()
    number = kernel.queue(scsi.read_10(2048, 8), 4096)
    kernel.kick()
    name = "overlaybd_registry_errors_total"
    found = until(lambda: value(samples(daemon), name, kind="connect") and samples(daemon))
    assert value(found, "overlaybd_cache_waiting") == 1
    assert value(found, "overlaybd_device_waiting") == 1
    server.up()
    assert kernel.answers(1)[number].status == 0
    assert value(samples(daemon), "overlaybd_cache_waiting") == 0


def test_a_download_from_its_beginning_to_its_end(daemon, server, stream):
    settings = {"enable": True, "delay": 0, "delayExtra": 0}
    daemon.start(cacheConfig=daemon.cache(), download=settings)
    other = lazy.wrapped("lz4", stream)
    daemon.add(daemon.lazy_image(server, stream, other))
    name = "overlaybd_device_download"
    until(lambda: value(samples(daemon), name, state="done"))
    found = samples(daemon)
    assert value(found, name, state="downloading") == 0
    assert value(found, name + "_size_bytes") == len(stream) + len(other)
    assert value(found, name + "_done_bytes") == len(stream) + len(other)
    assert value(found, "overlaybd_device_present_bytes") == len(stream) + len(other)
    assert value(found, "overlaybd_registry_bytes_total", purpose="download") > 0
    assert value(found, "overlaybd_registry_requests_total", purpose="download") > 0


def test_a_download_that_waits(daemon, server, stream):
    daemon.start(cacheConfig=daemon.cache(), download={"enable": True, "delay": 3000})
    daemon.add(daemon.lazy_image(server, stream))
    found = samples(daemon)
    assert value(found, "overlaybd_device_download", state="waiting") == 1
    assert value(found, "overlaybd_device_download_done_bytes") == 0


def test_a_download_that_fails(daemon, server, stream):
    """Its bytes are not those that the digest is of."""
    settings = {"enable": True, "delay": 0, "delayExtra": 0, "tryCnt": 1}
    daemon.start(cacheConfig=daemon.cache(), download=settings)
    config = daemon.lazy_image(server, stream)
    (lower,) = json.loads(config.read_text())["lowers"]
    server.replace(lower["digest"], stream[:5000] + bytes([stream[5000] ^ 1]) + stream[5001:])
    daemon.add(config)
    until(lambda: value(samples(daemon), "overlaybd_device_download", state="failed"))


@pytest.mark.parametrize("status, kind", [(404, "not_found"), (500, "server")])
def test_answers_that_are_failures(daemon, server, stream, status, kind):
    daemon.start(cacheConfig=daemon.cache())
    kernel = daemon.add(daemon.lazy_image(server, stream))
    server.fault(times=None, status=status)
    number = kernel.queue(scsi.read_10(2048, 8), 4096)
    kernel.kick()
    name = "overlaybd_registry_errors_total"
    until(lambda: value(samples(daemon), name, kind=kind))
    server.heal()
    kernel.answers(1)[number]


def test_a_disk_that_takes_nothing(daemon, server, stream):
    nowhere = str(daemon.service.config_path / "cache")  # a file is no folder
    daemon.start(cacheConfig=daemon.cache(cacheDir=nowhere))
    kernel = daemon.add(daemon.lazy_image(server, stream))
    assert read(kernel, 2048).status == 0
    found = samples(daemon)
    assert value(found, "overlaybd_cache_memory_bytes") > 0
    assert value(found, "overlaybd_cache_used_bytes") == 0
