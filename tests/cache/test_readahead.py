# SPDX-License-Identifier: Apache-2.0
"""What is fetched ahead: nothing for random readers, enough that a sequential one never waits."""

from overlaybd_tcmu.cache import readahead


def read_on(streams, start, stop):
    """A reader in the middle of nothing: (units it waited for, units fetched in vain)."""
    present, marks, waited = set(), {}, 0
    for unit in range(start, stop):
        ahead = None
        if unit not in present:
            waited += 1
            present.add(unit)
            ahead = streams.missed(unit, unit + 1)
        elif marks.pop(unit, False):
            ahead = streams.reached(unit)
        if ahead:
            present.update(range(ahead.start, ahead.stop))
            marks[ahead.mark] = True
    return waited, len([unit for unit in present if unit >= stop])


def test_random_readers_fetch_nothing_ahead():
    streams = readahead.Streams(1000, 32)
    for unit in (5, 900, 17, 333, 2, 701, 44, 555, 128):
        assert streams.missed(unit, unit + 1) is None


def test_second_unit_in_a_row_begins_a_stream():
    streams = readahead.Streams(1000, 32)
    assert streams.missed(7, 8) is None
    assert streams.missed(8, 9) == (9, 11, 9)


def test_window_doubles_up_to_the_longest():
    streams = readahead.Streams(1000, 16)
    streams.missed(0, 1)
    ahead = streams.missed(1, 2)
    windows = []
    for _ in range(6):
        mark = ahead.mark
        ahead = streams.reached(mark)
        windows.append(ahead.stop - mark - 1)
    assert windows == [4, 8, 16, 16, 16, 16]


def test_requests_are_always_under_way():
    """Once the window is the longest, a quarter of it is fetched for each that is read."""
    streams = readahead.Streams(1000, 16)
    streams.missed(0, 1)
    ahead = streams.missed(1, 2)
    for _ in range(6):
        ahead = streams.reached(ahead.mark)
    assert (ahead.stop - ahead.start, streams.reached(ahead.mark).start) == (4, ahead.stop)


def test_reader_that_waits_for_the_mark_counts_as_there():
    streams = readahead.Streams(1000, 16)
    streams.missed(0, 1)
    ahead = streams.missed(1, 2)
    assert streams.missed(ahead.mark, ahead.mark + 1).start == ahead.stop


def test_sequential_reader_waits_twice_and_wastes_little():
    waited, wasted = read_on(readahead.Streams(1000, 32), 100, 600)
    assert waited == 2
    assert wasted <= 32


def test_two_readers_are_followed_at_once():
    streams = readahead.Streams(1000, 32)
    for first, second in ((10, 500), (11, 501)):
        one, two = streams.missed(first, first + 1), streams.missed(second, second + 1)
    assert one.start == 12 and two.start == 502


def test_many_readers_push_the_oldest_out():
    streams = readahead.Streams(10000, 32)
    for number in range(readahead.STREAMS + 1):
        streams.missed(number * 100, number * 100 + 1)
    assert streams.missed(1, 2) is None
    assert streams.missed(101 + 100, 202) is not None


def test_reader_that_waits_for_what_is_on_its_way_asks_for_nothing_twice():
    streams = readahead.Streams(1000, 32)
    streams.missed(0, 1)
    ahead = streams.missed(1, 2)
    seen = list(range(2, 4))
    for unit in range(2, 100):
        ahead = streams.missed(unit, unit + 1)
        seen += range(ahead.start, ahead.stop) if ahead else []
    assert seen == list(range(2, seen[-1] + 1))


def test_nothing_is_fetched_beyond_the_end():
    streams = readahead.Streams(10, 32)
    streams.missed(7, 8)
    assert streams.missed(8, 9) == (9, 10, 9)
    assert streams.reached(9) is None


def test_mark_of_nobody_is_ignored():
    assert readahead.Streams(10, 32).reached(3) is None


def test_what_is_marked_and_fetched_is_inside_the_blob(rng):
    for _ in range(3000):
        units = rng.randrange(1, 60)
        streams = readahead.Streams(units, rng.choice((1, 4, 32)))
        unit = 0
        while unit < units:
            stop = min(unit + rng.choice((1, 1, 3, 20)), units)
            ahead = rng.choice((streams.reached, lambda start: streams.missed(start, stop)))(unit)
            assert ahead is None or unit < ahead.start < ahead.stop <= units > ahead.mark >= unit
            unit = max(unit + 1, min(stop, units - 1)) if rng.random() < 0.5 else unit + 1
