# SPDX-License-Identifier: Apache-2.0
"""
Applying a layer, beside `tar -x` of the same archive onto the kernel's ext4 on a loop device.

Ours ends when all is durable in a writable layer; tar ends when the page cache has it. So what the
kernel still has to write then is measured apart, as "synced".
"""

import contextlib
import dataclasses
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from typing import Dict, Iterator, List, Tuple

from overlaybd_tcmu.ffi import ext4, native
from overlaybd_tcmu.units import GiB, MiB

from . import probe

FOLDER = probe.BUILD / "apply"


@dataclasses.dataclass(frozen=True)
class Apply:
    """One row; size in bytes."""

    archive: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """
    Bytes of the archive a second: medians over the rounds. Ratios are taken within a round first;
    cpu_ratio is of bytes a second of CPU time, of all that the program and tar cost.
    """

    ours: float
    limit: float  # tar
    ratio: float
    cpu_ratio: float
    ratios: List[float]
    extra: Dict[str, float]


class Missing(Exception):
    """What the other side needs is not here; the text says what."""


def rows(pace: probe.Pace) -> List[Apply]:
    return [Apply(2 * pace.disk_size)]


def write_archive(path: pathlib.Path, size: int) -> None:
    """Files of /usr and the directories around them, size bytes of them, in their order."""
    left, chosen = size, []
    for file in probe.files():
        bytes_of_it = file.stat().st_size
        if bytes_of_it <= min(left, probe.FILE_MAX):
            chosen.append(file)
            left -= bytes_of_it
    parents = {parent for file in chosen for parent in file.parents[:-1]}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member in sorted(parents | set(chosen)):
            archive.add(member, recursive=False)


def prepared(size: int) -> pathlib.Path:
    """The archive, in the page cache."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"usr-{size // MiB}MiB.tar"
    if not path.exists():
        unfinished = path.with_suffix(".tmp")
        write_archive(unfinished, size)
        unfinished.rename(path)
    subprocess.run(["sha256sum", path], check=True, stdout=subprocess.DEVNULL)
    return path


@contextlib.contextmanager
def scratch() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        yield pathlib.Path(folder)
    os.sync()  # what the last one left must not slow down the next


@dataclasses.dataclass(frozen=True)
class Round:
    """Seconds."""

    ours: float
    ours_cpu: float
    tar: float
    tar_cpu: float
    synced: float  # until what tar wrote is durable


def ours_s(archive: pathlib.Path) -> Tuple[float, float]:
    """Seconds, and of CPU time, to apply the archive to a fresh writable layer of 64 GiB."""
    with scratch() as folder:
        data, index = str(folder / "data"), str(folder / "index")
        native.create_upper(data, index, 64 * GiB)
        with native.Image([], upper=native.Upper(data, index)) as image:
            disk = ext4.image_disk(image)
            ext4.mkfs(disk)
            with open(archive, "rb") as file:
                started, cpu = time.monotonic(), time.process_time()
                ext4.apply(disk, file.fileno())
                return time.monotonic() - started, time.process_time() - cpu


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def theirs_s(archive: pathlib.Path) -> Tuple[float, float, float]:
    """Seconds of tar, of its CPU time, and until what it wrote is durable."""
    with scratch() as folder:
        image, mount = folder / "image", folder / "mount"
        mount.mkdir()
        with open(image, "wb") as file:
            file.truncate(64 * GiB)
        # mke2fs leaves inode tables to the kernel, which would write them meanwhile.
        options = ["-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard"]
        subprocess.run(["mke2fs", "-t", "ext4", *options, image, "4G"], check=True)
        subprocess.run(["mount", "-o", "loop", image, mount], check=True)
        try:
            started, cpu = time.monotonic(), _children_cpu_s()
            subprocess.run(["tar", "-xf", archive, "-C", mount], check=True)
            unpacked, cpu = time.monotonic() - started, _children_cpu_s() - cpu
        finally:
            subprocess.run(["umount", mount], check=True)
        subprocess.run(["sync", image], check=True)
        return unpacked, cpu, time.monotonic() - started


def run(row: Apply, pace: probe.Pace) -> Outcome:
    """Both sides in turns."""
    if os.geteuid() or not os.path.exists("/dev/loop-control") or not shutil.which("mke2fs"):
        raise Missing("mounting the kernel's ext4 needs root, loop devices and mke2fs")
    archive = prepared(row.archive)
    size = archive.stat().st_size
    rounds = [Round(*ours_s(archive), *theirs_s(archive)) for _ in range(pace.rounds)]
    ratios = [one.tar / one.ours for one in rounds]
    return Outcome(
        ours=statistics.median(size / one.ours for one in rounds),
        limit=statistics.median(size / one.tar for one in rounds),
        ratio=statistics.median(ratios),
        cpu_ratio=statistics.median(one.tar_cpu / one.ours_cpu for one in rounds),
        ratios=ratios,
        extra={"synced": statistics.median(size / one.synced for one in rounds)},
    )
