# SPDX-License-Identifier: Apache-2.0
"""What the core counts of time: each answer once, in the right bucket; and who still waits."""

import errno
import os
import time

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import core, latency, native

from ..support import engines, layers, slowfs
from . import lazy
from . import tcmu_device as scsi


@pytest.fixture
def layer(tmp_path, rng):
    scsi.write_layer(tmp_path / "layer", rng.randbytes(scsi.MAPPED))
    return tmp_path / "layer"


def test_every_answered_read_is_counted_once(layer):
    with scsi.Device([layer]) as device:
        for lba in range(40):
            scsi.good(device.ask(scsi.read_10(lba, 1), 512))
        took = latency.of_kind(device.tcmu, latency.Kind.READ)
        assert took.count == 40
        assert 0 < took.total_ns < 20e9
        others = [kind for kind in latency.Kind if kind != latency.Kind.READ]
        assert [latency.of_kind(device.tcmu, kind) for kind in others] == [latency.NONE] * 3


def test_what_is_answered_at_once_is_not_timed(layer):
    with scsi.Device([layer]) as device:
        scsi.good(device.ask(scsi.inquiry(), 255))
        assert latency.of_kind(device.tcmu, latency.Kind.READ) == latency.NONE
        assert latency.pending(device.tcmu) == []


def test_a_failed_read_is_counted_as_such(tmp_path):
    layers.write_picture(tmp_path / "layer", "AB")
    layers.damage_data(tmp_path / "layer")
    with scsi.Device([tmp_path / "layer"]) as device:
        assert scsi.refused(device.ask(scsi.read_10(0, 16), 8192))[0] == scsi.MEDIUM
        stats = device.tcmu.stats()
        assert (stats.read_errors, stats.change_errors) == (1, 0)
        assert latency.of_kind(device.tcmu, latency.Kind.READ).count == 1


