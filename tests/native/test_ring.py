# SPDX-License-Identifier: Apache-2.0
"""
The command ring: what the kernel's side sees of it. Order, padding, wrapping, batches; slow reads
beside fast ones; stopping, vanishing, and a ring that holds nonsense.
"""

import errno
import os
import struct
import threading
import time

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native

from ..support import engines, slowfs, tcmu_kernel
from . import tcmu_device as scsi


@pytest.fixture
def layer(tmp_path, rng):
    data = rng.randbytes(scsi.MAPPED)
    scsi.write_layer(tmp_path / "layer", data)
    return tmp_path / "layer", data + bytes(scsi.SIZE - scsi.MAPPED)


@pytest.fixture
def slow_layer(tmp_path, rng):
    """A layer whose file answers when it is released, and what is in it from 1 MiB on."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse here")
    data = rng.randbytes(scsi.MAPPED)
    scsi.write_layer(tmp_path / "backing", data, at=scsi.MAPPED)
    (tmp_path / "slow").mkdir()
    with slowfs.SlowFile(tmp_path / "backing", tmp_path / "slow", patience_s=60) as slow:
        yield slow, data


def queue_reads(device, rng, view, number, largest=64):
    """{id: bytes that the read must bring}"""
    wanted = {}
    for _ in range(number):
        blocks = rng.randint(1, largest)
        lba = rng.randint(0, len(view) // 512 - blocks)
        read = rng.choice((scsi.read_10, scsi.read_12, scsi.read_16))
        count = blocks * 512
        number = device.kernel.queue(read(lba, blocks), count, pieces=rng.randint(1, 12))
        wanted[number] = view[lba * 512 : lba * 512 + count]
    return wanted


def right(answers, wanted):
    return {number: (one.status, one.data) for number, one in answers.items()} == {
        number: (0, data) for number, data in wanted.items()
    }


@pytest.mark.parametrize("engine", engines.ALL)
@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_batches_of_random_reads(layer, rng, engine, helpers):
    path, view = layer
    with scsi.Device(
        [path], image_options={"engine": engine, "helpers": helpers}, data=16 << 20
    ) as device:
        for _ in range(30):
            wanted = queue_reads(device, rng, view, rng.randint(1, 40))
            device.kernel.kick()
            assert right(device.kernel.answers(len(wanted)), wanted)
            assert device.kernel.drained()
    assert device.error is None


def test_ring_wraps_thousands_of_times(layer, rng):
    path, view = layer
    wanted = {}
    with scsi.Device([path], ring=128 + 8 * 500) as device:
        for _ in range(4000):
            while device.kernel.free() < 900 or len(wanted) > 15:
                device.kernel.wait_notified()
                done = dict(device.kernel.reap())
                assert right(done, {number: wanted.pop(number) for number in done})
            wanted.update(queue_reads(device, rng, view, 1, largest=16))
            device.kernel.kick()
        while wanted:
            device.kernel.wait_notified()
            done = dict(device.kernel.reap())
            assert right(done, {number: wanted.pop(number) for number in done})


def test_kernel_is_told_of_several_answers_at_once(layer, rng):
    path, view = layer
    with scsi.Device([path], data=32 << 20) as device:
        wanted = queue_reads(device, rng, view, 200, largest=8)
        device.kernel.kick()
        answers = device.kernel.answers(200)
        stats = device.tcmu.stats()
    assert right(answers, wanted)
    assert stats.reads == 200
    assert stats.notifies < 200  # told of several at once


def test_pads_and_other_entries_are_passed_over(layer):
    path, view = layer
    with scsi.Device([path]) as device:
        device.kernel.put_other(tcmu_kernel.TMR)
        device.kernel.put_other(tcmu_kernel.PAD, 8)
        first = device.kernel.queue(scsi.read_10(0, 1), 512)
        device.kernel.put_other(tcmu_kernel.PAD, 64)
        second = device.kernel.queue(scsi.read_10(1, 1), 512)
        device.kernel.kick()
        answers = device.kernel.answers(2)
        assert answers[first].data == view[:512] and answers[second].data == view[512:1024]
        # Nothing but a notification of task management: the ring must drain nonetheless.
        device.kernel.put_other(tcmu_kernel.TMR)
        device.kernel.kick()
        until = time.monotonic() + tcmu_kernel.TIMEOUT_S
        while not device.kernel.drained() and time.monotonic() < until:
            time.sleep(0.001)
        assert device.kernel.drained()


def test_ring_that_has_moved_on_before_us(layer):
    """As after a restart that did not reset it: the tail says where to go on."""
    path, view = layer
    with scsi.Device([path]) as device:
        for lba in range(100):
            assert device.ask(scsi.read_10(lba, 1), 512).data == view[lba * 512 :][:512]
        device.tcmu.stop()
        device.thread.join()
        again = native.Tcmu(device.image, device.kernel.options())
        thread = threading.Thread(target=again.run)
        thread.start()
        assert device.ask(scsi.read_10(7, 1), 512).data == view[7 * 512 :][:512]
        again.stop()
        thread.join()
        again.close()


def test_kernel_without_residuals_gets_none(layer):
    with scsi.Device([layer[0]], flags=tcmu_kernel.OUT_OF_ORDER) as device:
        answer = device.ask(scsi.inquiry(), 255)
    assert answer.status == 0 and answer.read_count == 255


# ---- slow beside fast


def inflight_becomes(device, wanted):
    """A command counts as in flight until a moment after its answer was seen."""
    until = time.monotonic() + tcmu_kernel.TIMEOUT_S
    while device.tcmu.stats().inflight != wanted and time.monotonic() < until:
        time.sleep(0.001)
    assert device.tcmu.stats().inflight == wanted


@pytest.mark.parametrize("engine", [native.Engine.PSYNC, native.Engine.LIBAIO])
@pytest.mark.parametrize("helpers", [0, 2])
def test_slow_reads_delay_no_fast_one(layer, slow_layer, rng, engine, helpers):
    path, view = layer
    slow, data = slow_layer
    options = {"engine": engine, "helpers": helpers}
    with scsi.Device([slow.path, path], image_options=options) as device:
        slow.hold = 1000
        held = {}
        for lba in (2048, 2600, 3000, 4000):
            number = device.kernel.queue(scsi.read_10(lba, 8), 4096)
            held[number] = data[(lba - 2048) * 512 :][:4096]
        device.kernel.kick()
        for _ in range(20):
            wanted = queue_reads(device, rng, view[: scsi.MAPPED], 1, largest=16)
            device.kernel.kick()
            assert right(device.kernel.answers(1), wanted)
        inflight_becomes(device, len(held))
        slow.release()
        assert right(device.kernel.answers(len(held)), held)


def test_read_error_of_one_layer_harms_no_other_read(layer, slow_layer):
    path, view = layer
    slow, _ = slow_layer
    with scsi.Device([slow.path, path]) as device:
        slow.error_at = 4096 + 100
        answer = device.ask(scsi.read_10(2048, 8), 4096)
        assert (answer.status, answer.key, answer.asc) == (2, 3, 0x1100)
        assert device.ask(scsi.read_10(0, 8), 4096).data == view[:4096]


# ---- ends


def test_stop_waits_for_what_is_in_flight(slow_layer, layer):
    slow, data = slow_layer
    with scsi.Device([slow.path, layer[0]]) as device:
        slow.hold = 1000
        number = device.kernel.queue(scsi.read_10(2048, 8), 4096)
        device.kernel.kick()
        while not device.tcmu.stats().inflight:
            time.sleep(0.001)
        device.tcmu.stop()
        device.thread.join(0.05)
        assert device.thread.is_alive()
        slow.release()
        device.thread.join(tcmu_kernel.TIMEOUT_S)
        assert not device.thread.is_alive()
        assert right(device.kernel.answers(1), {number: data[:4096]})


def test_stop_before_run(layer):
    device = scsi.Device([layer[0]])
    device.tcmu.stop()
    with device:
        device.thread.join(tcmu_kernel.TIMEOUT_S)
        assert not device.thread.is_alive()
    assert device.error is None


def test_stop_under_load_loses_no_answer(layer, rng):
    path, view = layer
    for _ in range(20):
        with scsi.Device([path], image_options={"helpers": 2}, data=16 << 20) as device:
            wanted = queue_reads(device, rng, view, 30)
            device.kernel.kick()
            time.sleep(rng.random() / 1000)
            device.tcmu.stop()
            device.thread.join()
            answers = dict(device.kernel.reap())
            # what was taken is answered, what was not stays in the ring for the next daemon
            assert right(answers, {number: wanted[number] for number in answers})
            assert device.tcmu.stats().reads == len(answers)


def test_device_that_vanishes_ends_the_loop(layer):
    with scsi.Device([layer[0]]) as device:
        device.ask(scsi.read_10(0, 1), 512)
        device.kernel.unplug()
        device.thread.join(tcmu_kernel.TIMEOUT_S)
        assert not device.thread.is_alive()
    assert isinstance(device.error, errors.NativeError) and device.error.code == errno.ENODEV


def test_device_that_vanishes_under_load(layer, rng):
    path, view = layer
    for _ in range(10):
        with scsi.Device([path], image_options={"helpers": 2}, data=16 << 20) as device:
            queue_reads(device, rng, view, 40)
            device.kernel.kick()
            time.sleep(rng.random() / 1000)
            device.kernel.unplug()
            device.thread.join(tcmu_kernel.TIMEOUT_S)
            assert not device.thread.is_alive()
        assert device.error.code == errno.ENODEV


def test_idle_device_is_asleep(layer):
    with scsi.Device([layer[0]]) as device:
        device.ask(scsi.read_10(0, 1), 512)
        before = device.tcmu.stats()
        time.sleep(0.1)
        after = device.tcmu.stats()
    assert after.wakeups <= before.wakeups + 1  # its way to sleep from the read


# ---- nonsense


def length(count, kind=tcmu_kernel.COMMAND):
    return struct.pack("=I", count | kind)


def entry(iov_count=0, cdb=256, iov=b"", size=512):
    head = struct.pack("=IHBBIIIIQQQ", size | 1, 1, 0, 0, iov_count, 0, 0, 0, cdb, 0, 0)
    return (head + iov).ljust(size, b"\0")


@pytest.mark.parametrize(
    "raw",
    [
        length(0),
        length(0, 0),
        length(104),
        length(1 << 20),
        length(0xFFFFFFF8),
        length(1 << 20, tcmu_kernel.PAD),
        entry(iov_count=100),
        entry(iov_count=0xFFFFFFFF),
        entry(cdb=1 << 40),
        entry(cdb=(64 << 10) + (4 << 20)),
        entry(iov_count=1, iov=struct.pack("=QQ", 1 << 40, 512)),
        entry(iov_count=1, iov=struct.pack("=QQ", 64 << 10, (4 << 20) + 1)),
        entry(iov_count=1, iov=struct.pack("=QQ", 512, (1 << 64) - 1)),
    ],
)
def test_nonsense_in_the_ring_ends_the_loop_and_is_told(layer, raw):
    with native.Events() as events:
        options = {"helpers": 1, "events": events, "name": "image"}
        with scsi.Device([layer[0]], image_options=options) as device:
            device.ask(scsi.read_10(0, 1), 512)
            device.kernel.put_raw(raw, 512)
            device.kernel.kick()
            device.thread.join(tcmu_kernel.TIMEOUT_S)
            assert not device.thread.is_alive()
            assert device.error.code == errno.EPROTO
            event = events.next(0)
        assert event.kind == native.EventKind.DEVICE and "makes no sense" in event.text


@pytest.mark.parametrize("head", [4, (64 << 10) - 128, 0xFFFFFFFF, 1 << 20])
def test_head_outside_of_the_ring(layer, head):
    with scsi.Device([layer[0]]) as device:
        device.kernel.set_head(head)
        device.kernel.kick()
        device.thread.join(tcmu_kernel.TIMEOUT_S)
        assert not device.thread.is_alive()
    assert device.error.code == errno.EPROTO


@pytest.mark.parametrize("seen", [0, 6, 15])
def test_cdb_at_the_end_of_the_mapping_is_not_read_past_it(layer, seen):
    """What is missing of it counts as zeros: never a read outside of the mapping."""
    with scsi.Device([layer[0]]) as device:
        end = (64 << 10) + (4 << 20)
        device.kernel.put_raw(entry(cdb=end - seen - 1), 512)
        device.kernel.expect(1)
        device.kernel.kick()
        assert device.kernel.answers(1)[1].status in (0, 2)


@pytest.mark.parametrize(
    "kernel, code, words",
    [
        ({"version": 1}, errno.ENOTSUP, "mailbox version 1"),
        ({"version": 3}, errno.ENOTSUP, "mailbox version 3"),
        ({"flags": tcmu_kernel.READ_LENGTH}, errno.ENOTSUP, "out-of-order"),
    ],
)
def test_other_mailboxes_are_refused(layer, kernel, code, words):
    with pytest.raises(errors.NativeError, match=words) as caught:
        scsi.Device([layer[0]], **kernel)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "field, value",
    [(4, 0), (4, 120), (4, 132), (4, 1 << 30), (8, 0), (8, 100), (8, 1 << 30), (8, 0xFFFFFFF8)]
    + [(64, 4), (64, 1 << 20), (64, (64 << 10) - 128)],
)
def test_ring_outside_of_the_mapping_is_refused(layer, field, value):
    with tcmu_kernel.Kernel() as kernel, native.Image([native.Layer.open(str(layer[0]))]) as image:
        kernel.patch(field, value)
        with pytest.raises(errors.NativeError, match="ring: ") as caught:
            native.Tcmu(image, kernel.options())
    assert caught.value.code == errno.EINVAL


@pytest.mark.parametrize("size", [0, 64, 127])
def test_mapping_without_room_for_a_mailbox_is_refused(layer, size):
    with tcmu_kernel.Kernel() as kernel, native.Image([native.Layer.open(str(layer[0]))]) as image:
        options = kernel.options()
        with pytest.raises(errors.NativeError, match="mailbox"):
            native.Tcmu(image, native.TcmuOptions(options.uio_fd, options.map, size, 512))
