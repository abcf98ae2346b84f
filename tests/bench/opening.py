# SPDX-License-Identifier: Apache-2.0
"""
How long it takes to open an image all of whose metadata is cached, and to close it: everything
between `enable` and a readable disk that the kernel does not do. Beside it, a loop that opens the
same files, reads their heads, tails and indexes, and closes them.
"""

import os
import statistics
import time
from typing import Callable, List

from overlaybd_tcmu.units import KiB

from ..support import fault_registry
from . import lazy, probe

LAYERS = 10
HEAD = 4096


def warm(disk: probe.Disk, pace: probe.Pace) -> lazy.Lazy:
    """ours and limit in ms."""
    layers = [lazy.layer(disk, number * 256 * KiB) for number in range(1, LAYERS + 1)]
    with fault_registry.in_process() as registry:
        lowers = [(registry.put(one), len(one)) for one in layers]
        with lazy.Service(registry, lowers) as lazily:
            lazily.image.close()  # nobody has the layers open
            assert lazily.cache.store.folder is not None
            paths = [lazily.cache.store.folder.data_path(digest) for digest, _ in lowers]
            registry.clear()
            ours, limit = [], []
            for _ in range(10 * pace.rounds):
                ours.append(_ms(lambda: lazily.open().close()))
                limit.append(_ms(lambda: _bare(paths)))
            asked = len(registry.requests())
    if asked:
        raise probe.ProbeError(f"{asked} requests for what was cached")
    mine, bare = statistics.median(ours), statistics.median(limit)
    return lazy.Lazy(f"open, {LAYERS} layers", 0, mine, bare, mine / LAYERS)


def _bare(paths: List[str]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        end = os.fstat(fd).st_size
        os.pread(fd, HEAD, 0)
        os.pread(fd, HEAD, end - HEAD)
        os.pread(fd, HEAD, end - 2 * HEAD)  # the index of such a layer is shorter than that
        os.close(fd)


def _ms(function: Callable[[], None]) -> float:
    began = time.perf_counter()
    function()
    return (time.perf_counter() - began) * 1000
