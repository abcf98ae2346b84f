# SPDX-License-Identifier: Apache-2.0
"""The model of a stack: merging as pictures, and reading at any alignment."""

import errno
import itertools

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.formats import lsmt, stream, view

SECTOR = 512


def drawn(picture, number):
    """A layer of one character a sector: letters are data, 0 is zeroed, - is a hole."""
    segments, data, sector = [], bytearray(4096), 0
    for character, run in itertools.groupby(picture):
        length = len(list(run))
        place = len(data) // SECTOR
        if character != "-":
            segments.append(lsmt.Segment(sector, length, place, character == "0"))
        if character not in "-0":
            data += character.encode() * (length * SECTOR)
        sector += length
    record = lsmt.Record(6, virtual_size=len(picture) * SECTOR)
    return lsmt.Layer(stream.Memory(data), record, record, segments)


def stacked(*pictures):
    return view.View([drawn(picture, number) for number, picture in enumerate(pictures)])


@pytest.mark.parametrize(
    "pictures, merged",
    [
        (["AA--"], "AA00"),
        (["AA--", "-B0-"], "AB00"),
        (["AAAA", "----"], "AAAA"),
        (["----", "BBBB"], "BBBB"),
        (["AAAAAAA", "-B-C-D-"], "ABACADA"),
        (["-B-C-D-", "AAAAAAA"], "AAAAAAA"),
        (["AAAAAA", "-BBBB-", "--00--"], "AB00BA"),
        (["A-A-A-", "-0-0-0", "---B--"], "A0ABA0"),
    ],
)
def test_topmost_layer_wins(pictures, merged):
    read = stacked(*pictures).pread(len(merged) * SECTOR, 0)
    assert read[::SECTOR].replace(b"\0", b"0").decode() == merged
    assert read[SECTOR - 1 :: SECTOR].replace(b"\0", b"0").decode() == merged


def test_merged_segments_are_ascending_and_disjoint_and_name_their_layer():
    segments = stacked("AAAAAA", "-B--0-").segments
    assert [(s.sector, s.length, s.msector, s.zeroed, s.tag) for s in segments] == [
        (0, 1, 8, False, 0),
        (1, 1, 8, False, 1),
        (2, 2, 10, False, 0),
        (4, 1, 9, True, 1),
        (5, 1, 13, False, 0),
    ]


def test_cut_front_of_a_zeroed_segment_keeps_its_place():
    assert lsmt.Segment(10, 10, 50, True).cut(15, 99) == lsmt.Segment(15, 5, 50, True)
    assert lsmt.Segment(10, 10, 50).cut(15, 18) == lsmt.Segment(15, 3, 55)


@pytest.mark.parametrize("shrink", [0, 1])
def test_size_is_that_of_the_topmost_layer_which_states_one(shrink):
    layers = [drawn("A", 0), drawn("BBB", 1), drawn("", 2)]
    assert view.View(layers[: 3 - shrink]).size == 3 * SECTOR


@pytest.mark.parametrize("layers", [[], [drawn("A", 0)] * 256, [drawn("", 0)]])
def test_stack_that_is_none(layers):
    with pytest.raises(errors.FormatError) as caught:
        view.View(layers)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("count, offset", [(1, 3 * SECTOR), (3 * SECTOR + 1, 0), (1, -1)])
def test_reading_beyond_the_disk_is_refused(count, offset):
    with pytest.raises(errors.FormatError, match="of a disk of 1536"):
        stacked("ABC").pread(count, offset)


@pytest.mark.parametrize(
    "pictures, ranges",
    [
        (["--AA--"], [(2, 4)]),
        (["AA--BB"], [(0, 2), (4, 6)]),
        (["AAAAAA", "--0---"], [(0, 2), (3, 6)]),
        (["AAABBB"], [(0, 6)]),
        (["000000"], []),
        (["------"], []),
    ],
)
def test_ranges_of_data(pictures, ranges):
    disk = stacked(*pictures)
    found, offset = [], 0
    while (range_ := disk.next_data(offset)) is not None:
        found.append((range_[0] // SECTOR, range_[1] // SECTOR))
        offset = range_[1]
    assert found == ranges


def test_range_of_data_begins_where_it_is_asked_for():
    assert stacked("AAAA").next_data(700) == (700, 4 * SECTOR)


def test_data_behind_the_end_of_the_disk_is_none():
    layers = [drawn("AAAA", 0), drawn("--", 1)]
    disk = view.View(layers)
    assert disk.next_data(0) == (0, 2 * SECTOR)
    assert disk.next_data(2 * SECTOR) is None


def test_random_stacks_and_reads_against_byte_arrays(rng):
    for _ in range(100):
        width = rng.randrange(1, 60)
        pictures = ["".join(rng.choices("A0-", k=width)) for _ in range(rng.randrange(1, 6))]
        expected = bytearray(width * SECTOR)
        for picture in pictures:
            for sector, character in enumerate(picture):
                if character != "-":
                    fill = b"A" if character == "A" else b"\0"
                    expected[sector * SECTOR : (sector + 1) * SECTOR] = fill * SECTOR
        disk = stacked(*pictures)
        for _ in range(10):
            start = rng.randrange(len(expected))
            count = rng.randrange(len(expected) - start + 1)
            assert disk.pread(count, start) == expected[start : start + count]
