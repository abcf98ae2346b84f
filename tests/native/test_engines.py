# SPDX-License-Identifier: Apache-2.0
"""
How layer files are read: many at once where the engine can, none lost when there are more than it
takes, and each failure told once, with file and offset, and without harm to its neighbours.
"""

import errno
import os
import threading

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native

from ..support import engines, layers, slowfs
from . import raw_layers as raw
from . import tcmu_device as scsi

CLUSTER = 4096
DEPTH = 32
IN_FLIGHT = 16
READS = 320
PATIENCE_S = 20.0  # passes only when the test fails

many_at_once = pytest.mark.parametrize("engine", [native.Engine.PSYNC, native.Engine.LIBAIO])
every_engine = pytest.mark.parametrize("engine", engines.ALL)


def write_fragments(path, rng, clusters):
    """A plain layer whose clusters lie in the file in reverse: each is read alone. Its view."""
    data = rng.randbytes(clusters * CLUSTER)
    places = range(8 * clusters, 0, -8)
    index = b"".join(raw.entry(number * 8, 8, place) for number, place in enumerate(places))
    path.write_bytes(raw.lsmt(data, index, virtual_size=len(data)))
    starts = range(len(data) - CLUSTER, -1, -CLUSTER)
    return b"".join(data[start : start + CLUSTER] for start in starts)


