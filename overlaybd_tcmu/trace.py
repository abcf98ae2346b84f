# SPDX-License-Identifier: Apache-2.0
"""
Points in the code at which a test may act: kill the process, to see what a restart makes of it.

$OVERLAYBD_TRACE arms one: "store.written:3" kills (SIGKILL) at the third passing of that point.
Nothing but tests sets it; unarmed, a point costs a comparison. A leaf.
"""

import os
import signal
import threading

VARIABLE = "OVERLAYBD_TRACE"

_lock = threading.Lock()
_armed, _, _count = os.environ.get(VARIABLE, "").partition(":")
_left = int(_count or 1)


def point(name: str) -> None:
    """Here something has just been done that a crash must not spoil."""
    if name == _armed:
        _passed()


def _passed() -> None:
    global _left
    with _lock:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
