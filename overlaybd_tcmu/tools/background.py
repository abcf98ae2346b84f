# SPDX-License-Identifier: Apache-2.0
"""
A long call of the core in a thread of its own: it knows no signals, and what it works with must not
be closed under it. So signals are let through only while somebody waits who can tell it to stop.
"""

import signal
import threading
from typing import Callable, List, TypeVar

_SIGNALS = {signal.SIGINT, signal.SIGTERM}

_Result = TypeVar("_Result")


def run(
    call: Callable[[], _Result],
    look: Callable[[], None],
    stop: Callable[[], None],
    period_s: float,
) -> _Result:
    """
    What call returns or raises. look runs every period_s meanwhile; when a signal, or look, raises,
    stop asks the call to end, which is waited for.
    """
    results: List[_Result] = []
    failures: List[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # pylint: disable=broad-except
            failures.append(error)  # raised by whoever waits

    thread = threading.Thread(target=work, name="work")
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        thread.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        while thread.is_alive():
            thread.join(period_s)
            look()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        stop()
        raise
    finally:
        thread.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if failures:
        raise failures[0]
    return results[0]
