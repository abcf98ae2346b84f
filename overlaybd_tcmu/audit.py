# SPDX-License-Identifier: Apache-2.0
"""
The audit log, and the one thread that turns what the data plane says into lines.

    <prefix>|AUDIT|...:file:pread[pathname=<p>][offset=<n>][size=<n>][latency=<us>]

The data plane pushes an event into a bounded queue of the core (a slow read, a failed one) and
never waits; a hit pushes nothing. The thread here takes them out, so Python costs no read anything.
"""

import logging
import threading
from typing import Optional

from . import log, units
from .ffi import native

logger = logging.getLogger("events")
audit = logging.getLogger("audit")

# Fixed, whatever logConfig says.
FILE_SIZE = 10 * units.MiB
FILES = 3


def setup(path: str) -> None:
    """Opens the audit log; an empty path, or one that cannot be opened, leaves it off."""
    close()
    audit.propagate = False
    if not path:
        return
    try:
        audit.addHandler(log.RotatingFile(path, FILE_SIZE, FILES))
    except OSError as error:
        logger.warning("audit log is off path=%s error=%s", path, error.strerror)
        return
    audit.setLevel(log.AUDIT)


def close() -> None:
    """Switches the audit log off."""
    for handler in list(audit.handlers):
        audit.removeHandler(handler)
        handler.close()
    audit.setLevel(log.AUDIT + 1)


def record(event: str, path: str, offset: int, count: int, latency_us: int) -> None:
    """One line; count is bytes, negative when it failed."""
    text = "%s[pathname=%s][offset=%d][size=%d][latency=%d]"
    audit.log(log.AUDIT, text, event, path, offset, count, latency_us)


class Drain:
    """The thread "events": owns the queue from start() to join()."""

    def __init__(self) -> None:
        self.events = native.Events()
        self._limit = log.RateLimit()
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="events")
        self._thread.start()

    def stop(self) -> None:
        """Lets the thread end once everything said so far is written."""
        self.events.stop()

    def join(self) -> None:
        """Every image that was given the queue must be closed before."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.events.close()

    def _run(self) -> None:
        while True:
            try:
                event = self.events.next()
                if event is not None:
                    self._write(event)
            except EOFError:
                return
            except Exception:  # the thread's top: a bug in one line must not silence the rest
                logger.exception("event lost")

    def _write(self, event: native.Event) -> None:
        if event.dropped:
            logger.warning("events dropped count=%d", event.dropped)
        if event.kind == native.EventKind.SLOW_READ:
            record("file:pread", event.text, event.offset, event.count, event.latency_us)
            return
        allowed, skipped = self._limit.allow(f"{event.kind} {event.image} {event.code}")
        if skipped:
            logger.error("more of the same image=%s count=%d", event.image, skipped)
        if not allowed:
            return
        if event.kind == native.EventKind.READ_ERROR:
            text = "read failed image=%s offset=%d count=%d errno=%d cause=%s"
            logger.error(text, event.image, event.offset, event.count, event.code, event.text)
        elif event.kind == native.EventKind.WRITE_ERROR:
            text = "write failed image=%s offset=%d count=%d errno=%d cause=%s"
            logger.error(text, event.image, event.offset, event.count, event.code, event.text)
        else:
            logger.warning("device image=%s errno=%d %s", event.image, event.code, event.text)
