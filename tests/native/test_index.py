# SPDX-License-Identifier: Apache-2.0
"""
The merged index against models that are too simple to be wrong: a dict of sectors for what merging
gives, and counting segments that end at or before a sector for what finding gives.
"""

import bisect
import errno
import itertools
import subprocess
import sys

import pytest

from ..support import native_test

MAX_SECTOR = (1 << 50) - 2
MAX_LENGTH = (1 << 14) - 1
TWO_TIB = 1 << 32
TABLE_MEMORY_MAX = 512 * 1024


def parse(picture):
    """One layer from one character a sector: letters are data, 0 is zeroed, - is a hole."""
    segments, sector = [], 0
    for character, run in itertools.groupby(picture):
        length = len(list(run))
        if character != "-":
            segments.append((sector, length, 100 + sector, int(character == "0")))
        sector += length
    return segments


def draw(index, pictures):
    """The merged view as a picture, each sector fetched from where the index says it lives."""
    width = max(map(len, pictures))
    view = ["-"] * width
    for sector, length, msector, zeroed, layer in index.segments():
        for i in range(length):
            view[sector + i] = "0" if zeroed else pictures[layer][msector - 100 + i]
    return "".join(view)


@pytest.mark.parametrize(
    "lower, upper, merged",
    [
        ("AAAA", "----", "AAAA"),
        ("----", "BBBB", "BBBB"),
        ("AAAA", "BBBB", "BBBB"),
        ("AAAA", "-BB-", "ABBA"),
        ("AAAA", "BB--", "BBAA"),
        ("AAAA", "--BB", "AABB"),
        ("AA--", "--BB", "AABB"),
        ("A-C-E-G", "-BBBBB-", "ABBBBBG"),
        ("AACCEEG", "-BBBBB-", "ABBBBBG"),
        ("AAAAAAA", "-B-C-D-", "ABACADA"),
        ("AAAA", "-00-", "A00A"),
        ("0000", "-BB-", "0BB0"),
        ("0000", "-00-", "0000"),
        ("AA-CC", "BBBBB", "BBBBB"),
        ("-AA-", "B--B", "BAAB"),
        ("ABCDEF", "XX--YY", "XXCDYY"),
        ("", "", ""),
    ],
)
def test_merge_two(lower, upper, merged):
    with native_test.Index([parse(lower), parse(upper)]) as index:
        assert draw(index, [lower, upper]) == merged if merged else len(index) == 0


@pytest.mark.parametrize(
    "pictures, merged",
    [
        (["AB0-"], "AB0-"),
        (["AAAAAA", "-BBBB-", "--CC--"], "ABCCBA"),
        (["--AA--", "-BBBB-", "CCCCCC"], "CCCCCC"),
        (["AAAAAA", "-0000-", "--CC--"], "A0CC0A"),
        (["AAAA", "----", "--C-", "D---"], "DACA"),
        (["AAAAAAAA", "BB------", "--CC----", "----DD--", "------E-"], "BBCCDDEA"),
    ],
)
def test_merge_more(pictures, merged):
    with native_test.Index([parse(picture) for picture in pictures]) as index:
        assert draw(index, pictures) == merged


def test_front_trim_moves_data_but_not_zeroed():
    lower = [(0, 8, 100, 0), (8, 8, 200, 1)]
    upper = [(0, 3, 900, 0), (8, 3, 900, 0)]
    with native_test.Index([lower, upper]) as index:
        assert [s for s in index.segments() if s[4] == 0] == [
            (3, 5, 103, 0, 0),
            (11, 5, 200, 1, 0),
        ]


def test_neighbours_stay_apart():
    lower, upper = [(0, 4, 100, 0)], [(4, 4, 104, 0)]
    with native_test.Index([lower, lower + upper]) as index:
        assert index.segments() == [(0, 4, 100, 0, 1), (4, 4, 104, 0, 1)]


def test_layer_number_of_the_input_is_replaced():
    segment = (0, 1, 5 | 77 << 56, 0)
    with native_test.Index([[segment], [(1, 1, 6 | 99 << 56, 0)]]) as index:
        assert index.segments() == [(0, 1, 5, 0, 0), (1, 1, 6, 0, 1)]


# ---- random layers


def random_layer(rng, base, width, count):
    """Up to count segments of mixed lengths in [base, base + width)."""
    cuts = sorted(rng.sample(range(width + 1), min(width + 1, 2 * count)))
    segments = []
    for first, end in zip(cuts, cuts[1:]):
        if rng.random() < 0.6:
            length = min(end - first, MAX_LENGTH)
            msector = rng.randrange(8, 1 << 40)
            segments.append((base + first, length, msector, int(rng.random() < 0.2)))
    return segments


def model(layers):
    """sector -> (layer, msector or None when zeroed)"""
    view = {}
    for number, layer in enumerate(layers):
        for sector, length, msector, zeroed in layer:
            for i in range(length):
                view[sector + i] = (number, None if zeroed else msector + i)
    return view


def expand(segments):
    view = {}
    for sector, length, msector, zeroed, layer in segments:
        for i in range(length):
            assert sector + i not in view, "segments overlap"
            view[sector + i] = (layer, None if zeroed else msector + i)
    return view


