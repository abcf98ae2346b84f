# SPDX-License-Identifier: Apache-2.0
"""Who is fetched for next: need before foresight, in turns, and hosts that fail left alone."""

import types

import pytest

from overlaybd_tcmu.cache import schedule

READ, AHEAD = schedule.Priority


@pytest.fixture
def plan():
    return schedule.Schedule(uniform=lambda low, high: high)


def entry(number=1):
    return types.SimpleNamespace(number=number)


def add(plan, unit, priority=READ, reader=1, host="h", one=None, stop=None):
    job = schedule.Job(one or entry(), unit, stop or unit + 1, priority, reader, host)
    assert plan.add(job)
    return job


def take_all(plan, now=0.0):
    jobs = []
    while True:
        job = plan.take(now)
        if job is None:
            return jobs
        jobs.append(job)


def test_reads_come_before_read_ahead(plan):
    add(plan, 1, AHEAD)
    add(plan, 2, READ)
    assert [job.first for job in take_all(plan)] == [2, 1]


def test_readers_take_turns(plan):
    for unit in range(5):
        add(plan, unit, reader=1)
    add(plan, 10, reader=2)
    add(plan, 20, reader=3)
    assert [job.first for job in take_all(plan)] == [0, 10, 20, 1, 2, 3, 4]


def test_host_has_so_many_places(plan):
    for unit in range(schedule.EACH + 5):
        add(plan, unit)
    add(plan, 1000, host="other")
    jobs = take_all(plan)
    assert len(jobs) == schedule.EACH + 1
    plan.done(jobs[0])
    assert len(take_all(plan)) == 1


def test_hosts_that_hang_leave_a_place_for_another(plan):
    for unit in range(schedule.TOTAL):
        add(plan, unit, host=f"h{unit // schedule.EACH}")
    assert len(take_all(plan)) == schedule.TOTAL
    add(plan, 1000, AHEAD, host="another")
    assert take_all(plan) == []
    for unit in range(2000, 2002):
        add(plan, unit, host="another")
    assert [job.first for job in take_all(plan)] == [2000]
    for unit in range(3000, 3000 + schedule.SPARE):
        add(plan, unit, host=f"of many {unit}")
    assert len(take_all(plan)) == schedule.SPARE - 1


def test_read_ahead_leaves_half_of_the_places(plan):
    for unit in range(schedule.EACH):
        add(plan, unit, AHEAD, one=entry(unit))
    assert len(take_all(plan)) == schedule.EACH // 2
    add(plan, 500, READ)
    assert plan.take(0.0).first == 500


def test_read_ahead_of_one_blob_leaves_some_for_others(plan):
    """Those in its way are whoever waits longer than it."""
    for unit in range(schedule.EACH_AHEAD + 1):
        add(plan, unit, AHEAD, one=entry(1), reader=0)
    add(plan, 100, AHEAD, one=entry(2), reader=0)
    jobs = take_all(plan)
    assert [job.first for job in jobs if job.one.number == 1] == list(range(schedule.EACH_AHEAD))
    assert [job.first for job in jobs if job.one.number == 2] == [100]
    assert plan.waits() and not plan.is_ready(0.0)
    plan.done(jobs[0])
    assert plan.is_ready(0.0)
    assert plan.take(0.0).first == schedule.EACH_AHEAD


def test_what_is_promoted_does_not_count_as_read_ahead(plan):
    one = entry()
    for unit in range(schedule.EACH_AHEAD + 2):
        add(plan, unit, AHEAD, one=one)
    assert len(take_all(plan)) == schedule.EACH_AHEAD
    plan.promote(plan.find(one, schedule.EACH_AHEAD + 1), reader=9)
    job = plan.take(0.0)
    assert job.first == schedule.EACH_AHEAD + 1
    plan.done(job)
    assert plan.take(0.0) is None


def test_gap_ends_at_what_somebody_fetches(plan):
    one = entry()
    add(plan, 4, one=one, stop=6)
    assert plan.end_of_gap(one, 0, 3) == 3
    assert plan.end_of_gap(one, 0, 9) == 4
    assert plan.end_of_gap(one, 6, 9) == 9
    assert plan.end_of_gap(entry(2), 0, 9) == 9


def test_too_much_read_ahead_is_dropped(plan):
    for unit in range(schedule.AHEAD_MAX):
        add(plan, unit, AHEAD)
    assert not plan.add(schedule.Job(entry(), 999, 1000, AHEAD, 1, "h"))
    assert plan.find(entry(), 999) is None
    add(plan, 999, READ)


def test_somebody_waits_for_what_was_only_foreseen(plan):
    one = entry()
    for unit in range(0, 40, 4):
        add(plan, unit, AHEAD, one=one, stop=unit + 4)
    plan.promote(plan.find(one, 37), reader=9)
    assert plan.reads() == 1
    assert plan.take(0.0).first == 36


