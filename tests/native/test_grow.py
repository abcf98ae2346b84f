# SPDX-License-Identifier: Apache-2.0
"""Disks that grow while they are in use: what they show, what SCSI says, what a kill leaves."""

import errno
import os
import struct
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native

from ..support import engines, layers, nth_call
from . import tcmu_device as scsi
from .test_scsi_write import Disk, write_10

CLUSTER = layers.CLUSTER
SIZE = 16 * CLUSTER
LARGER = 64 * CLUSTER


@pytest.fixture(params=["append", "sparse"])
def kind(request):
    return request.param


@pytest.fixture
def pair(tmp_path, kind):
    paths = str(tmp_path / "data"), str(tmp_path / "index")
    native.create_upper(*paths, SIZE, kind == "sparse")
    return paths


def opened(pair, lowers=()):
    layers_of = [native.Layer.open(str(path)) for path in lowers]
    return native.Image(layers_of, helpers=1, upper=native.Upper(*pair))


def code_of(function, *arguments):
    with pytest.raises(errors.NativeError) as caught:
        function(*arguments)
    return caught.value.code


def test_what_was_there_and_what_is_new(pair):
    with opened(pair) as image:
        image.pwrite(b"A" * CLUSTER, SIZE - CLUSTER)
        assert code_of(image.pread, CLUSTER, SIZE) == errno.EINVAL
        image.grow(LARGER)
        assert image.info().virtual_size == LARGER
        assert image.pread(2 * CLUSTER, SIZE - CLUSTER) == b"A" * CLUSTER + bytes(CLUSTER)
        image.pwrite(b"B" * CLUSTER, LARGER - CLUSTER)
        assert code_of(image.pwrite, b"B" * 512, LARGER) == errno.EINVAL
        shown = image.pread(LARGER, 0)
    with opened(pair) as image:
        assert image.info().virtual_size == LARGER
        assert image.pread(LARGER, 0) == shown


def test_an_image_over_lowers(pair, tmp_path):
    layers.write_picture(tmp_path / "lower", "L" * 16)
    with opened(pair, [tmp_path / "lower"]) as image:
        image.grow(LARGER)
        image.pwrite(b"u" * 512, SIZE + 512)
        expected = layers.view("L" * 16) + bytes(512) + b"u" * 512
        assert image.pread(LARGER, 0) == expected.ljust(LARGER, b"\0")


def test_a_snapshot_of_what_has_grown(pair, tmp_path, kind):
    following = str(tmp_path / "data2"), str(tmp_path / "index2")
    native.create_upper(*following, 0, kind == "sparse")
    with opened(pair) as image:
        image.pwrite(b"A" * CLUSTER, 0)
        image.grow(LARGER)
        image.snapshot(native.Upper(*following))
        image.grow(LARGER + CLUSTER)
        image.pwrite(b"B" * CLUSTER, LARGER)
        shown = image.pread(LARGER + CLUSTER, 0)
    with opened(following, [pair[0]]) as image:
        assert image.pread(LARGER + CLUSTER, 0) == shown


def test_the_size_it_has_is_no_change(pair):
    with opened(pair) as image:
        image.grow(SIZE)
        assert image.info().virtual_size == SIZE


@pytest.mark.parametrize(
    "size, code",
    [
        (SIZE - 512, errno.EPERM),
        (0, errno.EINVAL),
        (SIZE + 1, errno.EINVAL),
        (1 << 63, errno.EINVAL),
    ],
)
def test_refused(pair, size, code):
    with opened(pair) as image:
        assert code_of(image.grow, size) == code
        assert image.info().virtual_size == SIZE
        image.pwrite(b"A" * 512, SIZE - 512)


def test_an_image_without_an_upper_keeps_its_size(tmp_path):
    layers.write_picture(tmp_path / "lower", "LL")
    with native.Image([native.Layer.open(str(tmp_path / "lower"))]) as image:
        assert code_of(image.grow, LARGER) == errno.EROFS


