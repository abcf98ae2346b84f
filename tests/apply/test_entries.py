# SPDX-License-Identifier: Apache-2.0
"""Each kind of entry, with all that it says, as the kernel then shows it."""

import stat
import struct

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.units import MiB

from . import archive, disk

SECOND = 1_000_000_000
MTIME = 1_600_000_000 * SECOND


def of(image, *entries):
    """The tree of an archive of these entries."""
    image.apply(b"".join(entries) + archive.END)
    tree = image.tree()
    assert disk.differences(image.tree_read(), tree) == []
    return tree


def sizes(tree):
    return {name: node.content[0] for name, node in tree.items() if stat.S_ISREG(node.mode)}


def test_file(image):
    tree = of(image, archive.file(b"a", b"text", mode=0o6750, uid=1000, gid=1001))
    assert list(tree) == ["a"]
    assert stat.filemode(tree["a"].mode) == "-rwsr-s---"
    assert (tree["a"].uid, tree["a"].gid, tree["a"].mtime) == (1000, 1001, MTIME)
    assert image.debugfs("cat a") == "text"


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4095, 4096, 4097, MiB - 1, MiB, MiB + 1])
def test_size_of_a_file(image, rng, size):
    data = rng.randbytes(size)
    image.apply(archive.file(b"a", data) + archive.file(b"b", b"after it") + archive.END)
    with image.mounted() as folder:
        assert (folder / "a").read_bytes() == data
        assert (folder / "b").read_bytes() == b"after it"


def test_directory_has_its_attributes(image):
    tree = of(image, archive.directory(b"d/", mode=0o1770, uid=5, gid=6), archive.file(b"d/f"))
    assert stat.filemode(tree["d"].mode) == "drwxrwx--T"
    assert (tree["d"].uid, tree["d"].gid, tree["d"].mtime) == (5, 6, MTIME)


def test_missing_parents_are_plain_directories(image):
    tree = of(image, archive.file(b"x/y/z"))
    assert [tree[name].mode for name in ("x", "x/y")] == [stat.S_IFDIR | 0o755] * 2
    assert {tree[name].mtime for name in ("x", "x/y")} == {0}


def test_root_has_attributes(image):
    image.apply(archive.directory(b"./", mode=0o700, uid=7, gid=8) + archive.END)
    with image.mounted() as folder:
        status = folder.stat()
    assert (stat.filemode(status.st_mode), status.st_uid, status.st_gid) == ("drwx------", 7, 8)
    assert status.st_mtime_ns == MTIME


@pytest.mark.parametrize("name", [b"/", b"///", b""])
def test_root_by_another_name_is_left_out_with_a_warning(image, name):
    applied = image.apply(archive.directory(name, mode=0o700) + archive.END)
    assert applied.warnings == 1 and "root" in applied.warning
    with image.mounted() as folder:
        assert stat.filemode(folder.stat().st_mode) == "drwxr-xr-x"


@pytest.mark.parametrize(
    "target",
    [b"x", b"../a/./b//c/../d/", b"/etc/../x/", b"y" * 59, b"y" * 60, b"z" * 100],
    ids=["short", "dots", "absolute", "59", "60", "100"],
)
def test_symlink_keeps_its_target(image, target):
    tree = of(image, archive.symlink(b"s", target, uid=3))
    assert tree["s"].content == target.decode()
    assert (tree["s"].uid, tree["s"].mtime) == (3, MTIME)


@pytest.mark.parametrize("length", [101, 1000, 4095])
def test_long_symlink(image, length):
    target = b"t" * length
    tree = of(image, archive.long_name(target, b"K"), archive.symlink(b"s", b"t"))
    assert tree["s"].content == target.decode()


@pytest.mark.parametrize(
    "kind, major, minor",
    [
        (archive.CHR, 1, 3),
        (archive.BLK, 8, 1),
        (archive.CHR, 255, 255),
        (archive.BLK, 256, 0),
        (archive.CHR, 300, 70000),
        (archive.BLK, 4095, 0xFFFFF),
        (archive.CHR, 0, 0),
    ],
)
def test_device(image, kind, major, minor):
    tree = of(image, archive.header(b"n", kind, major=major, minor=minor, mode=0o600))
    assert tree["n"].content == (major, minor)
    wanted = stat.S_IFCHR if kind == archive.CHR else stat.S_IFBLK
    assert tree["n"].mode == wanted | 0o600


def test_fifo(image):
    tree = of(image, archive.header(b"p", archive.FIFO, mode=0o622))
    assert stat.filemode(tree["p"].mode) == "prw--w--w-"


def test_hard_link_shares_the_inode(image):
    tree = of(image, archive.file(b"d/a", b"data"), archive.hard(b"b", b"/d/../d/a"))
    assert tree["b"] == tree["d/a"]
    assert tree["b"].links == 2


