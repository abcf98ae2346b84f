# SPDX-License-Identifier: Apache-2.0
"""A rate is kept over every second, whoever takes and in whatever pieces."""

import threading

import pytest

from overlaybd_tcmu.download import bucket

RATE = 1_000_000


class Clock:
    """Waiting is what makes time pass."""

    def __init__(self):
        self.time = 50.0
        self.stopped_at = float("inf")

    def now(self):
        return self.time

    def wait(self, stop, seconds):
        self.time += seconds
        return self.time >= self.stopped_at


@pytest.fixture
def clock():
    return Clock()


def taken_by_second(one, clock, pieces):
    """{second since the start: bytes}"""
    start, seen = clock.time, {}
    for count in pieces:
        assert one.take(count, threading.Event())
        second = int(clock.time - start)
        seen[second] = seen.get(second, 0) + count
    return seen


@pytest.mark.parametrize("piece", [1000, 65536, 262144])
def test_every_second_gets_its_share(clock, piece):
    one = bucket.Bucket(RATE, clock)
    seen = taken_by_second(one, clock, [piece] * (10 * RATE // piece))
    full = [count for second, count in seen.items() if second < max(seen)]
    assert max(full) <= RATE * (1 + bucket.BURST_S) + piece
    assert min(full) >= RATE - piece


def test_pieces_larger_than_a_second_are_paid_for(clock):
    one = bucket.Bucket(RATE, clock)
    start = clock.time
    for _ in range(3):
        one.take(5 * RATE, threading.Event())
    assert clock.time - start >= 15 - bucket.BURST_S - 1e-6


def test_idle_time_is_not_saved_up(clock):
    one = bucket.Bucket(RATE, clock)
    clock.time += 1000
    start = clock.time
    one.take(RATE, threading.Event())
    assert clock.time - start == pytest.approx(1 - bucket.BURST_S)


def test_takers_share_the_rate(clock):
    one = bucket.Bucket(RATE, clock)
    start = clock.time
    for _ in range(10):
        one.take(RATE, threading.Event())
        one.take(RATE, threading.Event())
    assert clock.time - start == pytest.approx(20 - bucket.BURST_S)


@pytest.mark.parametrize("rate", [0, -5])
def test_no_limit(clock, rate):
    one = bucket.Bucket(rate, clock)
    start = clock.time
    assert one.take(1 << 40, threading.Event())
    assert clock.time == start


def test_stop_ends_the_waiting(clock):
    clock.stopped_at = clock.time + 3
    assert not bucket.Bucket(RATE, clock).take(10 * RATE, threading.Event())


def test_stopped_before(clock):
    stop = threading.Event()
    stop.set()
    assert not bucket.Bucket(0, clock).take(1, stop)
    assert not bucket.Bucket(RATE, clock).take(1, stop)


@pytest.mark.parametrize("rate, seconds", [(10 * RATE, 1), (RATE // 10, 100), (0, 0), (-1, 0)])
def test_another_rate_counts_from_then_on(clock, rate, seconds):
    one = bucket.Bucket(RATE, clock)
    taken_by_second(one, clock, [100_000] * 20)
    one.set_rate(rate)
    start = clock.time
    taken_by_second(one, clock, [100_000] * 100)
    assert clock.time - start == pytest.approx(seconds, abs=0.02 * seconds + bucket.BURST_S + 0.1)


def test_a_rate_where_there_was_none(clock):
    one = bucket.Bucket(0, clock)
    taken_by_second(one, clock, [100_000] * 20)
    one.set_rate(RATE)
    start = clock.time
    taken_by_second(one, clock, [100_000] * 100)
    assert clock.time - start == pytest.approx(10, abs=2 * bucket.BURST_S)
