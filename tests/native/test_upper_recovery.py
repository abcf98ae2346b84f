# SPDX-License-Identifier: Apache-2.0
"""
Writable layers as the original, a crash or a power cut leave them: what is believed of them, and
what is damage.
"""

import errno
import os
import shutil
import subprocess

import pytest

from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import lsmt, writable

from ..support import golden, native_test
from . import raw_layers
from . import upper_files as files


@pytest.fixture
def pair(tmp_path):
    """Paths of a pair that is not there yet."""
    return str(tmp_path / "data"), str(tmp_path / "index")


# ---- left by the original


@pytest.fixture
def theirs(tmp_path):
    """The original's own: a pair, its sparse cousin and its sealed form, over plain/layer0."""
    archive = golden.folder() / "rw" / "layer1.rw.tar.gz"
    subprocess.run(["tar", "-xSzf", archive, "-C", tmp_path], check=True)
    return tmp_path


def ranges(image):
    """[(offset, data)] of all that is mapped and is not zero."""
    found, at = [], 0
    while (found_range := image.next_data(at)) is not None:
        start, at = found_range
        found.append((start, image.pread(at - start, start)))
    return found


def committed():
    """What the original has made of the pair."""
    layers = golden.layers_of("plain/layer0.lsmt + plain/layer1.lsmt")
    with native.Image([native.Layer.open(str(path)) for path in layers]) as image:
        return ranges(image)


@pytest.mark.parametrize("kind", ["", ".sparse"])
def test_the_originals_layers_show_what_it_committed(theirs, kind):
    lower = golden.folder() / "plain" / "layer0.lsmt"
    pair = str(theirs / f"layer1{kind}.data"), str(theirs / f"layer1{kind}.index")
    for _ in range(2):  # as it is, and when we had it
        with native.Image([native.Layer.open(str(lower))], upper=native.Upper(*pair)) as image:
            assert spread(ranges(image)) == spread(committed())


def spread(found):
    """By sector, without zeros: a sparse layer has no others."""
    sectors = {}
    for offset, data in found:
        for at in range(0, len(data), files.SECTOR):
            if data[at : at + files.SECTOR].strip(b"\0"):
                sectors[offset + at] = data[at : at + files.SECTOR]
    return sectors


def test_ours_is_sealed_as_theirs(theirs):
    """Up to the rubbish between the entries and the trailer."""
    pair = str(theirs / "layer1.data"), str(theirs / "layer1.index")
    with native.Upper(*pair, exact=True) as upper:
        upper.seal()
    ours, original = files.content_of(pair[0]), files.content_of(theirs / "layer1.sealed")
    trailer = lsmt.Record.parse(original[-4096:])
    end = trailer.index_offset + 16 * trailer.index_size
    assert len(ours) == len(original)
    assert ours[:end] == original[:end]
    assert ours[-4096:] == original[-4096:]


class TestTorn:
    """A pair the original wrote, and what a crash may have made of it."""

    @pytest.fixture
    def model(self, pair):
        one = writable.Pair(files.SIZE)
        one.write(b"a" * 4096, 0)
        one.write(b"b" * 4096, 8192)
        one.discard(4096, 4096)
        self.save(pair, one)
        return one

    @staticmethod
    def save(pair, model):
        for path, content in zip(pair, (model.data, model.index)):
            with open(path, "wb") as file:
                file.write(content)

    @staticmethod
    def reopened(pair):
        """What it shows read-only, then when it is opened for writing, written and opened again."""
        first = files.shown(pair)
        with native.Image([], upper=native.Upper(*pair)) as image:
            assert image.pread(files.SIZE, 0) == first
            image.pwrite(b"n" * 512, 65536)
        with native.Image([], upper=native.Upper(*pair)) as image:
            assert image.pread(files.SIZE, 0) == first[:65536] + b"n" * 512 + first[66048:]
        files.load(pair)  # the original's rules
        return first

    @pytest.mark.parametrize("stray", [0, 1, 8, 15])
    def test_entry_cut_short(self, pair, model, stray):
        with open(pair[1], "ab") as file:
            file.write(b"\x5a" * stray)
        assert self.reopened(pair)[:12288] == b"a" * 4096 + bytes(4096) + b"b" * 4096

    @pytest.mark.parametrize("missing", [1, 511, 512, 4095, 4096])
    def test_data_cut_short(self, pair, model, missing):
        """The write whose data is not there was never synced."""
        os.truncate(pair[0], len(model.data) - missing)
        assert self.reopened(pair)[:12288] == b"a" * 4096 + bytes(8192)

    def test_data_lost_altogether(self, pair, model):
        os.truncate(pair[0], files.HEADER)
        assert self.reopened(pair) == bytes(files.SIZE)

    def test_data_that_is_no_multiple_of_a_sector(self, pair, model):
        with open(pair[0], "ab") as file:
            file.write(b"torn")
        assert self.reopened(pair)[:12288] == b"a" * 4096 + bytes(4096) + b"b" * 4096
        assert files.size(pair[0]) % files.SECTOR == 0

    def test_page_of_entries_that_never_reached_the_disk(self, pair, model):
        os.truncate(pair[1], len(model.index) + 160)
        assert self.reopened(pair)[:12288] == b"a" * 4096 + bytes(4096) + b"b" * 4096

    def test_padding_of_a_group_commit(self, pair, model):
        padding = raw_layers.entry(raw_layers.PADDING, 0, 0)
        entry = bytes(model.index[files.HEADER : files.HEADER + 16])
        with open(pair[1], "wb") as file:
            file.write(model.index + padding * 100 + entry + padding * 27)
        assert self.reopened(pair)[:12288] == b"a" * 4096 + bytes(4096) + b"b" * 4096

    def test_write_of_nothing_before_any_data(self, pair, model):
        """The original refuses its own file then."""
        with open(pair[1], "wb") as file:
            file.write(
                model.index[: files.HEADER]
                + raw_layers.entry(5, 0, 7)
                + bytes(model.index[files.HEADER :])
            )
        assert self.shown_and_closed(pair)[:12288] == b"a" * 4096 + bytes(4096) + b"b" * 4096

    @staticmethod
    def shown_and_closed(pair):
        native.Upper(*pair).close()
        return files.shown(pair)

    @pytest.mark.parametrize(
        "bad, fault",
        [
            (raw_layers.entry(0, 8, 7), "is mapped outside the layer's data"),
            (raw_layers.entry(0, 8, 1 << 40), "is mapped outside the layer's data"),
            (raw_layers.entry((1 << 50) - 4, 8, 8), "ends beyond sector 2^50"),
        ],
    )
    def test_damage_in_the_middle_is_refused(self, pair, model, bad, fault):
        files.patch(pair[1], files.HEADER, bad)
        code, text = files.refusal(pair)
        assert code == errno.EINVAL
        assert text.startswith(f"{pair[1]}: LSMT index entry at offset 4096 {fault}")

    def test_dropped_entries_are_counted(self, pair, model):
        os.truncate(pair[0], files.HEADER)
        with native.Upper(*pair, read_only=True) as upper:
            assert upper.info().dropped == 3


