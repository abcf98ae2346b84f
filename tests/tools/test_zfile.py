# SPDX-License-Identifier: Apache-2.0
"""overlaybd-zfile beside the golden files: its words, what it verifies, sources of any kind."""

import os
import random
import subprocess

import pytest

from overlaybd_tcmu import units
from overlaybd_tcmu.formats import stream, tar, zfile

from ..support import codecs
from .conftest import piped

# How overlaybd-zfile writes what zfile.encode writes.
WRITTEN = {"final": False, "compressor": codecs.compress}

DATA = random.Random(7).randbytes(300_000) + b"again and again " * 20_000


def plain_of(path):
    """By the plain reader."""
    with stream.File(path) as file:
        return stream.read(zfile.ZFile(tar.unwrap(file) or file))


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").write_bytes(DATA)
    return tmp_path / "source"


def compressed(succeeds, *options):
    succeeds("zfile", "source", "out", *options)


def test_file_is_compressed_and_extracted(succeeds, source):
    said = succeeds("zfile", "source", "out")
    assert said == "compress file source as out\ncompress file done.\n"
    assert plain_of(source.parent / "out") == DATA
    said = succeeds("zfile", "-x", "out", "again")
    assert said == "decompress file out as again\ndecompress file done.\n"
    assert (source.parent / "again").read_bytes() == DATA


@pytest.mark.parametrize("size", [0, 1, 511, 4095, 4096, 4097, 131072, 131073])
def test_file_of_any_size(succeeds, tmp_path, size):
    (tmp_path / "source").write_bytes(DATA[:size])
    compressed(succeeds)
    assert (tmp_path / "out").read_bytes() == zfile.encode(DATA[:size], **WRITTEN)
    succeeds("zfile", "-x", "out", "again")
    assert (tmp_path / "again").read_bytes() == DATA[:size]


@pytest.mark.parametrize("algorithm", ["lz4", "zstd"])
@pytest.mark.parametrize("size", [4, 8, 16, 32, 64])
def test_blocks_of_each_size(succeeds, source, algorithm, size):
    compressed(succeeds, "--algorithm", algorithm, "--bs", size)
    kind = {"lz4": zfile.LZ4, "zstd": zfile.ZSTD}[algorithm]
    expected = zfile.encode(DATA, kind, size * units.KiB, **WRITTEN)
    assert (source.parent / "out").read_bytes() == expected


def test_zfile_in_a_tar(succeeds, source):
    compressed(succeeds, "-t")
    out = source.parent / "out"
    assert out.read_bytes() == tar.wrap(zfile.encode(DATA, **WRITTEN))
    listed = subprocess.run(["tar", "-tvf", out], check=True, capture_output=True, text=True)
    assert (
        f" {len(zfile.encode(DATA, **WRITTEN))} " in listed.stdout
        and "overlaybd.commit" in listed.stdout
    )
    succeeds("zfile", "-x", "out", "again")
    assert (source.parent / "again").read_bytes() == DATA


def test_standard_input_is_compressed(succeeds, tmp_path, source):
    with open(source, "rb") as file:
        said = succeeds("zfile", "out", stdin=file)
    assert said == "compress file - as out\ncompress file done.\n"
    assert plain_of(tmp_path / "out") == DATA


def test_file_is_compressed_from_its_beginning(succeeds, tmp_path, source):
    with open(source, "rb") as file:
        file.seek(1000)
        succeeds("zfile", "out", stdin=file)
    assert plain_of(tmp_path / "out") == DATA


@pytest.mark.parametrize("step", [1, 511, 4097])
def test_pipe_that_trickles(succeeds, tmp_path, step):
    with piped(DATA[-15003:], step) as pipe:
        succeeds("zfile", "out", stdin=pipe)
    assert plain_of(tmp_path / "out") == DATA[-15003:]


def test_empty_pipe(succeeds, tmp_path):
    succeeds("zfile", "out", stdin=subprocess.DEVNULL)
    assert (tmp_path / "out").read_bytes() == zfile.encode(b"", **WRITTEN)


