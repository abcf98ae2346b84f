# SPDX-License-Identifier: Apache-2.0
"""
Random layers, committed and merged by the core, are what the plain model makes of them, byte for
byte, on any number of threads; and read back, by the core, they show what was painted.
"""

import contextlib

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native, writing
from overlaybd_tcmu.formats import commit, layer, lsmt, stream, tar, writable, zfile

from ..support import codecs, random_layers

SECTOR = 512
TWO_TIB = 1 << 32  # sectors
# (base, sectors) of the window, sectors of data a layer has, longest segment, stacks
SHAPES = {
    "small": ((0, 24), 20, 6, 25),
    "many segments": ((0, 1500), 300, 20, 10),
    "long segments": ((0, 9000), 1500, 3000, 6),
    "longer than entries": ((0, 60_000), 20_000, 16_383, 2),
    "around 2 TiB": ((TWO_TIB - 700, 1500), 300, 60, 6),
}
# The model takes a second for ten megabytes of checksums.
ALGORITHMS = {"longer than entries": (writing.Algorithm.NONE,)}
PARENTS = ["", "0123ABCD-4567-89AB-CDEF-0123456789AB"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def output_of(rng, path, algorithms=tuple(writing.Algorithm)):
    """Some way of writing a layer, and what the model's bytes become by it."""
    algorithm = rng.choice(algorithms)
    block_size = 512 << rng.randrange(8)
    final, in_tar = rng.random() < 0.5, rng.random() < 0.3
    output = writing.Output(
        str(path),
        replace=True,
        tar=in_tar,
        algorithm=algorithm,
        block_size=block_size,
        final_header=final,
        threads=rng.choice((1, 1, 2, 3, 8)),
    )

    def wrap(plain):
        if algorithm is not writing.Algorithm.NONE:
            how = {"final": final, "compressor": codecs.compress}
            plain = zfile.encode(plain, int(algorithm), block_size, **how)
        return tar.wrap(plain) if in_tar else plain

    return output, wrap


def assert_shows(path, window):
    with native.Image([native.Layer.open(str(path))]) as image:
        read = image.pread(len(window.painted), window.base * SECTOR)
    assert (read == window.painted) is True


@pytest.mark.parametrize("shape", SHAPES)
def test_layers_are_merged_as_the_model_merges_them(folder, rng, shape):
    place, data, longest, stacks = SHAPES[shape]
    algorithms = [ALGORITHMS[shape]] if shape in ALGORITHMS else []
    for _ in range(stacks):
        window = random_layers.Window(*place)
        paths = [folder / f"layer{number}" for number in range(rng.choice((1, 1, 2, 3, 9)))]
        kinds = [random_layers.write_layer(rng, path, window, data, longest) for path in paths]
        output, wrap = output_of(rng, folder / "out", *algorithms)
        names = {"message": rng.randbytes(rng.choice((0, 9, 256))), "uuid": rng.choice(PARENTS)}
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(stream.File(path)) for path in paths]
            expected = wrap(commit.commit([layer.load(file) for file in files], **names))
            layers = [stack.enter_context(native.Layer.open(str(path))) for path in paths]
            writing.commit(layers, None, output, names["uuid"] or None, message=names["message"])
        assert ((folder / "out").read_bytes() == expected) is True, (kinds, output)
        assert_shows(folder / "out", window)


def write_somewhere(rng, pair, window, longest):
    """A write or a discard of a random pair."""
    start = rng.randrange(window.sectors)
    count = rng.randint(1, min(longest, window.sectors - start))
    at = (window.base + start) * SECTOR
    if rng.random() < 0.2:
        part = bytes(count * SECTOR)
        pair.discard(len(part), at)
    else:
        part = random_layers.data_of(rng, count)
        pair.write(part, at)
    window.painted[start * SECTOR : (start + count) * SECTOR] = part


@pytest.mark.parametrize("shape", SHAPES)
def test_writable_layer_is_committed_as_the_model_does(folder, rng, shape):
    place, _, longest, _ = SHAPES[shape]
    algorithms = [ALGORITHMS[shape]] if shape in ALGORITHMS else []
    for _ in range(4):
        window = random_layers.Window(*place)
        pair = writable.Pair(window.size, parent_uuid=rng.choice(PARENTS))
        for _ in range(rng.randrange(60)):
            write_somewhere(rng, pair, window, longest)
        (folder / "data").write_bytes(pair.data)
        (folder / "index").write_bytes(pair.index)
        model = writable.load_pair(stream.Memory(pair.data), stream.Memory(pair.index))
        output, wrap = output_of(rng, folder / "out", *algorithms)
        with native.Upper(str(folder / "data"), str(folder / "index"), read_only=True) as upper:
            writing.commit([], upper, output)
        assert ((folder / "out").read_bytes() == wrap(commit.commit([model]))) is True, output
        assert_shows(folder / "out", window)


