# SPDX-License-Identifier: Apache-2.0
"""Sparse files, in the four ways that GNU tar has written them."""

import os
import subprocess

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.units import MiB

from . import archive

# (offset, bytes); the file ends in a hole.
REGIONS = [(0, b"start"), (4096 * 5 + 100, b"x" * 5000), (MiB, b"y" * 4096), (3 * MiB + 7, b"z")]
SIZE = 4 * MiB
DATA = b"".join(data for _, data in REGIONS)


def expected():
    content = bytearray(SIZE)
    for offset, data in REGIONS:
        content[offset : offset + len(data)] = data
    return bytes(content)


def pairs(regions):
    return [number for offset, data in regions for number in (offset, len(data))]


def old_gnu(regions=None, size=SIZE):
    """Four regions in the header; here two, and the others in an extra block."""
    regions = REGIONS if regions is None else regions
    fields = [archive.octal(number, 12) for number in pairs(regions)]
    first, rest = b"".join(fields[:4]), fields[4:]
    stored = sum(len(data) for _, data in regions)
    tail = first.ljust(96, b"\0") + bytes([1 if rest else 0]) + archive.octal(size, 12)
    prefix = bytes(41) + tail
    block = archive.header(b"f", b"S", stored, magic=b"ustar  \0", prefix=prefix)
    return block + (b"".join(rest).ljust(512, b"\0") if rest else b"")


def pax_00(_regions=None):
    records = archive.record(b"GNU.sparse.size", b"%d" % SIZE)
    records += archive.record(b"GNU.sparse.numblocks", b"%d" % len(REGIONS))
    for offset, data in REGIONS:
        records += archive.record(b"GNU.sparse.offset", b"%d" % offset)
        records += archive.record(b"GNU.sparse.numbytes", b"%d" % len(data))
    return archive.pax(records) + archive.header(b"f", size=len(DATA))


def pax_01(_regions=None):
    records = {
        b"GNU.sparse.size": b"%d" % SIZE,
        b"GNU.sparse.map": b",".join(b"%d" % number for number in pairs(REGIONS)),
        b"GNU.sparse.name": b"f",
    }
    return archive.pax(records) + archive.header(b"GNUSparseFile.0/f", size=len(DATA))


def map_text(regions):
    numbers = [len(regions), *pairs(regions)]
    return archive.pad(b"".join(b"%d\n" % number for number in numbers))


def pax_10(regions=None, size=SIZE, text=None):
    regions = REGIONS if regions is None else regions
    records = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": b"f",
        b"GNU.sparse.realsize": b"%d" % size,
    }
    text = map_text(regions) if text is None else text
    stored = sum(len(data) for _, data in regions) + len(text)
    return archive.pax(records) + archive.header(b"GNUSparseFile.0/f", size=stored) + text


@pytest.mark.parametrize("form", [old_gnu, pax_00, pax_01, pax_10])
def test_sparse_file(image, form):
    # The map's text and the data are one payload, filled up at its end.
    entry = form() + DATA
    image.apply(entry + bytes(-len(entry) % 512) + archive.file(b"g", b"after") + archive.END)
    with image.mounted() as folder:
        assert (folder / "f").read_bytes() == expected()
        assert (folder / "f").stat().st_blocks * 512 == 5 * 4096
        assert (folder / "g").read_bytes() == b"after"


@pytest.mark.parametrize(
    "options", [["--format=gnu"]] + [[f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")]
)
def test_sparse_file_of_gnu_tar(image, tmp_path, rng, options):
    path = tmp_path / "file"
    with open(path, "wb") as file:
        for _ in range(30):
            os.pwrite(file.fileno(), rng.randbytes(rng.randrange(1, 20000)), rng.randrange(4 * MiB))
        file.truncate(5 * MiB)
    command = ["tar", "-cSf", tmp_path / "tar", "-C", tmp_path, *options, "file"]
    if "gnu" not in options[0]:
        command.insert(1, "--format=pax")
    subprocess.run(command, check=True)
    image.apply(tmp_path / "tar")
    with image.mounted() as folder:
        assert (folder / "file").read_bytes() == path.read_bytes()
        # A block more for the tree of extents.
        assert (folder / "file").stat().st_blocks <= path.stat().st_blocks + 8


def test_file_that_is_one_hole(image):
    image.apply(old_gnu([], 64 * MiB) + archive.END)
    with image.mounted() as folder:
        status = (folder / "f").stat()
    assert (status.st_size, status.st_blocks) == (64 * MiB, 0)


def test_many_regions(image):
    """Each an extent of its own: the tree of extents gets two levels."""
    regions = [(2 * 4096 * i, b"%4d" % i) for i in range(1000)]
    entry = pax_10(regions, 2 * 4096 * 1000) + b"".join(data for _, data in regions)
    image.apply(entry + bytes(-len(entry) % 512) + archive.END)
    with image.mounted() as folder:
        content = (folder / "f").read_bytes()
    assert [content[offset : offset + 4] for offset, _ in regions] == [data for _, data in regions]
    image.check()
    image.apply(archive.whiteout(b"f") + archive.END)
    assert image.tree() == {}


@pytest.mark.parametrize(
    "regions, size",
    [
        ([(10, b"x"), (5, b"x")], 100),
        ([(10, b"xx"), (11, b"x")], 100),
        ([(99, b"xx")], 100),
        ([(8**11 - 1, b"x")], 100),
    ],
    ids=["backwards", "overlapping", "beyond", "far"],
)
@pytest.mark.parametrize("form", [old_gnu, pax_10])
def test_map_that_makes_no_sense(image, form, regions, size):
    data = b"".join(data for _, data in regions)
    with pytest.raises(errors.NativeError, match="the map of a sparse file"):
        image.apply(form(regions, size) + archive.pad(data) + archive.END)


@pytest.mark.parametrize(
    "text", [b"x\n", b"\n", b"1\n0\n", b"99999999\n", b"9" * 30 + b"\n", b"-1\n", b"2\n0\n1\n"]
)
def test_text_of_a_map_that_makes_no_sense(image, text):
    with pytest.raises(errors.NativeError, match="sparse file|archive ends|the data"):
        image.apply(pax_10([(0, b"x")], 100, archive.pad(text)) + archive.pad(b"x") + archive.END)


def test_version_of_the_future(image):
    records = {b"GNU.sparse.major": b"2", b"GNU.sparse.minor": b"1"}
    with pytest.raises(errors.NativeError, match="a sparse file of format 2.1"):
        image.apply(archive.pax(records) + archive.file(b"f") + archive.END)


@pytest.mark.parametrize("size", [1 << 43, (1 << 44) - 4096])
def test_huge_hole(image, size):
    image.apply(pax_10([(0, b"x")], size) + archive.pad(b"x") + archive.END)
    assert f"Size: {size}" in image.debugfs("stat f")


@pytest.mark.parametrize("size", [1 << 44, (1 << 63) - 1])
def test_file_larger_than_ext4_allows(image, size):
    with pytest.raises(errors.NativeError, match="entry 'f' at offset 0: a file of .*too large"):
        image.apply(pax_10([(0, b"x")], size) + archive.pad(b"x") + archive.END)
    assert image.tree() == {}
