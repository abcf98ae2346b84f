# SPDX-License-Identifier: Apache-2.0
"""
Measures disks in the machine with fio: python3 -m tests.vm.fio [--seconds S] [STACK...]

    {"accelerator": "tcg", "kernel": ..., "results": [{"stack": ..., "job": ..., "iops": ...}, ...]}

Numbers from an emulated CPU compare daemons in the same machine, and nothing else.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any, Dict, List, Optional, Sequence

from . import images, session
from .harness import machine


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    pattern: str
    block_size: str
    depth: int


JOBS = (
    Job("random 4 KiB, depth 1", "randread", "4k", 1),
    Job("random 4 KiB, depth 32", "randread", "4k", 32),
    Job("sequential 128 KiB, depth 1", "read", "128k", 1),
    Job("sequential 128 KiB, depth 8", "read", "128k", 8),
)
STACKS = ("plain", "lz4-4k", "c-lz4-64k", "c-zstd-64k")
DEFAULT_S = 3.0


def measure_disk(guest: session.Guest, disk: str, seconds: float) -> List[Dict[str, Any]]:
    """Every job on one disk, one after the other."""
    results = []
    for job in JOBS:
        arguments = (disk, job.pattern, job.block_size, job.depth)
        pending = guest.start("load.fio", *arguments, seconds=seconds)
        measured = pending.result(seconds + session.CALL_TIMEOUT_S)
        if measured.pop("status"):
            raise RuntimeError(f"fio on {disk}: {measured['errors']}")
        results.append({"job": job.name, **measured})
    return results


def measure_stacks(names: Sequence[str] = STACKS, seconds: float = DEFAULT_S) -> Dict[str, Any]:
    """The golden stacks in a fresh machine."""
    results = []
    with machine.Machine() as vm:
        guest = session.Guest(vm)
        images.put(guest)
        guest.call("service.start")
        for number, name in enumerate(names, start=1):
            disk = guest.call("disk.attach", number, images.STACKS[name].config_path)["disk"]
            measured = measure_disk(guest, disk, seconds)
            results += [{"stack": name, **one} for one in measured]
            guest.call("disk.detach", number)
        guest.call("service.stop")
        kernel = vm.run("uname -r").strip()
        return {"accelerator": vm.accelerator, "kernel": kernel, "results": results}


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.fio", description=__doc__)
    parser.add_argument("stack", nargs="*", help=", ".join(images.NAMES))
    parser.add_argument("--seconds", type=float, default=DEFAULT_S, help="each job takes")
    options = parser.parse_args(arguments)
    print(json.dumps(measure_stacks(options.stack or STACKS, options.seconds), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
