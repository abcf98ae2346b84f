# SPDX-License-Identifier: Apache-2.0
"""
What is gone through in strips, because there is no memory for all of it at once, comes out as if it
had been there at once: wherever strips end, byte for byte.
"""

import contextlib
import os

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native, writing
from overlaybd_tcmu.formats import commit, layer, lsmt, stream, writable, zfile
from overlaybd_tcmu.tools import export

from ..support import codecs, native_test, random_layers
from .test_random_layers import write_somewhere

SECTOR = 512
TO_COMMIT = native.Lean.TO_COMMIT
BUDGETS = (1, 2, 5, 40)


@pytest.fixture
def budget():
    """Sets how many segments of a layer may be held at a time."""
    yield native_test.feed_budget
    native_test.feed_budget(0)


def committed(folder, layers, upper=None, threads=1):
    """The bytes of what they are together, as a plain layer."""
    writing.commit(layers, upper, writing.Output(str(folder / "out"), True, threads=threads))
    return (folder / "out").read_bytes()


def written_layers(rng, folder, window, count, data, longest):
    """The paths of so many."""
    paths = [folder / f"layer{number}" for number in range(count)]
    for path in paths:
        random_layers.write_layer(rng, path, window, data, longest)
    return paths


def lean_layers(stack, paths):
    lean = native.Lean.TO_COMMIT
    return [stack.enter_context(native.Layer.open(str(path), lean=lean)) for path in paths]


def lean_upper(folder):
    return native.Upper(str(folder / "data"), str(folder / "index"), lean=True)


def write_pair(rng, folder, window, changes, longest):
    pair = writable.Pair(window.size)
    for _ in range(changes):
        write_somewhere(rng, pair, window, longest)
    (folder / "data").write_bytes(pair.data)
    (folder / "index").write_bytes(pair.index)
    return writable.load_pair(stream.Memory(pair.data), stream.Memory(pair.index))


@pytest.mark.parametrize("sectors, longest", [(40, 8), (1500, 40), (9000, 3000), (40_000, 16_383)])
def test_appended_layer(tmp_path, rng, budget, sectors, longest):
    for _ in range(2):
        window = random_layers.Window(0, sectors)
        model = write_pair(rng, tmp_path, window, rng.randrange(90), longest)
        expected = commit.commit([model])
        for held in BUDGETS:
            budget(held)
            with lean_upper(tmp_path) as upper:
                found = committed(tmp_path, [], upper, threads=rng.choice((1, 3)))
            assert (found == expected) is True, held


def test_segments_as_long_as_can_be_over_every_border(tmp_path, rng, budget):
    """Rejoined in halves they would be another entry: steps are joined up to 16382 only."""
    pair = writable.Pair(1 << 30)
    for number in range(24):
        at = (number * 7 % 24) * 16_383 * SECTOR
        pair.discard(16_383 * SECTOR, at)
        pair.write(random_layers.data_of(rng, 1), at + rng.randrange(16_383) * SECTOR)
    (tmp_path / "data").write_bytes(pair.data)
    (tmp_path / "index").write_bytes(pair.index)
    with native.Upper(str(tmp_path / "data"), str(tmp_path / "index"), read_only=True) as upper:
        expected = committed(tmp_path, [], upper)
    for held in BUDGETS:
        budget(held)
        with lean_upper(tmp_path) as upper:
            assert (committed(tmp_path, [], upper) == expected) is True, held


@pytest.mark.parametrize(
    "sectors, data, longest", [(24, 20, 6), (1500, 300, 20), (9000, 1500, 3000)]
)
def test_stack_of_layers(tmp_path, rng, budget, sectors, data, longest):
    for _ in range(4):
        window = random_layers.Window(0, sectors)
        count = rng.choice((1, 2, 3, 9))
        paths = written_layers(rng, tmp_path, window, count, data, longest)
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(stream.File(path)) for path in paths]
            expected = commit.commit([layer.load(file) for file in files])
            layers = lean_layers(stack, paths)
            for held in BUDGETS:
                budget(held)
                found = committed(tmp_path, layers, threads=rng.choice((1, 3)))
                assert (found == expected) is True, held


def test_appended_layer_over_others(tmp_path, rng, budget):
    for _ in range(4):
        window = random_layers.Window(0, 2000)
        paths = written_layers(rng, tmp_path, window, rng.randint(1, 3), 500, 80)
        write_pair(rng, tmp_path, window, 40, 80)
        with contextlib.ExitStack() as stack:
            whole = [stack.enter_context(native.Layer.open(str(path))) for path in paths]
            pair = str(tmp_path / "data"), str(tmp_path / "index")
            upper = stack.enter_context(native.Upper(*pair, read_only=True))
            expected = committed(tmp_path, whole, upper)
            layers = lean_layers(stack, paths)
            upper = stack.enter_context(native.Upper(*pair, lean=True))
            for held in BUDGETS:
                budget(held)
                found = committed(tmp_path, layers, upper, threads=rng.choice((1, 3)))
                assert (found == expected) is True, held


def test_appended_layer_is_sealed(tmp_path, rng, budget):
    model = write_pair(rng, tmp_path, random_layers.Window(0, 1500), 60, 40)
    before = {name: (tmp_path / name).read_bytes() for name in ("data", "index")}
    sealed = []
    for held in (0, *BUDGETS):
        budget(held)
        for name, content in before.items():
            (tmp_path / name).write_bytes(content)
        with native.Upper(str(tmp_path / "data"), str(tmp_path / "index"), exact=True) as upper:
            upper.seal()
        sealed.append((tmp_path / "data").read_bytes())
    assert sealed[0][: len(before["data"])] == before["data"]
    assert all(one == sealed[0] for one in sealed)
    with stream.File(tmp_path / "data") as file:
        assert lsmt.load(file).segments == model.segments


