# SPDX-License-Identifier: Apache-2.0
"""
Archives made to do harm: each ends with one line that names entry and place, in a file system that
is whole, with what came before in it; never with a crash, a hang, or a byte outside.
"""

import struct
import subprocess
import sys

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.units import GiB, MiB

from . import archive, disk

BEFORE = archive.file(b"before", b"b" * 5000)
AFTER = archive.file(b"after", b"a" * 5000)


def refused(image, bad, reason):
    """Applies BEFORE, bad, AFTER; bad ends it, and the failure says why and where."""
    with pytest.raises(errors.NativeError) as caught:
        image.apply(BEFORE + bad + AFTER + archive.END)
    text = str(caught.value)
    assert reason in text and "\n" not in text
    assert "at offset" in text
    image.check()
    tree = image.tree()
    assert tree.pop("before").content[0] == 5000
    assert "after" not in tree
    return tree


HEADERS = {
    "checksum": (archive.file(b"x", checksum=b"000000\0 "), "no tar header (wrong checksum)"),
    "checksum that is text": (archive.file(b"x", checksum=b"garbage!"), "no tar header"),
    "size that is text": (archive.header(b"x", size=b"size of it!\0"), "the size is no number"),
    "negative size": (archive.header(b"x", size=b"\xff" * 12), "the size is negative"),
    "size beyond all numbers": (
        archive.header(b"x", size=b"\x80" + b"\xff" * 11),
        "the size is no number",
    ),
    "mode that is text": (archive.file(b"x", mode=b"rwxr-xr-"), "the mode is no number"),
    "uid that is text": (archive.file(b"x", uid=b"rootroot"), "the uid is no number"),
    "negative gid": (archive.file(b"x", gid=b"\xff" * 8), "the gid is -1"),
    "uid too large": (archive.file(b"x", uid=archive.base256(1 << 32, 8)), "the uid is 4294967296"),
    "uid of nobody at all": (
        archive.pax({b"uid": b"4294967295"}) + archive.file(b"x"),
        "the uid is",
    ),
    "time that is text": (archive.file(b"x", mtime=b"yesterday\0\0\0"), "the mtime is no number"),
    "major too large": (archive.header(b"x", archive.CHR, major=4096), "no device 4096:0"),
    "minor too large": (archive.header(b"x", archive.BLK, minor=1 << 20), "no device 0:1048576"),
    "extension without end": (
        archive.header(b"x", b"x", 1 << 30),
        "an extended header of 1073741824",
    ),
    "name without end": (archive.header(b"x", b"L", 1 << 32), "an extended header of 4294967296"),
    "two extensions, no entry": (archive.pax({b"path": b"x"}) + archive.END, "without an entry"),
    "sparse entry of an old tar": (archive.header(b"x", b"M"), "has type 0x4d ('M')"),
    "type that cannot be printed": (archive.header(b"x", b"\x01"), "has type 0x01 ('?'), which"),
    "symlink to nothing": (archive.symlink(b"x", b""), "a symlink to nothing"),
    "hard link to nothing": (archive.hard(b"x", b"none"), "'none': No such file"),
    "hard link to a directory": (archive.directory(b"d") + archive.hard(b"x", b"d"), "a directory"),
    "hard link to the root": (archive.hard(b"x", b"/.."), "a hard link to the root"),
    "hard link through nothing": (archive.hard(b"x", b"a/b/c"), "No such file"),
    "hard link into what it replaces": (
        archive.file(b"d/f") + archive.hard(b"d", b"d/f"),
        "'d/f': No such file",
    ),
    "link too long": (
        archive.long_name(b"t" * 4096, b"K") + archive.symlink(b"x", b"t"),
        "a symlink to 4096 bytes",
    ),
}


@pytest.mark.parametrize("bad, reason", HEADERS.values(), ids=HEADERS)
def test_header(image, bad, reason):
    refused(image, bad, reason)


