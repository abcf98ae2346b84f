# SPDX-License-Identifier: Apache-2.0
"""
What a cache has, and what was fetched for it: counted by those who fetch, for whoever asks.

Python does this once a request, never for a hit. `_lock` guards all of it, for moments; nothing is
taken under it.
"""

import contextlib
import dataclasses
import threading
import time
from typing import TYPE_CHECKING, Dict, Iterator, List

from .. import errors
from ..ffi import core, latency

if TYPE_CHECKING:
    from . import entry

# Somebody waits for it; somebody will, probably; the background download.
PURPOSES = ("read", "ahead", "download")


@dataclasses.dataclass(frozen=True)
class Fetched:
    """Since the start; by purpose, and failures by errors.RegistryFailure's name."""

    requests: Dict[str, int]
    bytes: Dict[str, int]
    failures: Dict[str, int]
    took: latency.Latency  # of requests for `read` and `ahead` that succeeded


@dataclasses.dataclass(frozen=True)
class Report:
    """A cache at one moment, in bytes; its counters are since the start."""

    path: str  # "": nothing is kept on disk
    size: int
    used: int
    memory: int  # what the disk did not take
    pinned: int  # blobs
    waiting: int  # reads
    evicted: int
    fetched: Fetched


class Counters:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = dict.fromkeys(PURPOSES, 0)
        self._bytes = dict.fromkeys(PURPOSES, 0)
        self._failures = {kind.name.lower(): 0 for kind in errors.RegistryFailure}
        self._total_ns = 0
        self._buckets: List[int] = [0] * core.LATENCY_BUCKETS

    @contextlib.contextmanager
    def fetching(self, purpose: str, one: "entry.Entry", count: int) -> Iterator[None]:
        """One request for count bytes of a blob; failures are failed()'s."""
        began = time.monotonic_ns()
        yield
        took_ns = time.monotonic_ns() - began
        with self._lock:
            self._total_ns += took_ns
            self._buckets[latency.bucket_of(took_ns)] += 1
        self.fetched(purpose, one, count)

    def fetched(self, purpose: str, one: "entry.Entry", count: int, requests: int = 1) -> None:
        """count bytes of a blob have come."""
        with self._lock:
            self._requests[purpose] += requests
            self._bytes[purpose] += count
            one.fetched += count

    def failed(self, kind: errors.RegistryFailure) -> None:
        """A registry did not give what it was asked for."""
        with self._lock:
            self._failures[kind.name.lower()] += 1

    def read(self) -> Fetched:
        with self._lock:
            return Fetched(
                dict(self._requests),
                dict(self._bytes),
                dict(self._failures),
                latency.Latency(self._total_ns, tuple(self._buckets)),
            )


# Of a process whose layers have all been local.
NO_CACHE = Report("", 0, 0, 0, 0, 0, 0, Counters().read())
