# SPDX-License-Identifier: Apache-2.0
"""Builds the probe and what it reads, and runs it: one row a call."""

import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
from dataclasses import dataclass
from typing import Callable, Dict, List

from overlaybd_tcmu.units import MiB

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "bench"
PROBE = BUILD / "probe"
FORMATS = ["plain", "lz4-4k", "lz4-32k", "lz4-64k", "zstd-4k", "zstd-64k"]
LAYERS_MAX = 20

# What the disk is filled with: the files of a system, which is what images hold.
SOURCE = "/usr"
FILE_MAX = 4 * MiB


@dataclass(frozen=True)
class Pace:
    """How much is measured, and for how long."""

    disk_size: int
    seconds: float  # of one round of one side
    rounds: int


FULL = Pace(256 * MiB, 0.05, 12)
BRIEF = Pace(8 * MiB, 0.01, 2)

# A round says something of the code when both sides had the CPU, or the CPUs, to themselves.
ROUNDS_MIN = 3  # fewer than these are no median
SHARE_MIN = 0.9  # of the clock's time
SCALING_MIN = 1.6  # two bare threads, as multiples of one


@dataclass(frozen=True)
class Read:
    """One row: how the image is stored and how it is read."""

    format: str
    layers: int
    access: str  # random or sequential
    count: int
    depth: int
    threads: int  # that work: the front end's own and helpers


@dataclass(frozen=True)
class Lookup:
    """One row: finding a segment."""

    segments: int
    shape: str  # even or ext4


@dataclass(frozen=True)
class Append:
    """One row: random 4 KiB writes to an append-only layer."""

    depth: int
    sync_every: int  # writes; 0: never


@dataclass(frozen=True)
class Commit:
    """One row: a layer as lz4 in blocks of 4 KiB; counted in blocks."""

    commit_threads: int  # that compress; with one everything stays on one core


@dataclass(frozen=True)
class Outcome:
    """
    Operations a second: medians over the rounds that nobody disturbed, or over all when these are
    too few. Ratios are taken within a round first. cpu_ratio is of operations a
    second of CPU time: what a busy machine leaves as it is.
    """

    ours: float
    limit: float
    ratio: float
    cpu_ratio: float
    ratios: List[float]
    undisturbed: int
    allocations: int  # of the core, in the round with the fewest: in others a helper began
    extra: Dict[str, float]


class ProbeError(Exception):
    """The probe ended early; the text is its last word."""


def build() -> None:
    subprocess.run(["make", "--no-print-directory", "-C", str(HERE)], check=True)


class Disk:
    """The data and its layers, made once in build/bench and again when their recipe changes."""

    def __init__(self, size: int):
        self.size = size
        self.folder = BUILD / f"{size // MiB}MiB"
        self.data = self.folder / "data"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = self.folder / "recipe"
        recipe = self._recipe()
        if stamp.exists() and stamp.read_text() == recipe:
            return
        stamp.unlink(missing_ok=True)
        self._write_data()
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self._write_layers, FORMATS))
        stamp.write_text(recipe)

    def _recipe(self) -> str:
        sources = [HERE / name for name in ("layers.c", "probe.c", "probe.h", "probe.py")]
        return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()

    def _write_data(self) -> None:
        left = self.size
        with open(self.data, "wb") as out:
            while left:
                before = left
                for path in files():
                    left -= out.write(path.read_bytes()[: min(left, FILE_MAX)])
                    if not left:
                        break
                if left == before:
                    raise RuntimeError(f"{SOURCE} has no files to fill a disk with")

    def _write_layers(self, name: str) -> None:
        subprocess.run([PROBE, "write", self.data, self.folder, name], check=True)


@functools.lru_cache(maxsize=None)
def files() -> List[pathlib.Path]:
    """Regular files in an order that mixes kinds, so that any prefix of it is like the whole."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(SOURCE) for name in names]
    paths = [path for path in paths if os.path.isfile(path) and not os.path.islink(path)]
    paths.sort(key=lambda path: hashlib.md5(path.encode()).digest())
    return [pathlib.Path(path) for path in paths]


Round = Dict[str, float]


def run_read(row: Read, disk: Disk, pace: Pace) -> Outcome:
    arguments = [
        disk.data,
        disk.folder,
        row.format,
        row.layers,
        row.access,
        row.count,
        row.depth,
    ]
    arguments += [row.threads - 1, pace.seconds, pace.rounds]
    return _run(_cpus_were_free if row.threads > 1 else _cpu_was_ours, "read", *arguments)


def run_lookup(row: Lookup, pace: Pace) -> Outcome:
    return _run(_cpu_was_ours, "lookup", row.segments, row.shape, pace.seconds, pace.rounds)


def run_append(row: Append, pace: Pace) -> Outcome:
    """Who syncs waits for the disk: the CPU says nothing then of who else was there."""
    undisturbed = _cpu_was_ours if not row.sync_every else lambda one: True
    return _run(undisturbed, "append", BUILD, row.depth, row.sync_every, pace.seconds, pace.rounds)


def run_commit(row: Commit, disk: Disk, pace: Pace) -> Outcome:
    undisturbed = _cpus_were_free if row.commit_threads > 1 else _limit_had_its_cpu
    return _run(undisturbed, "commit", disk.data, disk.folder, row.commit_threads, pace.rounds)


def _limit_had_its_cpu(one: Round) -> bool:
    return one["limit"] > SHARE_MIN * one["limit_cpu"]


def _cpu_was_ours(one: Round) -> bool:
    return all(one[side] > SHARE_MIN * one[f"{side}_cpu"] for side in ("limit", "ours"))


def _cpus_were_free(one: Round) -> bool:
    return one["limit_threads"] > SCALING_MIN * one["limit"]


def _run(undisturbed: Callable[[Round], bool], *arguments: object) -> Outcome:
    command = [str(PROBE)] + [str(argument) for argument in arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ProbeError(f"{' '.join(command)}: {done.stderr.strip()}")
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    good = [one for one in rounds if undisturbed(one)]
    allocations = int(min(one.get("allocations", 0) for one in rounds))
    return _outcome(good if len(good) >= ROUNDS_MIN else rounds, len(good), allocations)


def _outcome(rounds: List[Round], undisturbed: int, allocations: int) -> Outcome:
    median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    ratios = [one["ours"] / one["limit"] for one in rounds]
    cpu_ratios = [one["ours_cpu"] / one["limit_cpu"] for one in rounds]
    ours, limit = median.pop("ours"), median.pop("limit")
    named = ("_cpu", "allocations")
    extra = {key: value for key, value in median.items() if not key.endswith(named)}
    return Outcome(
        ours,
        limit,
        statistics.median(ratios),
        statistics.median(cpu_ratios),
        ratios,
        undisturbed,
        allocations,
        extra,
    )