def test_writable_layer_is_merged_with_those_below(folder, rng):
    for _ in range(10):
        window = random_layers.Window(0, 2000)
        paths = [folder / f"layer{number}" for number in range(rng.randint(1, 4))]
        for path in paths:
            random_layers.write_layer(rng, path, window, 500, 80)
        pair = writable.Pair(rng.choice((0, window.size)))
        for _ in range(30):
            write_somewhere(rng, pair, window, 80)
        (folder / "data").write_bytes(pair.data)
        (folder / "index").write_bytes(pair.index)
        with contextlib.ExitStack() as stack:
            layers = [stack.enter_context(native.Layer.open(str(path))) for path in paths]
            upper = native.Upper(str(folder / "data"), str(folder / "index"), read_only=True)
            stack.enter_context(upper)
            writing.commit(layers, upper, output_of(rng, folder / "out")[0])
        assert_shows(folder / "out", window)


# ---- the edges


def layer_of(path, segments, data=b"", virtual_size=1 << 40):
    raw = commit.assemble(
        data, commit.padded_index(segments), lsmt.Record(0, virtual_size=virtual_size)
    )
    path.write_bytes(raw)
    return native.Layer.open(str(path))


def test_layer_without_segments(folder):
    with layer_of(folder / "layer", []) as only:
        writing.commit([only], None, writing.Output(str(folder / "out")))
    assert (folder / "out").stat().st_size == 2 * lsmt.RECORD_SIZE


def test_layer_of_zeroed_segments_alone(folder):
    segments = [lsmt.Segment(at, 16_383, 8, True) for at in range(0, 400_000, 20_000)]
    with layer_of(folder / "layer", segments) as only:
        writing.commit([only], None, writing.Output(str(folder / "out"), threads=3))
    with stream.File(folder / "out") as file:
        assert list(lsmt.load(file).segments) == segments


@pytest.mark.parametrize("count, padded", [(255, 256), (256, 256), (257, 512)])
def test_index_is_padded_to_a_page(folder, count, padded):
    segments = [lsmt.Segment(at * 2, 1, 8, True) for at in range(count)]
    with layer_of(folder / "layer", segments) as only:
        writing.commit([only], None, writing.Output(str(folder / "out")))
    with stream.File(folder / "out") as file:
        assert lsmt.load(file).trailer.index_size == padded


def test_more_segments_than_can_be_read_back_are_refused(folder):
    sectors = range(0, 1_100_000, 2)
    entries = b"".join(lsmt.Segment(at, 1, 8, True).pack() for at in sectors)
    fields = lsmt.Record(0, virtual_size=1 << 40)
    layers = []
    for number, shift in enumerate((0, 1_200_000)):
        moved = entries if not shift else _shifted(entries, shift)
        path = folder / f"layer{number}"
        path.write_bytes(commit.assemble(b"", moved, fields))
        layers.append(native.Layer.open(str(path)))
    with contextlib.ExitStack() as stack:
        for one in layers:
            stack.enter_context(one)
        with pytest.raises(errors.NativeError, match="more than 999936 segments") as caught:
            writing.commit(layers, None, writing.Output(str(folder / "out")))
    assert caught.value.code == 27
    assert not (folder / "out").exists()


def _shifted(entries, sectors):
    words = memoryview(bytearray(entries)).cast("Q")
    for at in range(0, len(words), 2):
        words[at] += sectors
    return words.tobytes()


def test_source_that_ends_early_is_an_error(folder, rng):
    data = rng.randbytes(1 << 20)
    pair = writable.Pair(1 << 20)
    pair.write(data, 0)
    (folder / "data").write_bytes(pair.data)
    (folder / "index").write_bytes(pair.index)
    with native.Upper(str(folder / "data"), str(folder / "index"), read_only=True) as upper:
        with open(folder / "data", "r+b") as file:
            file.truncate(700_000)
        with pytest.raises(errors.NativeError, match=r"data: reading \d+ bytes at offset \d+"):
            writing.commit([], upper, writing.Output(str(folder / "out"), threads=2))
    assert not (folder / "out").exists()
