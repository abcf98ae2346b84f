# SPDX-License-Identifier: Apache-2.0
"""A stack as one disk: its size, its limits, what is zeros, and what is counted."""

import errno

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native

from ..support import layers
from . import raw_layers as raw

CLUSTER = layers.CLUSTER


@pytest.fixture
def image(tmp_path):
    """Opens an image of layers, bytes or pictures, the lowest first."""
    opened = []

    def open_image(*stack, **options):
        paths = [tmp_path / f"layer{number}" for number in range(len(stack))]
        for path, one in zip(paths, stack):
            if isinstance(one, bytes):
                path.write_bytes(one)
            else:
                layers.write_picture(path, one)
        made = [native.Layer.open(str(path)) for path in paths]
        try:
            opened.append(native.Image(made, **options))
        finally:
            for layer in made:
                layer.close()
        return opened[-1]

    yield open_image
    for one in opened:
        one.close()


def sized(size, sectors=0):
    """A plain layer that states its size, with data in its first sectors."""
    index = raw.entry(0, sectors, 8) if sectors else b""
    return raw.lsmt(b"x" * 512 * sectors, index, virtual_size=size)


# ---- size and limits


@pytest.mark.parametrize(
    "sizes, size",
    [
        ([1 << 20], 1 << 20),
        ([1 << 20, 2 << 20], 2 << 20),
        ([2 << 20, 1 << 20], 1 << 20),
        ([1 << 20, 0], 1 << 20),
        ([1 << 20, 0, 512, 0, 0], 512),
        ([1 << 59], 1 << 59),
    ],
)
def test_size_is_that_of_the_topmost_layer_which_states_one(image, sizes, size):
    assert image(*map(sized, sizes)).info().virtual_size == size


def test_stack_without_a_size_is_refused(image):
    with pytest.raises(errors.NativeError, match="virtual_size: no layer") as caught:
        image(sized(0, 1), sized(0))
    assert caught.value.code == errno.EINVAL


def test_data_behind_the_end_is_not_to_be_seen(image):
    one = image("ABCD", sized(2 * CLUSTER))
    assert one.pread(2 * CLUSTER, 0) == layers.view("AB")
    assert one.next_data(CLUSTER) == (CLUSTER, 2 * CLUSTER)
    assert one.next_data(2 * CLUSTER) is None


@pytest.mark.parametrize(
    "count, offset",
    [
        (1, CLUSTER),
        (CLUSTER + 1, 0),
        (1, (1 << 64) - 1),
        (2, (1 << 64) - 1),
        (CLUSTER, (1 << 64) - CLUSTER),
    ],
)
def test_reading_beyond_the_end_is_refused(image, count, offset):
    one = image("A")
    with pytest.raises(errors.NativeError) as caught:
        one.pread(count, offset)
    assert caught.value.code == errno.EINVAL
    assert one.stats().reads == 0


def test_reading_nothing(image):
    assert image("A").pread(0, CLUSTER) == b""


def test_last_byte_of_the_largest_disk(image):
    size = 1 << 59
    # No segment can begin at the last sector: its number marks padding.
    last = raw.lsmt(b"z" * 1024, raw.entry((size >> 9) - 2, 2, 8), virtual_size=size)
    one = image(sized(size, 1), last)
    assert one.pread(1025, size - 1025) == b"\0" + b"z" * 1024
    assert one.next_data(512) == (size - 1024, size)


def test_255_layers_and_no_more(image):
    stack = ["-" * number + "A" for number in range(254)] + ["B" + "-" * 254]
    one = image(*stack)
    assert one.info().layers == 255
    assert one.pread(255 * CLUSTER, 0) == layers.view("B" + "A" * 253 + "-")
    with pytest.raises(errors.NativeError, match="layers: 256 given, an image has 1 to 255"):
        image(*stack, "C")


# ---- zeros


def test_memory_is_cleared_where_nothing_is_mapped(image):
    one = image("A-0B")
    buffer = bytearray(b"\xee" * 4 * CLUSTER)
    one.pread_into(buffer, 0)
    assert buffer == layers.view("A-0B")


def test_ranges_of_data(image):
    one = image("AA-0AAA---", "--B-BB-0--")
    found, offset = [], 0
    while (mapped := one.next_data(offset)) is not None:
        found.append([place // CLUSTER for place in mapped])
        offset = mapped[1]
    assert found == [[0, 3], [4, 7]]
    assert one.next_data(CLUSTER + 1) == (CLUSTER + 1, 3 * CLUSTER)


# ---- what is counted


def test_counters(image):
    one = image("AAAA0-")
    one.pread(CLUSTER, 0)
    one.pread(2 * CLUSTER, 4 * CLUSTER)
    stats = one.stats()
    assert (stats.reads, stats.read_bytes, stats.inline_reads) == (2, 3 * CLUSTER, 2)
    assert (stats.blocks_decoded, stats.block_hits) == (1, 0)
    # A zeroed cluster is somebody's word; only what nobody maps is counted.
    assert stats.zero_bytes == CLUSTER
    assert (stats.errors, stats.slow_reads) == (0, 0)


def test_block_that_is_read_in_parts_is_not_decoded_for_each(image):
    one = image("A")
    read = b"".join(one.pread(512, start) for start in range(0, CLUSTER, 512))
    assert read == layers.view("A")
    stats = one.stats()
    # Perhaps the first part alone, then, as the block is wanted again, all of it.
    assert stats.blocks_decoded <= 2
    assert stats.blocks_decoded + stats.block_hits == 8


def test_mapped_counts_data_alone(image):
    one = image("AAA-", "-0-B")
    info = one.info()
    assert (info.mapped, info.segments, info.layers) == (3 * CLUSTER, 4, 2)
