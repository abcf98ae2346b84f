# SPDX-License-Identifier: Apache-2.0
"""A call in a thread of its own: its outcome is the caller's, and nothing goes on without it."""

import os
import signal
import threading

import pytest

from overlaybd_tcmu.tools import background

PERIOD_S = 0.01


def nothing():
    pass


def test_result_is_the_callers():
    assert background.run(lambda: 42, nothing, nothing, PERIOD_S) == 42


def test_failure_is_the_callers():
    with pytest.raises(ValueError, match="why"):
        background.run(lambda: int("why"), nothing, nothing, PERIOD_S)


def test_it_is_looked_at_meanwhile():
    looked = threading.Event()
    assert background.run(looked.wait, nothing, looked.set, PERIOD_S)


def test_signal_stops_the_call_and_waits_for_it():
    ended = []
    stop = threading.Event()

    def call():
        os.kill(os.getpid(), signal.SIGINT)
        stop.wait()
        ended.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            background.run(call, stop.set, nothing, PERIOD_S)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_failure_of_the_look_stops_the_call():
    stop = threading.Event()
    with pytest.raises(ZeroDivisionError):
        background.run(stop.wait, stop.set, lambda: 1 / 0, PERIOD_S)
    assert stop.is_set()
