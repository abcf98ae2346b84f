# SPDX-License-Identifier: Apache-2.0
"""How long it is waited before the next attempt, in a time that tests make up."""

import random
import threading

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.registry import retry

Kind = errors.RegistryFailure


@pytest.fixture
def stop():
    return threading.Event()


def error_of(kind=Kind.CONNECT, **more):
    return errors.RegistryError(kind, "test", **more)


class Failing:
    """Fails as often as it has errors for."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def test_no_failure_no_wait(clock, stop):
    assert retry.call(Failing(), retry.Policy(), stop, clock) == "done"
    assert clock.waits == []


def test_pauses_double_up_to_the_longest(clock, stop):
    policy = retry.Policy(first_s=0.1, longest_s=1.0)
    retry.call(Failing(*[error_of()] * 6), policy, stop, clock, lambda low, high: high)
    assert clock.waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_half_of_a_pause_is_jitter(clock, stop, rng):
    policy = retry.Policy(first_s=1.0, longest_s=1.0)
    retry.call(Failing(*[error_of()] * 200), policy, stop, clock, rng.uniform)
    assert 0.5 <= min(clock.waits) < 0.55
    assert 0.95 < max(clock.waits) <= 1.0


def test_two_that_failed_together_do_not_come_back_together(stop):
    from .conftest import Clock

    clocks = [Clock(), Clock()]
    for clock in clocks:
        retry.call(Failing(*[error_of()] * 5), retry.Policy(), stop, clock)
    assert clocks[0].waits != clocks[1].waits


def test_a_thousand_attempts_do_not_overflow(clock, stop):
    retry.call(Failing(*[error_of()] * 3000), retry.Policy(longest_s=2.0), stop, clock)
    assert clock.waits[-1] <= 2.0


@pytest.mark.parametrize("asked_s", [0.5, 7.0, 200.0])
def test_retry_after_is_never_cut_short(clock, stop, asked_s):
    failing = Failing(*[error_of(Kind.THROTTLED, retry_after_s=asked_s)] * 20)
    retry.call(failing, retry.Policy(longest_s=1.0), stop, clock, random.uniform)
    assert min(clock.waits) >= asked_s
    assert max(clock.waits) <= asked_s * 1.1
    assert len(set(clock.waits)) > 1


@pytest.mark.parametrize("kind", Kind)
def test_what_does_not_heal_by_itself_is_final(clock, stop, kind):
    failing = Failing(error_of(kind))
    if kind.temporary:
        assert retry.call(failing, retry.Policy(), stop, clock) == "done"
    else:
        with pytest.raises(errors.RegistryError):
            retry.call(failing, retry.Policy(), stop, clock)
        assert (failing.calls, clock.waits) == (1, [])


def test_policy_may_be_more_patient(clock, stop):
    policy = retry.Policy(final_too=True)
    assert retry.call(Failing(error_of(Kind.AUTH)), policy, stop, clock) == "done"


def test_patience_ends_with_the_last_error(clock, stop):
    policy = retry.Policy(first_s=1.0, longest_s=4.0, give_up_after_s=10.0)
    failing = Failing(*[error_of(temporary=True) for _ in range(100)])
    last = failing.failures
    with pytest.raises(errors.RegistryError) as caught:
        retry.call(failing, policy, stop, clock, lambda low, high: high)
    assert clock.waits == pytest.approx([1.0, 2.0, 4.0, 3.0])  # a last attempt at the very end
    assert failing.calls == 5
    assert caught.value not in last


def test_patience_that_is_shorter_than_the_server_wants(clock, stop):
    failing = Failing(error_of(Kind.THROTTLED, retry_after_s=11.0))
    with pytest.raises(errors.RegistryError):
        retry.call(failing, retry.Policy(give_up_after_s=10.0), stop, clock)
    assert clock.waits == []


def test_stop_ends_the_wait(clock, stop):
    stop.set()
    with pytest.raises(errors.RegistryError):
        retry.call(Failing(error_of()), retry.Policy(), stop, clock)


def test_stop_while_waiting(stop):
    """With the real clock: nothing else wakes the one who waits."""
    failing = Failing(*[error_of()] * 10)
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(errors.RegistryError):
        retry.call(failing, retry.Policy(first_s=100.0, longest_s=100.0), stop)
    assert failing.calls == 1


def test_other_errors_are_not_caught(clock, stop):
    with pytest.raises(OSError):
        retry.call(Failing(OSError()), retry.Policy(), stop, clock)
