# SPDX-License-Identifier: Apache-2.0
"""
How much CPU time goes in waiting for the interpreter's lock while the sample image is mounted and
its files are read, cold: the reads that this takes, found out by debugfs, one after another through
a lazily fetched image, in a process of its own that gil_wait.c looks into.

    python -m tests.bench.mounting FOLDER      that process; FOLDER is sample.build()'s
"""

import ctypes
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, Iterator, List, Tuple

from overlaybd_tcmu.ffi import core

from ..support import fault_registry, gil_wait
from . import lazy, probe

DELAY_MS = 20
BLOCK = 4096
AHEAD = 32  # blocks the kernel reads at once, of a file that is read in order

_IMAP = re.compile(r"located at block (\d+)")


def row(pace: probe.Pace) -> Dict[str, Any]:
    """ours and limit: ms of CPU time, of waiting and of the whole process."""
    # Here and not above: the child has no need of it.
    from ..vm import sample

    with tempfile.TemporaryDirectory(dir=probe.BUILD) as folder:
        place = pathlib.Path(folder)
        image = sample.build(place, folder)
        names = sorted(image.files)
        reads = list(_reads(str(place / "disk"), names))
        layers = [str(path) for path in image.layers]
        (place / "reads").write_text(json.dumps({"layers": layers, "reads": reads}))
        library, numbers = place / "gil_wait.so", place / "numbers"
        gil_wait.build(library)
        found = []
        for _ in range(max(1, pace.rounds // 2)):
            done = subprocess.run(
                [sys.executable, "-m", __name__, folder],
                env={**os.environ, **gil_wait.environment(library, numbers)},
                stdout=subprocess.PIPE,
                check=True,
            )
            found.append(json.loads(done.stdout))
    found.sort(key=lambda one: float(one["waiting"]) / one["cpu"])
    one = found[len(found) // 2]
    ours, limit = one["waiting"] / 1e6, one["cpu"] / 1e6
    what = f"mount and {len(names)} files, waiting for Python"
    return {"what": what, "delay_ms": DELAY_MS, "ours": ours, "limit": limit, "ratio": ours / limit}


def _reads(disk: str, names: List[str]) -> Iterator[Tuple[int, int]]:
    """(offset, count) in the order in which the kernel would ask; what it has it does not."""
    known = set()
    wanted = [0, 1]  # superblock, group descriptors
    folders = sorted({str(pathlib.PurePosixPath(name).parent) for name in names})
    for name in ["/", *folders, *names]:
        wanted += _debugfs(disk, f"imap {name}") + _debugfs(disk, f"blocks {name}")
    run: List[int] = []
    for block in wanted:
        if block in known:
            continue
        known.add(block)
        if run and (block != run[-1] + 1 or len(run) == AHEAD):
            yield run[0] * BLOCK, len(run) * BLOCK
            run = []
        run.append(block)
    yield run[0] * BLOCK, len(run) * BLOCK


def _debugfs(disk: str, request: str) -> List[int]:
    """The blocks its answer names."""
    command = ["debugfs", "-R", request, disk]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if request.startswith("imap"):
        found = _IMAP.search(done.stdout)
        return [int(found.group(1))] if found else []
    return [int(word) for word in done.stdout.split()]


def _child(folder: str) -> None:
    os.environ.pop("LD_PRELOAD")  # the registry's interpreter is another one
    numbers = os.environ["GIL_WAIT"]
    given = json.loads((pathlib.Path(folder) / "reads").read_text())
    layers = [pathlib.Path(path).read_bytes() for path in given["layers"]]
    wire = lazy.load()
    with fault_registry.in_process() as registry:
        registry.delay(DELAY_MS / 1000)
        lowers = [(registry.put(data), len(data)) for data in layers]
        with lazy.Service(registry, lowers) as service:
            cpu, waits = time.process_time_ns(), gil_wait.read(numbers)
            pread = ctypes.cast(core.library().image_pread, ctypes.c_void_p)
            reads = given["reads"]
            failed = wire.obd_bench_replay(
                pread,
                ctypes.c_void_p(service.image.address),
                lazy.words([one[0] for one in reads]),
                lazy.words([one[1] for one in reads]),
                ctypes.c_size_t(len(reads)),
            )
            after = gil_wait.read(numbers)
            used = {"cpu": time.process_time_ns() - cpu, "waiting": after.cpu_ns - waits.cpu_ns}
    if failed:
        raise probe.ProbeError("a read failed")
    print(json.dumps(used))


if __name__ == "__main__":
    _child(sys.argv[1])