class TestConfirmed:
    """What our checkpoints say, and when they are believed."""

    @pytest.fixture
    def crashed(self, pair, tmp_path):
        """Files as they are when the writer is killed: a is confirmed, b is not."""
        copy = str(tmp_path / "data.copy"), str(tmp_path / "index.copy")
        native.create_upper(*pair, files.SIZE)
        with native.Image([], upper=native.Upper(*pair)) as image:
            image.pwrite(b"a" * 4096, 0)
            image.flush()
            image.pwrite(b"b" * 4096, 4096)
            for source, target in zip(pair, copy):
                shutil.copyfile(source, target)
        return copy

    @pytest.fixture
    def other_boot(self):
        native_test.upper_boot(b"another boot    ")
        yield
        native_test.upper_boot(None)

    def test_same_boot_believes_all(self, crashed):
        assert files.shown(crashed, count=8192) == b"a" * 4096 + b"b" * 4096

    def test_another_boot_believes_what_was_confirmed(self, crashed, other_boot):
        assert files.shown(crashed, count=8192) == b"a" * 4096 + bytes(4096)
        with native.Upper(*crashed) as upper:
            assert upper.info().dropped == 1
        assert files.content_of(crashed[1])[files.HEADER :] == raw_layers.entry(0, 8, 8)
        assert files.size(crashed[0]) == files.HEADER + 4096

    def test_unknown_boot_is_another_one(self, crashed):
        native_test.upper_boot(bytes(16))
        try:
            assert files.shown(crashed, count=8192) == b"a" * 4096 + bytes(4096)
        finally:
            native_test.upper_boot(None)

    def test_closed_layer_is_believed_at_any_boot(self, pair, other_boot):
        files.written(pair, (b"a" * 4096, 0))
        native_test.upper_boot(b"yet another boot")
        assert files.shown(pair, count=4096) == b"a" * 4096

    def test_what_the_original_wrote_behind_ours_is_believed(self, pair, other_boot):
        files.written(pair, (b"a" * 4096, 0))
        with open(pair[0], "ab") as data, open(pair[1], "ab") as index:
            data.write(b"t" * 4096)
            index.write(raw_layers.entry(8, 8, 16))
        native_test.upper_boot(b"yet another boot")
        assert files.shown(pair, count=8192) == b"a" * 4096 + b"t" * 4096

    def test_confirmed_data_that_is_gone_is_told(self, crashed):
        os.truncate(crashed[0], files.HEADER + 512)
        code, text = files.refusal(crashed)
        assert code == errno.EINVAL
        assert "ends at offset 4608, but data up to offset 8192 was confirmed" in text

    def test_confirmed_entry_that_makes_no_sense_is_told(self, pair):
        files.written(pair, (b"a" * 4096, 0))
        files.patch(pair[1], files.HEADER, raw_layers.entry(0, 8, 4000))
        # the checkpoint's sum says that this entry is not the one: the one before it confirms none
        code, text = files.refusal(pair)
        assert code == errno.EINVAL and "LSMT index entry at offset 4096" in text