RECORDS = {
    "no length": b"path=x\n",
    "length beyond the block": b"999 path=x\n",
    "length beyond all numbers": b"99999999999999999999 path=x\n",
    "length too short": b"3 p\n",
    "negative length": b"-9 path=x\n",
    "hexadecimal length": b"0x0b path=x\n",
    "length that ends elsewhere": b"9 path=x\n\n",
    "no equals sign": b"8 path\n\n"[:8],
    "no key": b"6 =x\n\n"[:6],
    "NUL in the key": archive.record(b"pa\0th", b"x"),
    "NUL in a path": archive.record(b"path", b"x\0y"),
    "NUL in a link": archive.record(b"linkpath", b"x\0y"),
    "size that is text": archive.record(b"size", b"big"),
    "negative size": archive.record(b"size", b"-1"),
    "size beyond all numbers": archive.record(b"size", b"9" * 40),
    "uid that is text": archive.record(b"uid", b"root"),
    "time that is text": archive.record(b"mtime", b"now"),
    "time with two points": archive.record(b"mtime", b"1.2.3"),
    "time without digits": archive.record(b"mtime", b"-"),
    "map that is text": archive.record(b"GNU.sparse.map", b"0,x"),
    "regions without offsets": archive.record(b"GNU.sparse.numbytes", b"5"),
}


@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
def test_pax_record(image, records):
    refused(
        image,
        archive.pax(records) + archive.file(b"x"),
        "pax record" if b"map" not in records else "sparse",
    )


def test_value_of_an_access_list(image):
    for value in (
        b"",
        b"\2",
        struct.pack("<I", 2),
        struct.pack("<I", 3) + bytes(8),
        b"\2\0\0\0garbage!",
    ):
        records = {b"SCHILY.xattr.system.posix_acl_access": value + b" "}
        refused(image, archive.pax(records) + archive.file(b"x"), "system.posix_acl_access")


# ---- nothing gets out


@pytest.fixture
def outside(tmp_path):
    """A file beside the image that no archive may touch."""
    path = tmp_path / "outside"
    path.write_text("untouched")
    yield path
    assert path.read_text() == "untouched"


@pytest.mark.parametrize(
    "form", ["{0}", "../../../../../../../..{0}", "x/../../../../../../../..{0}"]
)
def test_names_stay_inside(image, outside, form):
    name = form.format(outside).encode()
    image.apply(archive.long_name(name) + archive.file(b"", b"in"))
    assert str(outside).lstrip("/") in image.tree()


@pytest.mark.parametrize("target", ["{0}", "../../../../../../../..{0}"])
def test_symlinks_stay_inside(image, outside, target):
    parent = target.format(outside.parent).encode()
    entries = archive.long_name(parent, b"K") + archive.symlink(b"s", b"")
    entries += (
        archive.file(b"s/outside", b"in") + archive.whiteout(b"s/gone") + archive.opaque(b"s")
    )
    image.apply(entries)
    assert str(outside).lstrip("/") in image.tree()


@pytest.mark.parametrize("target", ["{0}", "s/outside"])
def test_hard_links_stay_inside(image, outside, target):
    entries = archive.long_name(str(outside.parent).encode(), b"K") + archive.symlink(b"s", b"")
    entries += archive.long_name(target.format(outside).encode(), b"K") + archive.hard(b"h", b"")
    with pytest.raises(errors.NativeError, match="No such file"):
        image.apply(entries)


# ---- cut off


# Entries of all kinds, with the bytes each needs: the last block of data need not be filled up.
LONG = archive.pax({b"path": b"d/" + b"n" * 150, b"SCHILY.xattr.user.a": b"v" * 300})
ENTRIES = [
    (archive.directory(b"d/"), 512),
    (LONG + archive.file(b"f", bytes(range(250)) * 20), len(LONG) + 512 + 5000),
    (archive.long_name(b"l" * 200) + archive.symlink(b"s", b"t"), 1536),
    (archive.hard(b"h", b"l" * 97), 512),
    (archive.header(b"p", archive.FIFO), 512),
    (archive.whiteout(b"d"), 512),
]


def whole_entries(end):
    """How many entries an archive of ENTRIES has that is cut there; None: a part of one as well."""
    place = 0
    for number, (data, needed) in enumerate(ENTRIES):
        if end == place:
            return number
        if end < place + needed:
            return None
        place += len(data)
        if end < place:
            return number + 1
    return len(ENTRIES)