def test_sparse_layer(tmp_path, rng, budget):
    """Extents longer than an entry, too."""
    pair = str(tmp_path / "data"), str(tmp_path / "index")
    native.create_upper(*pair, 1 << 30, sparse=True)
    with open(tmp_path / "data", "r+b") as file:
        for _ in range(12):
            file.seek(lsmt.RECORD_SIZE + rng.randrange(1 << 17) * 4096)
            file.write(rng.randbytes(rng.choice((4096, 65_536, 9 << 20))))
    os.truncate(tmp_path / "data", lsmt.RECORD_SIZE + (1 << 30))
    with native.Upper(*pair, read_only=True) as upper:
        expected = committed(tmp_path, [], upper)
    for held in (1, 5):
        budget(held)
        with native.Upper(*pair, lean=True) as upper:
            assert (committed(tmp_path, [], upper) == expected) is True, held


def test_damaged_entry_is_refused_as_ever(tmp_path, rng, budget):
    write_pair(rng, tmp_path, random_layers.Window(0, 1500), 60, 40)
    with open(tmp_path / "index", "r+b") as file:
        file.seek(lsmt.RECORD_SIZE + 16 * 30)
        file.write(lsmt.Segment(0, 8, 1 << 40).pack())
    budget(3)
    for lean in (False, True):
        with pytest.raises(
            errors.NativeError, match="index: LSMT index entry at offset 4576 is mapped"
        ):
            native.Upper(str(tmp_path / "data"), str(tmp_path / "index"), True, lean=lean)


def test_index_that_changes_while_it_is_read(tmp_path):
    """It was checked when the layer was opened; what is read later is checked again."""
    data = bytes(range(256)) * (8 << 12)
    plain = commit.assemble(
        data,
        commit.padded_index([lsmt.Segment(0, 16_383, lsmt.FIRST_SECTOR)]),
        lsmt.Record(0, virtual_size=len(data)),
    )
    encoded = zfile.encode(plain, 1, 512, compressor=codecs.compress)
    (tmp_path / "layer").write_bytes(encoded)
    with native.Layer.open(str(tmp_path / "layer"), lean=TO_COMMIT) as one:
        with open(tmp_path / "layer", "r+b") as file:
            file.seek(-512 - 4 * 12_000, os.SEEK_END)
            file.write(bytes(4 * 100))
        with pytest.raises(errors.NativeError, match="ZFile index of block 4096 again"):
            writing.commit([one], None, writing.Output(str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_lean_layer_holds_little_of_its_index(tmp_path):
    segments = [lsmt.Segment(at, 1, lsmt.FIRST_SECTOR, True) for at in range(0, 20_000, 2)]
    plain = commit.assemble(bytes(8 << 20), commit.padded_index(segments), lsmt.Record(0))
    (tmp_path / "layer").write_bytes(zfile.encode(plain, 1, 512, compressor=codecs.compress))
    with native.Layer.open(str(tmp_path / "layer")) as one:
        assert one.info().memory > 190_000
    with native.Layer.open(str(tmp_path / "layer"), lean=TO_COMMIT) as one:
        assert one.info().memory < 1000


def test_no_image_is_made_of_layers_to_commit(tmp_path):
    plain = commit.assemble(b"", commit.padded_index([]), lsmt.Record(0, virtual_size=1 << 20))
    (tmp_path / "layer").write_bytes(zfile.encode(plain, 1, 4096, compressor=codecs.compress))
    one = native.Layer.open(str(tmp_path / "layer"), lean=TO_COMMIT)
    with one, pytest.raises(errors.NativeError, match="was opened lean"):
        native.Image([one])


def test_no_image_is_made_of_lean_layers_and_others(tmp_path):
    plain = commit.assemble(b"", commit.padded_index([]), lsmt.Record(0, virtual_size=1 << 20))
    (tmp_path / "layer").write_bytes(plain)
    one = native.Layer.open(str(tmp_path / "layer"))
    other = native.Layer.open(str(tmp_path / "layer"), lean=native.Lean.IN_ORDER)
    with one, other, pytest.raises(errors.NativeError, match="lean layers and others"):
        native.Image([one, other])


class Collected:
    """A sink that keeps all of it."""

    def __init__(self):
        self.content = bytearray()

    def data(self, view):
        self.content += view

    def hole(self, count):
        self.content += bytes(count)


def test_image_is_exported_in_parts(tmp_path, rng, budget):
    for _ in range(4):
        window = random_layers.Window(0, 2000)
        paths = written_layers(rng, tmp_path, window, rng.randint(0, 3), 500, 80)
        if not paths or rng.random() < 0.7:
            write_pair(rng, tmp_path, window, 40, 80)
            upper = [tmp_path / "data", tmp_path / "index"]
        else:
            upper = []
        for held in (0, *BUDGETS):
            budget(held)
            lean = native.Lean.IN_ORDER
            layers = [native.Layer.open(str(path), lean=lean) for path in paths]
            top = native.Upper(*map(str, upper), lean=True) if upper else None
            with native.Image(layers, upper=top) as image:
                sink = Collected()
                export.copy_in_order(image, sink, lambda done: None)
            painted = bytes(window.painted).ljust(len(sink.content), b"\0")
            assert (sink.content == painted) is True, held