def test_hard_link_into_a_lower_layer(image):
    image.apply(archive.file(b"low", b"of the lower layer") + archive.END)
    tree = of(image, archive.hard(b"new/name", b"low"))
    assert tree["new/name"] == tree["low"] and tree["low"].links == 2


def test_hard_link_to_a_symlink_links_the_symlink(image):
    tree = of(image, archive.symlink(b"s", b"nowhere"), archive.hard(b"t", b"s"))
    assert tree["t"].content == "nowhere" and tree["t"].links == 2


def test_hard_link_changes_the_attributes_of_both(image):
    tree = of(image, archive.file(b"a", mode=0o600), archive.hard(b"b", b"a", mode=0o644, uid=9))
    assert (tree["a"].mode & 0o777, tree["a"].uid) == (0o644, 9)


def test_hard_link_over_itself_stays(image):
    tree = of(image, archive.file(b"a", b"text"), archive.hard(b"a", b"a"))
    assert (tree["a"].links, tree["a"].content[0]) == (1, 4)


def test_hard_link_replaces_a_directory(image):
    tree = of(image, archive.file(b"a"), archive.file(b"d/x"), archive.hard(b"d", b"a"))
    assert set(tree) == {"a", "d"} and tree["d"].links == 2


@pytest.mark.parametrize("size", [512, 700, 5000])
def test_payload_of_a_hard_link_is_passed_over(image, size):
    """Some write the data again, some only its size."""
    payload = archive.pad(b"p" * size)
    linked = archive.header(b"b", archive.HARD, size, b"a")
    tree = of(image, archive.file(b"a", b"text"), linked, payload, archive.file(b"c"))
    assert sizes(tree) == {"a": 4, "b": 4, "c": 0}


def test_size_of_a_hard_link_without_payload_is_nothing(image):
    linked = archive.header(b"b", archive.HARD, 9999, b"a")
    assert sizes(of(image, archive.file(b"a", b"text"), linked, archive.file(b"c"))) == {
        "a": 4,
        "b": 4,
        "c": 0,
    }


@pytest.mark.parametrize("kind", [archive.DIR, archive.SYM, archive.CHR, archive.FIFO])
def test_size_of_what_has_no_data_is_nothing(image, kind):
    odd = archive.header(b"odd", kind, 4096, b"target")
    assert sizes(of(image, odd, archive.file(b"c", b"text"))) == {"c": 4}


def test_old_names_with_a_slash_are_directories(image):
    tree = of(
        image, archive.header(b"d/", b"\0", magic=b""), archive.header(b"f", b"\0", magic=b"")
    )
    assert stat.S_ISDIR(tree["d"].mode) and stat.S_ISREG(tree["f"].mode)


def test_contiguous_file_is_a_file(image):
    assert sizes(of(image, archive.header(b"f", b"7", 3), archive.pad(b"abc"))) == {"f": 3}


# ---- one thing replaces another

MAKERS = {
    "file": archive.file(b"n", b"text"),
    "dir": archive.directory(b"n/"),
    "full": archive.directory(b"n/") + archive.file(b"n/x/y/z", b"text"),
    "symlink": archive.symlink(b"n", b"elsewhere"),
    "device": archive.header(b"n", archive.CHR, major=1, minor=3),
    "hard": archive.hard(b"n", b"other"),
}
KINDS = {"file": "-", "dir": "d", "full": "d", "symlink": "l", "device": "c", "hard": "-"}


@pytest.mark.parametrize("after", MAKERS)
@pytest.mark.parametrize("before", MAKERS)
def test_what_comes_later_replaces(image, before, after):
    image.apply(archive.file(b"other", b"other") + MAKERS[before] + archive.END)
    tree = of(image, MAKERS[after])
    assert stat.filemode(tree["n"].mode)[0] == KINDS[after]
    inside = {name for name in tree if name.startswith("n/")}
    kept = "full" in (before, after) and KINDS[before] + KINDS[after] == "dd" or after == "full"
    assert inside == ({"n/x", "n/x/y", "n/x/y/z"} if kept else set())


# ---- attributes


def test_extended_attributes(image):
    capability = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
    records = {
        b"SCHILY.xattr.user.with=NUL\0": b"",
        b"SCHILY.xattr.security.capability": capability,
        b"SCHILY.xattr.trusted.overlay.opaque": b"y",
        b"SCHILY.xattr.user.binary": b"a\0=\nb",
    }
    del records[b"SCHILY.xattr.user.with=NUL\0"]
    tree = of(image, archive.pax(records), archive.file(b"f", b"x"))
    assert tree["f"].xattrs == (
        ("security.capability", capability),
        ("trusted.overlay.opaque", b"y"),
        ("user.binary", b"a\0=\nb"),
    )


ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, perm, number)
    for tag, perm, number in [
        (1, 6, 0xFFFFFFFF),
        (2, 4, 1000),
        (4, 4, 0xFFFFFFFF),
        (16, 4, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    ]
)


