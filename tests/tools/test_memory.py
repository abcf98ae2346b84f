# SPDX-License-Identifier: Apache-2.0
"""No program needs more memory for more input, nor much of it for many threads."""

import array
import gzip
import json
import os
import subprocess
import sys

import pytest

from overlaybd_tcmu.ffi import load
from overlaybd_tcmu.formats import commit, lsmt, stream, writable
from overlaybd_tcmu.units import GiB, KiB, MiB

from ..apply import archive
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


def entries_of(sectors, length):
    """Entries of an index: zeroed segments of that many sectors each."""
    words = array.array("Q", bytes(16 * len(sectors)))
    words[0::2] = array.array("Q", [sector | length << 50 for sector in sectors])
    words[1::2] = array.array("Q", [lsmt.FIRST_SECTOR | 1 << 55]) * len(sectors)
    return words.tobytes()


def test_commit_of_more_segments_than_there_is_memory_for(tmp_path):
    """Seven million, once 350 MB; all of a disk of 28 GiB, far from the disk's order."""
    count, strides = 7 << 20, 1 << 10
    model = writable.Pair(count * 4 * KiB)
    (tmp_path / "data").write_bytes(model.data)
    with open(tmp_path / "index", "wb") as file:
        file.write(model.index)
        for first in range(strides):
            file.write(entries_of(range(first * 8, count * 8, strides * 8), 8))
    assert peak_of("commit", tmp_path / "data", tmp_path / "index", tmp_path / "out") < LIMIT
    with stream.File(tmp_path / "out") as file:
        segments = lsmt.load(file).segments
    assert segments[0].sector == 0 and all(segment.zeroed for segment in segments)
    ends = [segment.sector + segment.length for segment in segments]
    assert ends[:-1] == [segment.sector for segment in segments[1:]]
    assert ends[-1] == count * 8


@pytest.mark.parametrize("algorithm", ["lz4", "zstd"])
def test_commit_on_many_threads(pair, algorithm):
    options = ["-z", "-t", "--algorithm", algorithm, "--compress_threads", 64]
    peak = peak_of("commit", pair / "data", pair / "index", pair / "out", *options)
    assert peak < LIMIT
    peak = peak_of("zfile", "--verify", pair / "out")
    assert peak < LIMIT


def test_zfile_both_ways(tmp_path):
    (tmp_path / "source").touch()
    os.truncate(tmp_path / "source", SIZE)
    assert peak_of("zfile", "-t", tmp_path / "source", tmp_path / "zfile") < LIMIT
    assert peak_of("zfile", "-x", tmp_path / "zfile", tmp_path / "out") < LIMIT
    assert os.stat(tmp_path / "out").st_size == SIZE


def test_image_of_many_segments(pair):
    """Sealed in place, and shown as a plain disk."""
    peak = peak_of("commit", "--seal", pair / "data", pair / "index")
    assert peak < LIMIT
    (pair / "c.json").write_text(f'{{"lowers": [{{"file": "{pair}/data"}}]}}')
    assert peak_of("export", pair / "c.json", pair / "raw") < LIMIT
    assert os.stat(pair / "raw").st_size == SIZE


@pytest.fixture
def archive_of_many(tmp_path):
    """A hundred thousand files of one directory, and 512 MiB in one, as tar.gz."""
    template = archive.header(b"x")
    with gzip.open(tmp_path / "tar.gz", "wb", compresslevel=1) as file:
        file.writelines(archive.many(template, (b"dir/%06d" % i for i in range(100_000))))
        file.write(archive.header(b"large", size=SIZE))
        for _ in range(SIZE // MiB):
            file.write(bytes(MiB))
        file.write(archive.END)
    return tmp_path / "tar.gz"


def test_applying_many_files_and_resizing(tmp_path, archive_of_many):
    pair = tmp_path / "data", tmp_path / "index"
    assert peak_of("create", *pair, 4, "-s", "--mkfs") < LIMIT
    upper = {"data": str(pair[0]), "index": str(pair[1])}
    (tmp_path / "c.json").write_text(json.dumps({"lowers": [], "upper": upper}))
    assert peak_of("apply", archive_of_many, tmp_path / "c.json") < LIMIT
    assert peak_of("resize", "--config", tmp_path / "c.json", "--size", 8) < LIMIT


def test_merging_layers_of_as_many_segments_as_there_can_be(tmp_path):
    """Twenty, a million segments each: held all at once they would be 320 MB, before merging."""
    index = entries_of(range(0, 2 * 999_936, 2), 1)
    record = lsmt.Record(0, virtual_size=GiB)
    (tmp_path / "layer").write_bytes(commit.assemble(b"", index, record))
    (tmp_path / "c.json").write_text(json.dumps({"lowers": [{"file": f"{tmp_path}/layer"}] * 20}))
    assert peak_of("merge", "--compress=false", tmp_path / "c.json", tmp_path / "out") < LIMIT
    merged = (tmp_path / "out").read_bytes()
    assert len(merged) == (tmp_path / "layer").stat().st_size
    assert (merged[lsmt.RECORD_SIZE : -lsmt.RECORD_SIZE] == index) is True