def test_a_waiting_command_is_seen_and_then_its_time(tmp_path, rng):
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse here")
    scsi.write_layer(tmp_path / "backing", rng.randbytes(scsi.MAPPED), at=scsi.MAPPED)
    (tmp_path / "slow").mkdir()
    with slowfs.SlowFile(tmp_path / "backing", tmp_path / "slow", patience_s=60) as slow:
        with scsi.Device([slow.path]) as device:
            slow.hold, slow.pending_max = 1000, 0
            device.kernel.queue(scsi.read_10(scsi.MAPPED // 512 + 8, 8), 4096)
            device.kernel.kick()
            one = wait_pending(device, slow)
            assert (one.offset, one.count) == (scsi.MAPPED + 4096, 4096)
            assert one.kind == latency.Kind.READ
            time.sleep(0.02)
            assert latency.pending(device.tcmu)[0].age_ns >= one.age_ns + 20e6
            slow.release()
            device.kernel.answers(1)
            assert latency.pending(device.tcmu) == []
            assert_slow(device, 20e6)


def wait_pending(device, slow):
    """The one command, when its read is at the disk; the test's time limit ends the waiting."""
    while not slow.pending_max:
        time.sleep(0.001)
    (one,) = latency.pending(device.tcmu)
    return one


def assert_slow(device, least_ns):
    """The one read that was answered took so long, and waiting for the disk was why."""
    for took in (
        latency.of_kind(device.tcmu, latency.Kind.READ),
        latency.of_stage(device.image, latency.Stage.DISK),
    ):
        assert took.count == 1
        assert took.total_ns >= least_ns
        assert took.quantile_s(0.5) * 1e9 >= least_ns
    assert latency.of_stage(device.image, latency.Stage.QUEUE).count == 1
    assert device.image.stats().blocked == 1


def test_reads_of_the_page_cache_are_hits(layer):
    with native.Image([native.Layer.open(str(layer))]) as image:
        layer.read_bytes()
        image.pread(4096, 0)
        stats = image.stats()
        assert (stats.hits, stats.blocked) == (1, 0)


@pytest.mark.parametrize("engine", [one for one in engines.ALL if one is not native.Engine.PSYNC])
def test_reads_of_an_engine_wait(layer, engine):
    with native.Image([native.Layer.open(str(layer), direct=True)], engine) as image:
        image.pread(4096, 0)
        stats = image.stats()
        assert (stats.hits, stats.blocked) == (0, 1)
        assert latency.of_stage(image, latency.Stage.DISK).count == 1


def test_one_block_in_so_many_is_timed(tmp_path):
    layers.write_picture(tmp_path / "layer", "A" * 300)
    with native.Image([native.Layer.open(str(tmp_path / "layer"))]) as image:
        for number in range(300):
            image.pread(4096, number * 4096)
        decoded = image.stats().blocks_decoded
        timed = latency.of_stage(image, latency.Stage.DECODE).count
        assert decoded >= 300
        assert timed == -(-decoded // latency.SAMPLED[latency.Stage.DECODE])


@pytest.mark.parametrize("writable", [False, True])
def test_one_search_in_so_many_is_timed(tmp_path, writable):
    layers.write_picture(tmp_path / "layer", "A" * 4)
    upper = None
    if writable:
        native.create_upper(str(tmp_path / "data"), str(tmp_path / "index"))
        upper = native.Upper(str(tmp_path / "data"), str(tmp_path / "index"))
    with native.Image([native.Layer.open(str(tmp_path / "layer"))], upper=upper) as image:
        for _ in range(320):
            image.pread(512, 0)
        searches = 2 * 320 if writable else 320  # of the writable layer, then of those below
        took = latency.of_stage(image, latency.Stage.LOOKUP)
        assert took.count == searches / latency.SAMPLED[latency.Stage.LOOKUP]
        assert took.total_ns > 0


def test_a_wait_for_the_disk_of_the_cache_is_told_from_others(tmp_path, rng):
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse here")
    disk, stream = lazy.stream_of(rng, 256)
    (tmp_path / "backing").write_bytes(stream)
    (tmp_path / "slow").mkdir()
    with lazy.Origin(tmp_path) as origin, origin.image(stream) as image:
        assert image.pread(len(disk), 0) == disk
        before = latency.of_stage(image, latency.Stage.CACHE).count
        with slowfs.SlowFile(tmp_path / "backing", tmp_path / "slow", patience_s=60) as slow:
            origin.files[1].switch(slow.path)  # FUSE cannot say whether a read would wait
            assert image.pread(len(disk), 0) == disk
            assert latency.of_stage(image, latency.Stage.CACHE).count > before
        assert latency.of_stage(image, latency.Stage.DISK) == latency.NONE


def test_what_waits_for_missing_bytes_is_counted_once(tmp_path, rng):
    disk, stream = lazy.stream_of(rng, 256)
    with lazy.Origin(tmp_path) as origin, origin.image(stream) as image:
        assert image.stats().misses == 0
        assert image.pread(len(disk), 0) == disk
        first = image.stats()
        assert image.pread(len(disk), 0) == disk
        again = image.stats()
        waited = latency.of_stage(image, latency.Stage.WAIT)
    assert waited.count == first.misses == again.misses > 0
    assert waited.total_ns > 0
    assert first.cache_bytes >= len(disk) // 2  # the rest is holes
    assert again.cache_bytes - first.cache_bytes == len(disk) // 2
    assert first.cache_reads < again.cache_reads


def test_a_stage_there_is_not_is_refused(layer):
    with scsi.Device([layer]) as device:
        for call in (
            lambda: latency.of_stage(device.image, len(latency.Stage)),
            lambda: latency.of_kind(device.tcmu, len(latency.Kind)),
        ):
            with pytest.raises(errors.NativeError) as caught:
                call()
            assert caught.value.code == errno.EINVAL


def test_buckets_are_powers_of_two():
    buckets = [0] * core.LATENCY_BUCKETS
    buckets[0], buckets[10], buckets[-1] = 90, 9, 1
    took = latency.Latency(1, tuple(buckets))
    assert took.count == 100
    assert took.quantile_s(0.5) == 1024e-9
    assert took.quantile_s(0.99) == (1024 << 10) / 1e9
    assert took.quantile_s(1) == (1024 << core.LATENCY_BUCKETS - 2) / 1e9
    assert latency.NONE.quantile_s(0.99) == 0
    assert (took + took - took) == took
