# SPDX-License-Identifier: Apache-2.0
"""
Measures what the data plane makes of this machine, beside the physical limit of the same minute.

    python -m tests.bench.bench [--brief] [--only TEXT] [--vm] [--readme]

Writes build/bench/result.json; --readme also rewrites the table in README.md from it.

What would void the numbers: another program on the CPUs all the time (both sides take turns of a
fraction of a second, and rounds that were disturbed are left out where enough others remain), files
that do not fit the page cache, a debug build.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any, Dict, Iterator, List, Optional

from overlaybd_tcmu.units import KiB, MiB

from . import applying, lazy, mounting, opening, probe, table

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULT = probe.BUILD / "result.json"

Row = Dict[str, Any]


def reads() -> Iterator[probe.Read]:
    """Every combination that says something: one request at a time has no use for a helper."""
    for name in probe.FORMATS:
        for layers in (1, probe.LAYERS_MAX):
            yield probe.Read(name, layers, "random", 4 * KiB, 1, 1)
            yield probe.Read(name, layers, "random", 4 * KiB, 32, 1)
            yield probe.Read(name, layers, "random", 4 * KiB, 32, 2)
            for count, depth in ((128 * KiB, 8), (1 * MiB, 2)):
                for threads in (1, 2):
                    yield probe.Read(name, layers, "sequential", count, depth, threads)


def lookups() -> Iterator[probe.Lookup]:
    for shape in ("even", "ext4"):
        for segments in (1_000, 10_000, 100_000, 1_000_000):
            yield probe.Lookup(segments, shape)


def appends() -> Iterator[probe.Append]:
    for depth in (1, 32):
        for sync_every in (0, 32, 256):
            yield probe.Append(depth, sync_every)


def commits() -> Iterator[probe.Commit]:
    for threads in (1, 2):
        yield probe.Commit(threads)


def _row(row: Any, outcome: probe.Outcome) -> Row:
    return {**dataclasses.asdict(row), **dataclasses.asdict(outcome)}


def _show(row: Row) -> None:
    if "archive" in row:
        what = f"apply {row['archive'] // MiB} MiB, beside tar -x"
    elif "commit_threads" in row:
        what = f"commit lz4 4 KiB  threads {row['commit_threads']}"
    elif "segments" in row:
        what = f"find in {row['segments']:>9,} {row['shape']}"
    elif "sync_every" in row:
        what = f"append 4 KiB  depth {row['depth']:<3}  synced every {row['sync_every']}"
    else:
        what = f"{row['layers']:>2} x {row['format']:<9}{row['access']:<11}"
        what += f"{row['count'] // KiB:>5} KiB  depth {row['depth']:<3}threads {row['threads']}"
    line = f"{what:<56}{row['ours']:>13,.0f}/s  limit {row['limit']:>13,.0f}/s {row['ratio']:6.2f}"
    line += f" cpu {row['cpu_ratio']:.2f}"
    line += "".join(f"  {key} {value:,.0f}/s" for key, value in row["extra"].items())
    print(line, flush=True)


def measure(pace: probe.Pace, only: str = "", with_vm: bool = False) -> Row:
    """Runs the rows whose description contains only, and returns them as result.json holds them."""
    probe.build()
    disk = probe.Disk(pace.disk_size)
    disk.prepare()
    result: Row = _circumstances(pace)
    for row in lookups():
        if only in repr(row):
            result["lookups"].append(_row(row, probe.run_lookup(row, pace)))
            _show(result["lookups"][-1])
    for read in reads():
        if only in repr(read):
            result["reads"].append(_row(read, probe.run_read(read, disk, pace)))
            _show(result["reads"][-1])
    for commit in commits():
        if only in repr(commit):
            result["commits"].append(_row(commit, probe.run_commit(commit, disk, pace)))
            _show(result["commits"][-1])
    result["applies"] = _measure_applies(pace, only)
    for append in appends():
        if only in repr(append):
            result["appends"].append(_row(append, probe.run_append(append, pace)))
            _show(result["appends"][-1])
    if only in "lazy":
        for one in lazy.rows(disk, pace):
            result["lazy"].append(dataclasses.asdict(one))
            print(lazy.show(result["lazy"][-1]), flush=True)
        result["lazy"].append(dataclasses.asdict(opening.warm(disk, pace)))
        print(lazy.show(result["lazy"][-1]), flush=True)
        result["lazy"].append(mounting.row(pace))
        print(lazy.show(result["lazy"][-1]), flush=True)
    if with_vm:
        _measure_vm(result)
    return result


def _measure_applies(pace: probe.Pace, only: str) -> List[Row]:
    measured: List[Row] = []
    for row in applying.rows(pace):
        if only not in repr(row):
            continue
        try:
            measured.append(_row(row, applying.run(row, pace)))
            _show(measured[-1])
        except applying.Missing as error:
            print(f"no row for applying a layer: {error}", flush=True)
    return measured


def _measure_vm(result: Row) -> None:
    # Here and not above: what the machine is made of is nothing to a run without one.
    from ..vm import fio, lazily
    from ..vm.harness import errors as vm_errors

    try:
        result["vm"] = list(fio.measure_stacks()["results"])
        result["lazy"].append(lazily.measure_start())
        print(lazy.show(result["lazy"][-1]), flush=True)
    except vm_errors.VmMissing as error:
        print(f"no rows from a virtual machine: {error}", flush=True)


def _circumstances(pace: probe.Pace) -> Row:
    cpus = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpus if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit or "unknown",
        "machine": {
            "cpu": models[0] if models else platform.machine(),
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
        },
        "rounds": pace.rounds,
        "seconds": pace.seconds,
        "disk_size": pace.disk_size,
        "lookups": [],
        "reads": [],
        "appends": [],
        "commits": [],
        "lazy": [],
        "vm": [],
    }


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench", description="Measures the data plane.")
    parser.add_argument("--brief", action="store_true", help="seconds instead of minutes")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="rows that contain TEXT, or lazy"
    )
    parser.add_argument("--vm", action="store_true", help="fio on the device, in a virtual machine")
    parser.add_argument("--readme", action="store_true", help="rewrite the table in README.md")
    options = parser.parse_args(arguments)

    result = measure(probe.BRIEF if options.brief else probe.FULL, options.only, options.vm)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {RESULT}")
    if options.readme:
        table.replace(ROOT / "README.md", table.markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
