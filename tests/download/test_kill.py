# SPDX-License-Identifier: Apache-2.0
"""Killed at every step of a download: what has the layer's name is the layer, whole."""

import hashlib
import pathlib
import signal
import subprocess
import sys

import pytest

from overlaybd_tcmu import trace

from ..native import lazy

ROOT = pathlib.Path(__file__).resolve().parents[2]
POINTS = [
    *[f"{point}:{count}" for point in ("cache.written", "cache.recorded") for count in (2, 20)],
    "download.taken:1",
    "download.kept:3",
    "download.kept:40",
    "download.synced",
    "download.renamed",
    "download.committed",
    "cache.switched",
]
LOCAL = POINTS[-3:]


def run(server, folder, digest, disk, point=""):
    """Exit status and output of killed.py, killed at a trace point."""
    size = str(len(server._blobs[digest]))
    expected = hashlib.sha256(disk[0]).hexdigest()
    arguments = [str(folder / "cache"), str(folder / "fs"), server.repo_url(), digest, size]
    done = subprocess.run(
        [sys.executable, "-m", "tests.download.killed", *arguments, expected],
        cwd=ROOT,
        env={"PATH": "/usr/bin", trace.VARIABLE: point, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=25,
    )
    return done.returncode, done.stdout.strip() or done.stderr


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(server, tmp_path, disk, point):
    (tmp_path / "fs").mkdir()
    digest = server.put(lazy.wrapped("raw", disk[1]))
    status, output = run(server, tmp_path, digest, disk, point)
    assert status == -signal.SIGKILL, output
    commit = tmp_path / "fs" / "overlaybd.commit"
    assert not commit.exists() or commit.read_bytes() == server._blobs[digest]
    assert commit.exists() == (point in LOCAL)
    assert run(server, tmp_path, digest, disk) == (0, "done")
    assert commit.read_bytes() == server._blobs[digest]


def test_what_was_downloaded_before_the_kill_is_not_fetched_again(server, tmp_path, disk):
    (tmp_path / "fs").mkdir()
    digest = server.put(lazy.wrapped("raw", disk[1]))
    assert run(server, tmp_path, digest, disk, "download.synced")[0] == -signal.SIGKILL
    server.clear()
    assert run(server, tmp_path, digest, disk) == (0, "done")
    fetched = sum(count for _, count in server.ranges(digest))
    assert fetched <= 4 * 16384  # what opening reads, before there is anybody to borrow from
