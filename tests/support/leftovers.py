# SPDX-License-Identifier: Apache-2.0
"""Threads and file descriptors that somebody forgot."""

import contextlib
import os
import threading
import time

PATIENCE_S = 5


@contextlib.contextmanager
def none():
    """Whatever is started and opened within is gone at its end."""
    threads, files = set(threading.enumerate()), open_files()
    yield
    deadline = time.monotonic() + PATIENCE_S
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [one.name for one in set(threading.enumerate()) - threads] == []
    assert open_files() <= files


def open_files():
    """(fd, what it is) of all there are."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found