def check_find(index, probes):
    """Both ways of finding, against counting."""
    ends = [sector + length for sector, length, _, _, _ in index.segments()]
    expected = [bisect.bisect_right(ends, sector) for sector in probes]
    assert index.find(probes) == expected
    assert index.find_plain(probes) == expected


def boundaries(index):
    """Before, at and behind each begin and end, and far behind everything."""
    near = {0, 1, MAX_SECTOR, MAX_SECTOR + 1, MAX_SECTOR + MAX_LENGTH, (1 << 64) - 1}
    for sector, length, _, _, _ in index.segments():
        near.update((sector - 1, sector, sector + 1))
        near.update((sector + length - 1, sector + length, sector + length + 1))
    return sorted(near - {-1})


@pytest.mark.parametrize("base", [0, TWO_TIB - 150, MAX_SECTOR - 700])
def test_random_stacks_against_the_model(rng, base):
    for _ in range(150):
        layers = [
            random_layer(rng, base, rng.choice([8, 60, 300]), rng.randrange(40))
            for _ in range(rng.choice([1, 2, 3, 5, 9]))
        ]
        with native_test.Index(layers) as index:
            segments = index.segments()
            assert [s[0] for s in segments] == sorted({s[0] for s in segments})
            assert expand(segments) == model(layers)
            check_find(index, boundaries(index))


def test_255_layers(rng):
    layers = [random_layer(rng, 0, 2000, 20) for _ in range(255)]
    with native_test.Index(layers) as index:
        assert expand(index.segments()) == model(layers)
        check_find(index, boundaries(index))


def test_255_times_the_same_segment():
    with native_test.Index([[(7, 9, 50 + i, 0)] for i in range(255)]) as index:
        assert index.segments() == [(7, 9, 304, 0, 254)]


@pytest.mark.parametrize("layers", [0, 256])
def test_number_of_layers_is_refused(layers):
    with pytest.raises(OSError) as caught:
        native_test.Index([[(0, 1, 8, 0)]] * layers)
    assert caught.value.errno == errno.EINVAL


# ---- finding


def spread(rng, where, count):
    """One layer of count segments whose begins are drawn by where()."""
    begins = sorted({where() for _ in range(count)})
    segments = []
    for first, following in zip(begins, begins[1:] + [begins[-1] + 64]):
        length = min(following - first, rng.randrange(1, 65))
        segments.append((first, length, 8, 0))
    return segments


def even(rng, count):
    return lambda: rng.randrange(count * 40)


def far_beyond_two_tib(rng, count):
    return lambda: rng.randrange(MAX_SECTOR)


def ext4(rng, count):
    """Metadata at every 128 MiB of 64 GiB, the rest in the first 2 GiB."""

    def where():
        if rng.random() < 0.02:
            return rng.randrange(512) * (128 << 11) + rng.randrange(64) * 8
        return rng.randrange(2 << 21)

    return where


def one_clot(rng, count):
    """Everything in one slot but two: buckets cannot help, halving must."""
    return lambda: rng.choice([0, 1 << 45, 1 << 44] + [(1 << 40) + rng.randrange(count * 2)] * 40)


@pytest.mark.parametrize("shape", [even, far_beyond_two_tib, ext4, one_clot])
@pytest.mark.parametrize("count", [1, 2, 5, 300, 5000, 60000])
def test_find_in(rng, shape, count):
    where = shape(rng, count)
    with native_test.Index([spread(rng, where, count)]) as index:
        probes = boundaries(index)
        probes += [where() for _ in range(1000)] + [rng.getrandbits(64) for _ in range(100)]
        check_find(index, rng.sample(probes, min(len(probes), 30000)))
        assert index.memory <= 16 * len(index) + TABLE_MEMORY_MAX


def test_find_in_nothing():
    with native_test.Index([[], []]) as index:
        assert index.segments() == []
        assert index.find([0, 5, MAX_SECTOR]) == [0, 0, 0]


def test_find_in_the_last_segment_there_can_be():
    with native_test.Index([[(0, 1, 8, 0), (MAX_SECTOR, MAX_LENGTH, 8, 0)]]) as index:
        end = MAX_SECTOR + MAX_LENGTH
        assert index.find([0, 1, MAX_SECTOR, end - 1, end, 1 << 63]) == [
            0,
            1,
            1,
            1,
            2,
            2,
        ]


def test_index_of_a_single_sector_disk():
    with native_test.Index([[(0, 1, 8, 0)]]) as index:
        assert index.find([0, 1, 2]) == [0, 1, 1]


# ---- versions


def version_in_environment(monkeypatch, value):
    """A process of its own: the core reads its environment, not Python's copy."""
    monkeypatch.setenv("OVERLAYBD_INDEX", value)
    script = (
        "from tests.support import native_test as n\n"
        "print(n.index_version().decode())\n"
        "with n.Index([[(3, 4, 8, 0)]]) as index: print(index.find([0, 3, 7]), index.memory)\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_plain_version_on_demand(monkeypatch):
    done = version_in_environment(monkeypatch, "plain")
    assert done.stdout == "plain\n[0, 0, 1] 16\n", done.stderr


def test_demand_for_an_unknown_version_fails(monkeypatch):
    done = version_in_environment(monkeypatch, "faster")
    assert done.stdout == "none\n"
    assert "Invalid argument" in done.stderr or "[Errno 22]" in done.stderr
