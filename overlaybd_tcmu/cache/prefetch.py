# SPDX-License-Identifier: Apache-2.0
"""
Fetches blobs ahead of everybody, because an operator said so: one thread, while there are any.

It puts them into the schedule as read-ahead, which has half of a registry's places at most, and no
more at a time than the schedule takes: a reader who waits goes first. What cannot be fetched then
is left out; whoever reads it fetches it.

`_lock` guards what is to be done, for moments; the locks of refill and store are not taken under
it.
"""

import collections
import logging
import threading
from typing import Deque, Optional

from .. import units
from . import entry, refill, store

log = logging.getLogger("cache.prefetch")

PIECE = 1 * units.MiB
LOOK_S = 0.05  # how often it is looked whether the schedule takes more


class Prefetch:
    """want() at any time; stop() it before what it uses."""

    def __init__(self, kept: store.Store, fetching: refill.Refill) -> None:
        self._store = kept
        self._refill = fetching
        self._lock = threading.Lock()
        self._wanted: Deque[entry.Entry] = collections.deque()
        self._thread: Optional[threading.Thread] = None
        self._ending = threading.Event()

    def want(self, one: entry.Entry) -> None:
        """All of a blob that its caller has open."""
        self._store.hold_again(one)
        with self._lock:
            if not self._ending.is_set() and one not in self._wanted:
                self._wanted.append(one)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="prefetch")
                    self._thread.start()
                return
        self._store.give_back(one)

    def stop(self) -> None:
        """Joins the thread."""
        self._ending.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                one = self._wanted[0]
            try:
                if not self._ending.is_set():
                    self._fetch(one)
            except Exception:  # the thread's top
                log.exception("prefetch failed digest=%s", one.digest)
            with self._lock:
                self._wanted.popleft()
            self._store.give_back(one)

    def _fetch(self, one: entry.Entry) -> None:
        log.info("prefetch digest=%s missing=%d", one.digest, one.size - one.present())
        at = 0
        while at < one.size and not self._is_over(one):
            gap = one.gap(at, min(PIECE, one.size - at))
            if gap is None or self._refill.want_ahead(one, *gap):
                at += PIECE
            else:
                self._ending.wait(LOOK_S)
        log.info("prefetch handed over digest=%s", one.digest)

    def _is_over(self, one: entry.Entry) -> bool:
        return self._ending.is_set() or one.whole or one.sources.is_empty()
