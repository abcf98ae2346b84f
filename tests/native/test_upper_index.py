# SPDX-License-Identifier: Apache-2.0
"""A writable layer's index, held against a list with an entry for each sector."""

import pytest

from ..support.native_test import UpperIndex

MAX_LENGTH = 16383
DISK = 4096
END = 1 << 50


class Model:
    """For each sector None, 0 for zeroed, or the msector of its data."""

    def __init__(self):
        self.sectors = [None] * DISK

    def set(self, sector, length, msector, zeroed):
        """What was there and is data, a sector each."""
        lost = [place for place in self.sectors[sector : sector + length] if place]
        for i in range(length):
            self.sectors[sector + i] = 0 if zeroed else msector + i
        return lost

    def unset(self, sector, end):
        self.sectors[sector:end] = [None] * (end - sector)

    @property
    def mapped(self):
        return sum(1 for place in self.sectors if place)


def spread(segments, sector, end):
    """Segments as the model has them, for sectors [sector, end)."""
    found = [None] * (end - sector)
    for start, length, msector, zeroed in segments:
        for i in range(length):
            if sector <= start + i < end:
                found[start + i - sector] = 0 if zeroed else msector + i
    return found


def check_order(segments):
    for (sector, length, *_), (following, *_) in zip(segments, segments[1:]):
        assert length and sector + length <= following


@pytest.mark.parametrize("exact", [False, True])
def test_random_changes(rng, exact):
    model, place = Model(), 8
    with UpperIndex(exact) as index:
        for step in range(4000):
            sector = rng.randrange(DISK)
            length = min(rng.choice([1, 2, 8, 8, 8, 64, 700]), DISK - sector)
            roll = rng.random()
            if roll < 0.1:
                index.unset(sector, sector + length)
                model.unset(sector, sector + length)
            else:
                zeroed = int(roll < 0.25)
                runs = index.set(sector, length, place, zeroed)
                lost = [run + i for run, count in runs for i in range(count)]
                assert sorted(lost) == sorted(model.set(sector, length, place, zeroed))
                place += 0 if zeroed else length
            start = rng.randrange(DISK)
            end = min(start + rng.randrange(1, 600), DISK)
            assert spread(index.find(start, end, 1000), start, end) == model.sectors[start:end]
            if step % 200 == 0:
                segments = index.find(0, DISK, DISK)
                check_order(segments)
                assert spread(segments, 0, DISK) == model.sectors
                assert index.totals()[:2] == (len(segments), model.mapped)


def test_single_sectors_fill_many_leaves(rng):
    sectors = list(range(0, 100_000, 2))
    rng.shuffle(sectors)
    with UpperIndex() as index:
        for place, sector in enumerate(sectors, start=8):
            index.set(sector, 1, place)
        found = index.find(0, END, len(sectors) + 1)
        assert found == sorted((s, 1, place, 0) for place, s in enumerate(sectors, start=8))
        # half-full pages at worst, and a top array twice as large as it need be
        segments, _, memory = index.totals()
        assert memory < segments * 16 * 2.5


def test_memory_follows_what_is_mapped(rng):
    with UpperIndex() as index:
        for sector in range(0, 200_000, 2):
            index.set(sector, 1, sector + 8)
        for sector in range(0, 190_000, 1000):
            index.set(sector, 1000, 8, 1)
        segments, _, memory = index.totals()
        assert segments < 6000
        assert memory < 16 * segments * 2.5 + 64 * 1024


def test_sequence_fills_pages():
    with UpperIndex() as index:
        for i in range(50_000):
            index.set(3 * i, 2, 8 + 5 * i)
        _, _, memory = index.totals()
        assert memory < 50_000 * 16 * 1.1 + 64 * 1024


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ((0, 8, 100), (8, 8, 108), [(0, 16, 100, 0)]),
        ((8, 8, 108), (0, 8, 100), [(0, 16, 100, 0)]),
        ((0, 8, 100), (8, 8, 109), [(0, 8, 100, 0), (8, 8, 109, 0)]),
        ((0, 8, 100, 1), (8, 8, 500, 1), [(0, 16, 100, 1)]),
        ((0, 8, 100, 1), (8, 8, 108), [(0, 8, 100, 1), (8, 8, 108, 0)]),
        ((0, 16000, 8), (16000, 384, 16008), [(0, 16000, 8, 0), (16000, 384, 16008, 0)]),
        ((0, 16000, 8), (16000, 383, 16008), [(0, 16383, 8, 0)]),
    ],
)
def test_what_continues_becomes_one(first, second, expected):
    with UpperIndex() as index:
        index.set(*first)
        index.set(*second)
        assert index.find(0, END, 9) == expected
    with UpperIndex(exact=True) as index:
        index.set(*first)
        index.set(*second)
        assert len(index.find(0, END, 9)) == 2


def test_gap_that_is_filled_joins_both_sides():
    with UpperIndex() as index:
        for sector in (0, 16, 8):
            index.set(sector, 8, 8 + sector)
        assert index.find(0, END, 9) == [(0, 24, 8, 0)]


def test_hole_in_the_middle():
    with UpperIndex() as index:
        index.set(0, 100, 1000)
        assert index.set(40, 10, 5, 1) == [(1040, 10)]
        assert index.find(0, END, 9) == [(0, 40, 1000, 0), (40, 10, 5, 1), (50, 50, 1050, 0)]
        assert index.set(0, 100, 2000) == [(1000, 40), (1050, 50)]


def test_end_of_the_largest_disk():
    with UpperIndex() as index:
        index.set(END - MAX_LENGTH, MAX_LENGTH, 8)
        index.set(END - 1, 1, 9, 1)
        assert index.find(END - 2, END, 9) == [
            (END - MAX_LENGTH, MAX_LENGTH - 1, 8, 0),
            (END - 1, 1, 9, 1),
        ]


def test_find_stops_at_count_and_end():
    with UpperIndex() as index:
        for sector in range(0, 1000, 10):
            index.set(sector, 1, 8 + sector)
        assert [found[0] for found in index.find(95, 131, 100)] == [100, 110, 120, 130]
        assert [found[0] for found in index.find(95, 131, 2)] == [100, 110]
        assert index.find(991, END, 9) == []
        assert index.find(990, 991, 9) == [(990, 1, 998, 0)]
