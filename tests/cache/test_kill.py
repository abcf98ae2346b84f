# SPDX-License-Identifier: Apache-2.0
"""Killed at every step of a refill and of an eviction: a restart serves the right bytes."""

import hashlib
import pathlib
import signal
import subprocess
import sys

import pytest

from overlaybd_tcmu import trace

from ..native import lazy

ROOT = pathlib.Path(__file__).resolve().parents[2]
LARGE, SMALL = 1000, 20  # units: everything fits; most of it does not


def run(server, folder, digest, disk, units, point=""):
    """Exit status and output of killed.py, killed at a trace point."""
    size = len(server._blobs[digest])
    expected = hashlib.sha256(disk[0]).hexdigest()
    arguments = [str(folder), server.repo_url(), digest, str(size), str(units), expected]
    done = subprocess.run(
        [sys.executable, "-m", "tests.cache.killed", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin", trace.VARIABLE: point, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=25,
    )
    return done.returncode, done.stdout.strip() or done.stderr


POINTS = ["refill.fetched", "cache.written", "cache.recorded", "refill.filled"]
EVICTION = ["cache.cleared", "cache.evicted"]


@pytest.mark.parametrize(
    "units, point",
    [
        *[(LARGE, f"{point}:{count}") for point in POINTS for count in (1, 5)],
        *[(SMALL, f"{point}:{count}") for point in POINTS + EVICTION for count in (3, 12)],
    ],
)
def test_killed_at(server, tmp_path, disk, units, point):
    digest = server.put(lazy.wrapped("raw", disk[1]))
    status, output = run(server, tmp_path, digest, disk, units, point)
    assert status == -signal.SIGKILL, output
    status, output = run(server, tmp_path, digest, disk, units)
    assert (status, output) == (0, "done")
    leftovers = [one.name for one in (tmp_path / "blobs").iterdir() if one.suffix == ".tmp"]
    assert leftovers == []


def test_what_was_there_before_the_kill_is_not_fetched_again(server, tmp_path, disk):
    digest = server.put(lazy.wrapped("raw", disk[1]))
    assert run(server, tmp_path, digest, disk, LARGE)[1] == "done"
    server.down()
    assert run(server, tmp_path, digest, disk, LARGE, "never")[1] == "done"
