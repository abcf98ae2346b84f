# SPDX-License-Identifier: Apache-2.0
"""
Takes the kernel's messages to libtcmu, one after another, without waiting for what they lead to.

libtcmu handles a message, its callback included, in one call. Made on one thread, an image that
opens slowly would delay every other device. So each message has a thread, and a callback that has
to wait steps aside (`libtcmu.Turn`):

    main      takes the turn, sees a message, starts a thread and gives it the turn
    message   in libtcmu -> callback steps aside: opens the image -> back in libtcmu: answers

Messages are taken in their order, and one thread at a time is inside libtcmu. Only main dispatches
and joins; nothing here needs a lock.
"""

import logging
import select
import threading
import time
from typing import List

from .. import log as logs
from ..ffi import libtcmu

log = logging.getLogger("tcmu.pump")

# Messages under way at once. Beyond it the kernel's queue holds the rest, and nothing is lost.
MAX_MESSAGES = 256

# Longer than this nobody is inside libtcmu who is well.
TURN_S = 5.0


class Pump:
    """All methods are for one thread, the one that polls the descriptor."""

    def __init__(self, context: libtcmu.Context, turn: libtcmu.Turn) -> None:
        self._context = context
        self._turn = turn
        self._threads: List[threading.Thread] = []
        self._turn_limit = logs.RateLimit()
        self._message_limit = logs.RateLimit()  # used by who has the turn

    def dispatch(self) -> None:
        """Has the next message handled, if there is one; waits for neither it nor its callback."""
        if len(self._busy()) >= MAX_MESSAGES:
            time.sleep(0.01)  # the descriptor stays readable
            return
        if not self._turn.take(TURN_S):
            if self._turn_limit.allow("turn")[0]:
                log.error("no messages are handled: somebody does not leave libtcmu")
            return
        # Whoever had the turn may have read the message that woke us.
        if not select.select([self._context.fd()], [], [], 0)[0]:
            self._turn.give()
            return
        thread = threading.Thread(target=self._handle, name="message")
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._complain(str(error))
            self._turn.give()
            time.sleep(0.1)
            return
        self._threads.append(thread)

    def busy(self) -> bool:
        """Whether messages are under way."""
        return bool(self._busy())

    def alive(self) -> bool:
        """Whether messages could be handled: nobody keeps libtcmu to himself."""
        if not self._turn.take(TURN_S):
            return False
        self._turn.give()
        return True

    def join(self, deadline_s: float) -> bool:
        """Whether every message was done with before the deadline."""
        until = time.monotonic() + deadline_s
        for thread in self._busy():
            thread.join(max(0.0, until - time.monotonic()))
        return not self.busy()

    def _busy(self) -> List[threading.Thread]:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        return self._threads

    def _handle(self) -> None:
        try:
            result = self._context.ready()
            if result < 0:
                self._complain(f"libnl says {result}")
        finally:
            self._turn.give()

    def _complain(self, error: str) -> None:
        if self._message_limit.allow("message")[0]:
            log.error("message not handled error=%s", error)