def test_index_that_is_kept_in_a_file(succeeds, tmp_path):
    # A GiB of holes: 262144 lengths are held in memory, and one more.
    os.truncate(os.open(tmp_path / "source", os.O_CREAT | os.O_WRONLY), units.GiB + 5000)
    compressed(succeeds)
    with stream.File(tmp_path / "out") as file:
        opened = zfile.ZFile(file)
        assert opened.size == units.GiB + 5000
        assert opened.pread(5000, units.GiB) == bytes(5000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_existing_target_is_replaced_only_by_force(succeeds, fails, source):
    (source.parent / "out").write_text("precious")
    for options in ["source", "out"], ["-x", "source", "out"]:
        assert fails(255, "zfile", *options) == "failed to open file 'out', 17: File exists"
    compressed(succeeds, "-f")
    assert plain_of(source.parent / "out") == DATA


def test_extracting_needs_a_target(fails, source):
    assert "target is required" in fails(255, "zfile", "-x", "source")


@pytest.mark.parametrize("options", [[], ["-x"], ["--verify"]])
def test_missing_source_is_named(fails, tmp_path, options):
    line = fails(255, "zfile", *options, "none", "out")
    assert line == "failed to open file 'none', 2: No such file or directory"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option, value", [("--algorithm", "lzo"), ("--bs", "5")])
def test_wrong_compression_is_refused(fails, source, option, value):
    line = fails(255, "zfile", "source", "out", option, value)
    assert line == f"invalid '{option}' parameters."


# ---- verifying


@pytest.mark.parametrize("options", [[], ["-t"], ["--algorithm", "zstd", "--bs", "64"]])
def test_whole_zfile_is_valid(succeeds, source, options):
    compressed(succeeds, *options)
    assert succeeds("zfile", "--verify", "out") == "out is a valid zfile blob.\n"


@pytest.mark.parametrize("at", [600, 100_000, 300_000])
def test_damaged_block_is_found_and_named(succeeds, tool, source, at):
    compressed(succeeds)
    data = bytearray((source.parent / "out").read_bytes())
    data[at] ^= 1
    (source.parent / "out").write_bytes(data)
    done = tool("zfile", "--verify", "out")
    assert done.returncode == 255
    text = "out is not a valid zfile blob or checksum can't be found.\n"
    assert done.stdout == text
    with stream.File(source.parent / "out") as file:
        offsets = zfile.ZFile(file).offsets
    block = max(number for number, offset in enumerate(offsets) if offset <= at)
    assert f"out: block {block} (stored at offset {offsets[block]})" in done.stderr


def test_damaged_block_is_not_extracted(succeeds, fails, source):
    compressed(succeeds)
    data = bytearray((source.parent / "out").read_bytes())
    data[200_000] ^= 1
    (source.parent / "out").write_bytes(data)
    line = fails(255, "zfile", "-x", "out", "again")
    assert line.startswith("decompress failed, errno:117: out: block ")
    assert not (source.parent / "again").exists()


def test_zfile_without_checksums_cannot_be_verified(tool, tmp_path):
    (tmp_path / "out").write_bytes(zfile.encode(DATA, verify=False))
    done = tool("zfile", "--verify", "out")
    assert done.returncode == 255
    assert "checksum can't be found" in done.stdout and "no checksums" in done.stderr


@pytest.mark.parametrize("content", [DATA, b"ZFile", b""])
def test_what_is_no_zfile(fails, tmp_path, content):
    (tmp_path / "in").write_bytes(content)
    if len(content) > 512:
        line = fails(255, "zfile", "--verify", "in")
        assert line == "format error! in should be a zfile."
    assert fails(255, "zfile", "-x", "in", "out").startswith("decompress failed, errno:")
    assert not (tmp_path / "out").exists()


def test_torn_zfile_is_refused(succeeds, fails, source):
    compressed(succeeds)
    os.truncate(source.parent / "out", 200_000)
    assert fails(255, "zfile", "-x", "out", "again").startswith("decompress failed, errno:22: out:")