@pytest.fixture
def slow(tmp_path, rng):
    """A layer of fragments on a file system that answers as it is told, and its view."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse here")
    view = write_fragments(tmp_path / "backing", rng, 1024)
    (tmp_path / "slow").mkdir()
    with slowfs.SlowFile(tmp_path / "backing", tmp_path / "slow", patience_s=PATIENCE_S) as file:
        yield file, view


def device_of(path, engine, **options):
    device = scsi.Device([path], image_options={"engine": engine, **options}, data=32 << 20)
    if device.image.info().engine != engine:
        pytest.skip(f"{path} has no O_DIRECT")
    return device


def queue(device, rng, view, wanted, clusters=1):
    """One more read of so many clusters; wanted gets what it must bring."""
    lba = rng.randrange(len(view) // 512 - 8 * clusters + 1)
    count = clusters * CLUSTER
    number = device.kernel.queue(scsi.read_10(lba, 8 * clusters), count)
    wanted[number] = view[lba * 512 : lba * 512 + count]


def take(device, wanted, answers):
    """Answers must be right, and are crossed out."""
    for number, answer in answers:
        assert answer.status == 0
        assert answer.data == wanted.pop(number)


# ---- many at once


@many_at_once
def test_sixteen_reads_are_kept_in_flight_at_queue_depth_32(slow, rng, engine):
    file, view = slow
    wanted = {}
    with device_of(file.path, engine, helpers=1) as device:
        file.hold = IN_FLIGHT  # none is answered before so many wait
        for _ in range(READS - DEPTH):
            while len(wanted) < DEPTH:
                queue(device, rng, view, wanted)
            device.kernel.kick()
            device.kernel.wait_notified()
            take(device, wanted, device.kernel.reap())
        assert file.given_up == 0
        file.release()
        take(device, wanted, device.kernel.answers(len(wanted)).items())
        assert file.pending_max >= IN_FLIGHT
        assert device.image.stats().inflight_max >= IN_FLIGHT


@every_engine
@pytest.mark.parametrize("helpers", [0, 2])
@pytest.mark.parametrize("depth", [1, 15, 64])
def test_more_reads_than_an_engine_takes_at_once(tmp_path, rng, engine, helpers, depth):
    view = write_fragments(tmp_path / "layer", rng, 256)
    wanted = {}
    with device_of(tmp_path / "layer", engine, helpers=helpers, depth=depth) as device:
        for _ in range(70):  # of 32 fragments each
            queue(device, rng, view, wanted, clusters=32)
        device.kernel.kick()
        take(device, wanted, device.kernel.answers(70).items())
    assert not wanted


def test_front_end_goes_on_while_the_engine_is_full(slow, rng):
    file, view = slow
    wanted = {}
    with device_of(file.path, native.Engine.LIBAIO, helpers=1, depth=15) as device:
        file.hold = 10_000
        for _ in range(40):
            queue(device, rng, view, wanted, clusters=32)
        device.kernel.kick()
        assert device.ask(scsi.capacity_10(), 8).status == 0
        file.release()
        take(device, wanted, device.kernel.answers(len(wanted)).items())


@every_engine
def test_image_is_read_by_many_threads(tmp_path, rng, engine):
    layers.write_picture(tmp_path / "lower", "ABCDEFGH" * 40)
    layers.write_picture(tmp_path / "upper", "-X0-" * 80)
    view = layers.view("AX0DEX0H" * 40)
    paths = [tmp_path / "lower", tmp_path / "upper"]
    wrong = []

    def read(image, starts):
        for start in starts:
            count = min(300_000, len(view) - start)
            if image.pread(count, start) != view[start : start + count]:
                wrong.append(start)

    opened = [native.Layer.open(str(path), direct=True) for path in paths]
    with native.Image(opened, engine, helpers=2) as image:
        starts = [[rng.randrange(len(view)) for _ in range(25)] for _ in range(6)]
        threads = [threading.Thread(target=read, args=(image, some)) for some in starts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert image.stats().reads == 150
    assert wrong == []


# ---- failures


@pytest.fixture
def hurt(tmp_path):
    """Opens an image of pictures whose lowest layer is damaged; with its events."""
    opened = []

    def open_image(engine, damage, *pictures):
        paths = [tmp_path / f"layer{number}" for number in range(len(pictures))]
        for path, picture in zip(paths, pictures):
            layers.write_picture(path, picture)
        opened.append(native.Events())
        stack = [native.Layer.open(str(path), direct=True) for path in paths]
        options = {"helpers": 1, "events": opened[0], "name": "the image"}
        opened.append(native.Image(stack, engine, **options))
        damage(paths[0])
        return opened[1], opened[0], paths[0]

    yield open_image
    for handle in reversed(opened):
        handle.close()


def failure(image, count, offset):
    with pytest.raises(errors.NativeError) as caught:
        image.pread(count, offset)
    return caught.value.code


def next_failure(events):
    event = events.next(timeout_ms=0)
    while event is not None and event.kind != native.EventKind.READ_ERROR:
        event = events.next(timeout_ms=0)
    return event


@every_engine
def test_damaged_block_fails_its_range_alone(hurt, engine):
    image, events, path = hurt(engine, layers.damage_data, "ABCD", "--XX")
    assert failure(image, CLUSTER, 0) == errno.EUCLEAN
    event = next_failure(events)
    assert (event.image, event.code) == ("the image", errno.EUCLEAN)
    assert (event.offset, event.count) == (0, CLUSTER)
    assert event.text.startswith(f"{path}: block 1 (stored at offset ")
    assert event.text.endswith("checksum does not match")
    assert next_failure(events) is None
    assert image.pread(3 * CLUSTER, CLUSTER) == layers.view("-BXX")[CLUSTER:]
    assert image.stats().errors == 1


@every_engine
def test_file_that_ends_too_early_fails_what_it_had(hurt, engine):
    def cut(path):
        os.truncate(path, 600)

    image, events, path = hurt(engine, cut, "ABCD", "--XX")
    assert failure(image, CLUSTER, CLUSTER) == errno.EIO
    event = next_failure(events)
    assert event.text.startswith(f"{path}: ")
    assert "ends at offset" in event.text
    assert image.pread(2 * CLUSTER, 2 * CLUSTER) == layers.view("--XX")[2 * CLUSTER :]


@every_engine
def test_read_error_of_the_file_system_names_file_and_offset(slow, engine):
    file, view = slow
    file.error_at = 4096
    with native.Events() as events:
        one = native.Layer.open(file.path, direct=True)
        with native.Image([one], engine, events=events) as image:
            assert failure(image, CLUSTER, len(view) - CLUSTER) == errno.EIO
            event = next_failure(events)
            assert event.text.startswith(f"{file.path}: reading ")
            assert "at offset 4096: Input/output error" in event.text
            assert image.pread(CLUSTER, 0) == view[:CLUSTER]


@every_engine
def test_slow_read_is_told(slow, engine):
    file, view = slow
    with native.Events() as events:
        one = native.Layer.open(file.path, direct=True)
        with native.Image([one], engine, events=events, name="image") as image:
            file.hold, file.patience_s = 1000, 0.05
            assert image.pread(CLUSTER, 0) == view[:CLUSTER]
            event = events.next(timeout_ms=0)
            assert (event.kind, event.image, event.text) == (
                native.EventKind.SLOW_READ,
                "image",
                file.path,
            )
            assert (event.offset, event.count) == (1024 * CLUSTER, CLUSTER)
            assert event.latency_us >= 50_000
            assert image.stats().slow_reads == 1
            file.release()
            image.pread(CLUSTER, 100 * CLUSTER)


# ---- choosing


def test_libaio_without_o_direct_falls_back_and_says_so(tmp_path):
    layers.write_picture(tmp_path / "layer", "AB")
    with native.Events() as events:
        one = native.Layer.open(str(tmp_path / "layer"), direct=False)
        with native.Image([one], native.Engine.LIBAIO, events=events) as image:
            assert image.info().engine == native.Engine.PSYNC
            event = events.next(timeout_ms=0)
            assert event.kind == native.EventKind.DEVICE
            assert event.text == (
                f"{tmp_path / 'layer'} has no O_DIRECT: ioEngine 1 falls back to psync"
            )
            assert image.pread(2 * CLUSTER, 0) == layers.view("AB")


@pytest.mark.parametrize(
    "options, complaint",
    [({"engine": 3}, "engine: 3 is none of 0"), ({"depth": 1025}, "depth: 1025 is above 1024")],
)
def test_options_that_are_refused(tmp_path, options, complaint):
    layers.write_picture(tmp_path / "layer", "AB")
    with native.Layer.open(str(tmp_path / "layer")) as one:
        with pytest.raises(errors.NativeError, match=complaint) as caught:
            native.Image([one], **options)
        assert caught.value.code == errno.EINVAL
        assert not one.closed
