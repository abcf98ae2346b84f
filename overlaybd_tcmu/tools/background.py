# SPDX-License-Identifier: Apache-2.0
"""
A long call of the core in a thread of its own: it knows no signals, and what it works with must not
be closed under it. So signals are let through only while somebody waits who can tell it to stop.
"""

import errno
import signal
import threading
from typing import Callable, List, TypeVar

from ..ffi import native
from ..image import remote

_SIGNALS = {signal.SIGINT, signal.SIGTERM}

PERIOD_S = 0.25

_Result = TypeVar("_Result")


def run(
    call: Callable[[], _Result],
    stop: Callable[[], None],
    look: Callable[[], None] = lambda: None,
    period_s: float = PERIOD_S,
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


def reading(image: native.Image, call: Callable[[], _Result]) -> _Result:
    """
    As call(), which reads the image: when its layers are fetched for that, a signal ends the
    waiting for a registry. What is read from files does not wait, and needs no thread.
    """
    if not isinstance(image, remote.LazyImage):
        return call()
    return run(call, lambda: image.cancel(errno.ECANCELED))