def test_unit_is_found_until_it_is_done(plan):
    one = entry()
    job = add(plan, 4, one=one, stop=6)
    assert plan.find(one, 5) is job
    assert plan.find(one, 6) is None and plan.find(entry(2), 5) is None
    plan.take(0.0)
    assert plan.find(one, 5) is job
    plan.done(job)
    assert plan.find(one, 5) is None


# ---- failures


def fail(plan, job, now=0.0, least_s=0.0, failures=1, blame=True):
    plan.failed(job, now, least_s, failures, blame)


def test_failed_job_is_due_after_a_pause(plan):
    job = add(plan, 1)
    plan.take(0.0)
    fail(plan, job)
    assert plan.next_s(0.0) == pytest.approx(schedule.FIRST_S)
    assert list(plan.due(0.05)) == []
    assert list(plan.due(schedule.FIRST_S)) == [job]
    assert plan.find(job.one, 1) is None


def test_pauses_double_and_end_growing(plan):
    pauses = []
    for failures in (1, 2, 3, 10, 1000):
        job = add(plan, failures, host=f"h{failures}")
        plan.take(0.0)
        fail(plan, job, failures=failures, blame=False)
        pauses.append(plan.next_s(0.0))
        list(plan.due(1e9))
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 10.0, 10.0])


def test_half_of_a_pause_is_jitter():
    seen = []
    plan = schedule.Schedule(uniform=lambda low, high: seen.append((low, high)) or high)
    job = add(plan, 1)
    plan.take(0.0)
    fail(plan, job, blame=False)
    assert seen == [(schedule.FIRST_S / 2, schedule.FIRST_S)]


def test_what_the_server_asked_for_is_obeyed(plan):
    job = add(plan, 1)
    plan.take(0.0)
    fail(plan, job, least_s=7.0)
    add(plan, 2)
    assert plan.take(6.9) is None
    assert plan.take(7.0).first == 2


def test_failing_host_sees_one_request_at_a_time(plan):
    first = add(plan, 0)
    plan.take(0.0)
    for unit in range(1, 10):
        add(plan, unit)
    fail(plan, first)
    assert plan.take(0.0) is None
    probe = plan.take(1.0)
    assert plan.take(1.0) is None
    fail(plan, probe, now=1.0)
    assert plan.take(1.1) is None
    probe = plan.take(2.0)
    plan.done(probe)
    assert len(take_all(plan, 2.0)) == 7


def test_other_hosts_are_not_held_up(plan):
    job = add(plan, 0)
    plan.take(0.0)
    fail(plan, job)
    add(plan, 1, host="other")
    assert plan.take(0.0).host == "other"


def test_blob_that_is_to_blame_alone_holds_nobody_up(plan):
    job = add(plan, 0)
    plan.take(0.0)
    fail(plan, job, blame=False)
    add(plan, 1)
    assert plan.take(0.0).first == 1


def test_dropping_an_entry_leaves_what_is_under_way(plan):
    one, two = entry(1), entry(2)
    running = add(plan, 0, one=one)
    plan.take(0.0)
    waiting = add(plan, 1, one=one)
    paused = add(plan, 2, one=one, host="p")
    plan.take(0.0)
    plan.take(0.0)
    other = add(plan, 3, one=two)
    plan.done(waiting)
    fail(plan, paused)
    late = add(plan, 4, one=one)
    assert set(plan.drop(one)) == {paused, late}
    assert plan.find(one, 0) is running
    assert plan.take(0.0) is other


def test_random_history_ends_with_nothing(plan, rng):
    now, running = 0.0, []
    for number in range(3000):
        now += rng.random() / 10
        if rng.random() < 0.5:
            one = entry(rng.randrange(5))
            if plan.find(one, number) is None:
                priority = rng.choice([READ, READ, AHEAD])
                plan.add(
                    schedule.Job(
                        one, number, number + 1, priority, rng.randrange(4), "ab"[number % 2]
                    )
                )
        job = plan.take(now)
        running += [job] if job else []
        if running and rng.random() < 0.5:
            ended = running.pop(rng.randrange(len(running)))
            if rng.random() < 0.2:
                fail(plan, ended, now, failures=rng.randint(1, 3))
            else:
                plan.done(ended)
        list(plan.due(now))
    while True:
        now += 100
        running += take_all(plan, now)
        list(plan.due(now))
        if not running:
            break
        plan.done(running.pop())
    assert plan.reads() == 0 and plan.next_s(now) is None
    assert all(plan.find(entry(n), unit) is None for n in range(5) for unit in range(3000))