def test_access_lists(image):
    records = {
        b"SCHILY.xattr.system.posix_acl_access": ACL,
        b"SCHILY.xattr.system.posix_acl_default": ACL,
    }
    tree = of(image, archive.pax(records), archive.directory(b"d/", mode=0o640))
    assert tree["d"].xattrs == (
        ("system.posix_acl_access", ACL),
        ("system.posix_acl_default", ACL),
    )


def test_attributes_that_fill_a_block(image):
    value = bytes(range(256)) * 15
    records = {b"SCHILY.xattr.user.large": value, b"SCHILY.xattr.user.small": b"s"}
    tree = of(image, archive.pax(records), archive.file(b"f", b"x"))
    assert dict(tree["f"].xattrs) == {"user.large": value, "user.small": b"s"}


def test_attributes_on_a_symlink(image):
    records = {b"SCHILY.xattr.security.selinux": b"label\0" * 40}
    tree = of(image, archive.pax(records), archive.symlink(b"s", b"t" * 30))
    assert tree["s"].xattrs == (("security.selinux", b"label\0" * 40),)
    # What has an attribute block and a target in its inode can also go.
    assert of(image, archive.whiteout(b"s")) == {}


def test_attribute_that_no_block_holds(image):
    entry = archive.pax({b"SCHILY.xattr.user.x": bytes(5000)}) + archive.file(b"f")
    with pytest.raises(errors.NativeError, match="entry 'f' at offset 0: attribute user.x of 5000"):
        image.apply(entry + archive.END)
    assert image.tree() == {}


@pytest.mark.parametrize("name", [b"os2.x", b"system.data", b"user.", b"user." + b"n" * 256, b"n"])
def test_attribute_that_ext4_does_not_know_is_left_out(image, name):
    entry = archive.pax({b"SCHILY.xattr." + name: b"v"}) + archive.file(b"f")
    applied = image.apply(entry + archive.END)
    assert applied.warnings == 1 and "left out" in applied.warning
    assert image.tree()["f"].xattrs == ()


def test_directory_keeps_attributes_that_the_layer_does_not_name(image):
    one, two = {b"SCHILY.xattr.user.one": b"1"}, {b"SCHILY.xattr.user.two": b"2"}
    image.apply(archive.pax(one) + archive.directory(b"d") + archive.END)
    tree = of(image, archive.pax(two), archive.directory(b"d"))
    assert tree["d"].xattrs == (("user.one", b"1"), ("user.two", b"2"))


@pytest.mark.parametrize(
    "text, expected",
    [
        (b"1600000000.123456789", 1_600_000_000_123_456_789),
        (b"0.5", SECOND // 2),
        (b"-1.5", -SECOND - SECOND // 2),
        (b"2147483648", 2147483648 * SECOND),
        (b"4294967296.000000001", 4294967296 * SECOND + 1),
        (b"15032385535", 15032385535 * SECOND),
        (b"99999999999999", 15032385535 * SECOND),
        (b"-99999999999999", -2147483648 * SECOND),
    ],
)
def test_time(image, text, expected):
    tree = of(image, archive.pax({b"mtime": text}), archive.file(b"f"))
    assert tree["f"].mtime == expected


def test_access_time_is_not_before_the_change(image):
    early, late = {b"atime": b"5"}, {b"atime": b"1700000000.5"}
    image.apply(
        archive.pax(early)
        + archive.file(b"early")
        + archive.pax(late)
        + archive.file(b"late")
        + archive.END
    )
    with image.mounted() as folder:
        assert (folder / "early").stat().st_atime_ns == MTIME
        assert (folder / "late").stat().st_atime_ns == 1_700_000_000 * SECOND + SECOND // 2


def test_owner_of_32_bits(image):
    records = {b"uid": b"4294967294", b"gid": b"70000"}
    tree = of(image, archive.pax(records), archive.file(b"f"), archive.directory(b"d"))
    assert (tree["f"].uid, tree["f"].gid) == (4294967294, 70000)
    assert (tree["d"].uid, tree["d"].gid) == (0, 0)


def test_the_same_archive_gives_the_same_bytes(tmp_path):
    data = b"".join(MAKERS.values()) + archive.file(b"other") + archive.END
    data = archive.file(b"other", b"1" * 10000) + data
    made = [disk.Image(tmp_path / name).mkfs() for name in ("one", "two")]
    for image in made:
        image.apply(data)
    assert made[0].path.read_bytes() == made[1].path.read_bytes()
