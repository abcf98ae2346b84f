# SPDX-License-Identifier: Apache-2.0
"""No program needs more memory for more input, nor much of it for many threads."""

import os
import subprocess
import sys

import pytest

from overlaybd_tcmu.ffi import load
from overlaybd_tcmu.formats import commit, lsmt, writable
from overlaybd_tcmu.units import GiB, KiB, MiB

from .conftest import ROOT

LIMIT = 300 * MiB

pytestmark = pytest.mark.skipif(
    any(name in load.find_library() for name in ("asan", "tsan")),
    reason="a sanitizer takes its own memory",
)
SIZE = 512 * MiB


# A process counts what its parent had when it was forked: so a small one stands in between.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_of(name, *arguments):
    """Bytes of a program that ends well, at its largest."""
    program = [sys.executable, "-m", f"overlaybd_tcmu.tools.{name}", *map(str, arguments)]
    said = subprocess.run(
        [sys.executable, "-c", MEASURE, *program],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return int(said.stdout) * KiB


@pytest.fixture
def pair(tmp_path):
    """A writable layer of SIZE bytes of data, holes in its file, in very many segments."""
    model = writable.Pair(SIZE)
    sectors = SIZE // 512
    # Forwards in pieces of 4 KiB, but swapped in pairs: nothing joins its neighbour.
    entries = b"".join(
        lsmt.Segment(at ^ 8, 8, lsmt.FIRST_SECTOR + at).pack() for at in range(0, sectors // 2, 8)
    )
    rest = b"".join(
        lsmt.Segment(at, 8192, lsmt.FIRST_SECTOR + at).pack()
        for at in range(sectors // 2, sectors, 8192)
    )
    (tmp_path / "data").write_bytes(model.data)
    os.truncate(tmp_path / "data", lsmt.RECORD_SIZE + SIZE)
    (tmp_path / "index").write_bytes(bytes(model.index) + entries + rest)
    return tmp_path


@pytest.mark.parametrize("algorithm", ["lz4", "zstd"])
def test_commit_on_many_threads(pair, algorithm):
    options = ["-z", "-t", "--algorithm", algorithm, "--compress_threads", 64]
    peak = peak_of("commit", pair / "data", pair / "index", pair / "out", *options)
    assert peak < LIMIT
    peak = peak_of("zfile", "--verify", pair / "out")
    assert peak < LIMIT


def test_merging_many_segments(tmp_path):
    layers = []
    for number in range(4):
        entries = (lsmt.Segment(at, 1, 8, True) for at in range(number * 8, 1 << 21, 32))
        index = lsmt.pack_index(entries)
        path = tmp_path / f"layer{number}"
        path.write_bytes(commit.assemble(b"", index, lsmt.Record(0, virtual_size=GiB)))
        layers.append(f'{{"file": "{path}"}}')
    (tmp_path / "c.json").write_text(f'{{"lowers": [{", ".join(layers)}]}}')
    assert peak_of("merge", tmp_path / "c.json", tmp_path / "out") < LIMIT