@pytest.mark.parametrize("step", range(8))
def test_archive_that_is_cut_off_anywhere(tmp_path, step):
    """Between entries it just ends; elsewhere it is refused, and the file system stays whole."""
    image = disk.Image(tmp_path / "disk", 4 * MiB).mkfs()
    data = archive.file(b"l" * 97, b"l")
    start = len(data)
    data += b"".join(entry for entry, _ in ENTRIES)
    ends = set(range(start + step * 97, len(data), 8 * 97)) | set(range(start, len(data), 512))
    for end in sorted(ends):
        whole = whole_entries(end - start)
        if whole is not None:
            image.apply(data[:end])
            continue
        with pytest.raises(errors.NativeError, match="archive ends|extended header"):
            image.apply(data[:end])
    image.check()
    image.apply(data)
    assert {"h", "p", "l" * 97, "l" * 200} <= set(image.tree())


# ---- too much


def test_file_that_claims_more_than_the_disk_holds(image):
    before = image.path.read_bytes()
    bad = archive.pax({b"size": b"%d" % (8 * GiB)}) + archive.file(b"huge", b"little")
    assert refused(image, bad, "a file of 8589934592 bytes") == {}
    assert len(before) == len(image.path.read_bytes())


def test_size_of_a_file_that_lies_within_what_is_free(image):
    """Its blocks are taken, and given back when the data does not come."""
    bad = archive.pax({b"size": b"%d" % (20 * MiB)}) + archive.file(b"huge", b"little")
    with pytest.raises(errors.NativeError, match="entry 'huge' at offset .*the archive ends"):
        image.apply(BEFORE + bad)
    image.check()
    image.apply(archive.file(b"large", bytes(20 * MiB)))
    assert image.tree()["large"].content[0] == 20 * MiB


def test_disk_that_is_full(image):
    entries = b"".join(archive.file(b"f%d" % i, bytes(MiB)) for i in range(40))
    with pytest.raises(errors.NativeError, match=r"entry 'f\d+' at offset \d+: .*No space left"):
        image.apply(entries)
    image.check()
    assert len(image.tree()) > 20
    image.apply(archive.opaque(b"") + archive.file(b"f", bytes(20 * MiB)))
    assert list(image.tree()) == ["f"]


def test_flood_of_devices(image):
    """Until no inode is left."""
    device = archive.header(b"", archive.CHR, major=1, minor=3)
    with pytest.raises(errors.NativeError, match="taking an inode .0 of 2048 are free"):
        image.apply(b"".join(archive.many(device, (b"d/%d" % i for i in range(5000)))))
    image.check()
    assert len(image.tree()) == 2048 - 11


def test_flood_of_parents(image):
    path = b"/".join([b"p"] * 2040)
    with pytest.raises(errors.NativeError, match="No space|taking an inode"):
        image.apply(
            b"".join(archive.long_name(b"%d/" % i + path) + archive.file(b"") for i in range(9))
        )
    image.check()


def test_disk_without_room_for_a_directory_that_grows(tmp_path):
    image = disk.Image(tmp_path / "disk", MiB).mkfs()
    names = archive.many(archive.hard(b"", b"one"), (b"d/" + b"%d" % i * 20 for i in range(10000)))
    with pytest.raises(errors.NativeError, match="No space left"):
        image.apply(archive.file(b"one") + b"".join(names))
    image.check()


def test_name_with_bytes_no_terminal_should_see(image):
    bad = archive.header(b"\x1b[2J\nevil\x7f\xff", b"V")
    with pytest.raises(errors.NativeError) as caught:
        image.apply(bad)
    assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in str(caught.value))


# ---- a disk that fails

LIMITED = """
import os, resource, signal, sys
from overlaybd_tcmu.ffi import ext4
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
with ext4.file_disk(sys.argv[1]) as disk:
    try:
        ext4.apply(disk, os.open(sys.argv[2], os.O_RDONLY))
    except Exception as error:
        print(error)
"""


def test_limit_of_the_file_size(tmp_path):
    """What the kernel refuses to write is an error with its reason, wherever it strikes."""
    image = disk.Image(tmp_path / "disk").mkfs()
    (tmp_path / "tar").write_bytes(archive.file(b"f", bytes(4 * MiB)))
    program = [sys.executable, "-c", LIMITED, image.path, tmp_path / "tar"]
    shown = subprocess.run(program, capture_output=True, text=True, check=True)
    assert "entry 'f' at offset 0: writing data: writing" in shown.stdout
    assert "File too large" in shown.stdout