def test_readers_and_writers_go_on(pair):
    """Threads write and read all that there is, each in lines of its own, while it grows."""
    lines, failures, stop = 4, [], threading.Event()

    def work(number):
        while not stop.is_set():
            size = image.info().virtual_size
            for offset in range(number * 512, size, lines * CLUSTER):
                image.pwrite(bytes([number + 1]) * 512, offset)
                if image.pread(512, offset) != bytes([number + 1]) * 512:
                    failures.append((number, offset))

    with opened(pair) as image:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(lines)]
        for thread in threads:
            thread.start()
        for size in range(SIZE, LARGER + 1, CLUSTER):
            image.grow(size)
            image.flush()
        while not all_lines_reach(image, lines) and not failures:
            time.sleep(0.001)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def all_lines_reach(image, lines):
    """Whether every thread has written its last line."""
    last = LARGER - lines * CLUSTER
    return all(image.pread(1, last + number * 512) != b"\0" for number in range(lines))


# ---- what SCSI says


def capacity(disk):
    last, block = struct.unpack(">QI", scsi.good(disk.ask(scsi.capacity_16(), 32))[:12])
    return (last + 1) * block


UNIT_ATTENTION, CAPACITY_CHANGED = 6, 0x2A09


def test_the_disk_says_so_once_and_takes_commands_up_to_its_new_end(tmp_path):
    with Disk(tmp_path) as disk:
        old, new = disk.image.info().virtual_size, 2 * disk.image.info().virtual_size
        behind = write_10(old // 512, 1)
        assert scsi.refused(disk.ask(behind, data=b"x" * 512)) == (scsi.ILLEGAL, scsi.OUT_OF_RANGE)
        disk.image.grow(new)
        scsi.good(disk.ask(scsi.inquiry(), 255))  # never told there
        assert scsi.refused(disk.ask(behind, data=b"x" * 512)) == (UNIT_ATTENTION, CAPACITY_CHANGED)
        assert capacity(disk) == new
        assert disk.ask(behind, data=b"x" * 512).status == 0
        assert scsi.good(disk.ask(scsi.read_10(old // 512, 1), 512)) == b"x" * 512
        behind = write_10(new // 512, 1)
        assert scsi.refused(disk.ask(behind, data=b"x" * 512)) == (scsi.ILLEGAL, scsi.OUT_OF_RANGE)


def test_a_rest_that_fills_no_block_is_not_offered(tmp_path):
    with Disk(tmp_path, {"block_size": 4096}) as disk:
        old = disk.image.info().virtual_size
        disk.image.grow(old + 4096 + 512)
        disk.ask(bytes(6))
        assert capacity(disk) == old + 4096


# ---- killed

SCRIPT = f"""
    import sys
    from overlaybd_tcmu.ffi import native
    image = native.Image([], upper=native.Upper(*sys.argv[1:3]))
    image.pwrite(b"A" * {CLUSTER}, {SIZE - CLUSTER})
    print("grows", flush=True)
    image.grow({LARGER})
    print("has grown", flush=True)
    image.pwrite(b"B" * {CLUSTER}, {LARGER - CLUSTER})
    image.close()
"""


def killed(pair, folder, nth):
    """Its status, and what it had said before the nth call that changes a file killed it."""
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), *pair]
    environment = nth_call.environment(folder, nth=nth)
    run = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, timeout=60
    )
    return run.returncode, run.stdout.decode().splitlines()


@pytest.mark.skipif(engines.SANITIZED, reason="a process a step: without sanitizers only")
def test_a_kill_at_any_step_leaves_one_size_or_the_other(tmp_path, kind):
    seen, status, nth = set(), -9, 0
    while status:
        nth += 1
        folder = tmp_path / str(nth)
        folder.mkdir()
        pair = str(folder / "data"), str(folder / "index")
        native.create_upper(*pair, SIZE, kind == "sparse")
        status, said = killed(pair, folder, nth)
        assert status in (0, -9)
        if "grows" not in said:
            continue
        with opened(pair) as image:
            size = image.info().virtual_size
            assert size in (SIZE, LARGER)
            assert size == LARGER or "has grown" not in said
            assert image.pread(CLUSTER, SIZE - CLUSTER) == b"A" * CLUSTER
            image.grow(LARGER)
            image.pwrite(b"C" * 512, SIZE)
        with native.Upper(*pair, read_only=True) as upper:
            assert upper.info().virtual_size == LARGER
        seen.add((len(said), size))
    assert {(1, SIZE), (1, LARGER), (2, LARGER)} <= seen
