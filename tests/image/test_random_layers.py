# SPDX-License-Identifier: Apache-2.0
"""
Stacks of random layers: the core, with each engine, and the plain model read the same bytes, at any
offset and length, as were painted.
"""

import contextlib
import os
from unittest import mock

import pytest

from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import layer, stream, view

from ..support import engines, random_layers

READS = 60
TWO_TIB = 1 << 32  # sectors
LAST = (1 << 50) - 5000
# (base, sectors) of the window, sectors of data a layer has, longest segment, stacks
SHAPES = {
    "small": ((0, 24), 20, 6, 40),
    "many segments": ((0, 1500), 300, 20, 12),
    "long segments": ((0, 9000), 1500, 3000, 8),
    "one after the other": ((0, 3000), 2000, 2000, 8),
    "around 2 TiB": ((TWO_TIB - 700, 1500), 300, 60, 10),
    "at the end of what an index reaches": ((LAST, 4999), 300, 600, 10),
}


def stacked(rng, folder, shape):
    """Files of a random stack, the lowest first, its window, and what each is wrapped in."""
    place, data, longest, _ = SHAPES[shape]
    window = random_layers.Window(*place)
    paths, kinds = [], []
    for number in range(rng.choice((1, 1, 2, 3, 5, 9))):
        path = folder / f"layer{number}"
        kinds.append(random_layers.write_layer(rng, path, window, data, longest))
        paths.append(path)
    return paths, window, kinds


def read_of(rng, window):
    """(count, offset) in the window: near what matters or anywhere; mostly short, some are long."""
    total = len(window.painted)
    start = rng.randrange(total)
    if rng.random() < 0.5:
        start = min(max(start // 512 * 512 + rng.choice((-1, 0, 1)), 0), total - 1)
    longest = rng.choice((1, 512, 513, 5000, 70_000, 1 << 20, total))
    return rng.randint(1, min(longest, total - start)), start


def open_image(paths, engine, rng):
    """As the daemon does, with helpers or without; by system calls or, as if busy, in place."""
    direct = engine == native.Engine.LIBAIO
    layers = [native.Layer.open(str(path), direct) for path in paths]
    in_place = {"OVERLAYBD_IN_PLACE": rng.choice(("always", "never"))}
    options = {"helpers": rng.choice((0, 1, 3)), "depth": rng.choice((0, 1, 8))}
    with mock.patch.dict(os.environ, in_place):
        return native.Image(layers, engine, **options)


def assert_reads_as_painted(disk, window, reads, told):
    base = window.base * 512
    for count, start in reads:
        read = disk.pread(count, base + start)
        # No comparison of a megabyte is printed.
        assert len(read) == count, (told, count, start)
        assert (read == window.painted[start : start + count]) is True, (told, count, start)


def ranges_from(disk, offsets):
    return [disk.next_data(offset) for offset in offsets]


@pytest.mark.parametrize("shape", SHAPES)
def test_core_and_model_read_what_was_painted(tmp_path, rng, shape):
    stacks = SHAPES[shape][3]
    for number in range(stacks // 4 if engines.SANITIZED else stacks):
        paths, window, kinds = stacked(rng, tmp_path, shape)
        reads = [read_of(rng, window) for _ in range(READS)] + [(len(window.painted), 0)]
        offsets = [rng.randrange(window.size) for _ in range(20)]
        offsets += [window.base * 512 + start for _, start in reads] + [window.size]
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(stream.File(path)) for path in paths]
            model = view.View([layer.load(file) for file in files])
            assert_reads_as_painted(model, window, reads[-5:], ("model", number, kinds))
            expected = ranges_from(model, offsets)
        for engine in engines.ALL:
            with open_image(paths, engine, rng) as image:
                assert_reads_as_painted(image, window, reads, (engine, number, kinds))
                assert ranges_from(image, offsets) == expected
                assert image.info().virtual_size == model.size
                assert image.info().mapped == model.mapped
                assert image.info().segments == len(model.segments)
