# SPDX-License-Identifier: Apache-2.0
"""Headers of every age: v7, ustar, star, GNU, pax; and numbers in all their notations."""

import io
import tarfile

import pytest

from overlaybd_tcmu import errors

from . import archive


def apply(image, *entries):
    image.apply(b"".join(entries) + archive.END)
    return image.tree()


def test_prefix_of_ustar(image):
    assert "dir/sub/name" in apply(image, archive.file(b"name", prefix=b"dir/sub"))


def test_prefix_of_star_is_shorter(image):
    """Its times lie behind."""
    prefix = b"dir".ljust(131, b"\0") + b"12345670123\0"
    entry = archive.file(b"name", prefix=prefix, tail=bytes(8) + b"tar\0")
    assert "dir/name" in apply(image, entry)


def test_gnu_has_no_prefix(image):
    entry = archive.file(b"name", magic=b"ustar  \0", prefix=b"14000000000\0")
    assert list(apply(image, entry)) == ["name"]


def test_name_that_fills_its_field(image):
    assert list(apply(image, archive.file(b"n" * 100))) == ["n" * 100]


def test_long_names_of_gnu(image):
    name, target = b"d/" + b"n" * 200, b"t" * 300
    tree = apply(
        image,
        archive.long_name(target, b"K"),
        archive.long_name(name),
        archive.symlink(b"short", b"short"),
    )
    assert tree[name.decode()].content == target.decode()


def test_pax_wins_over_gnu_wins_over_the_header(image):
    tree = apply(
        image,
        archive.pax({b"path": b"pax"}),
        archive.long_name(b"gnu"),
        archive.file(b"header"),
        archive.long_name(b"gnu"),
        archive.file(b"header"),
    )
    assert set(tree) == {"pax", "gnu"}


def test_extension_is_for_one_entry(image):
    tree = apply(image, archive.pax({b"path": b"one", b"uid": b"7"}), archive.file(b"x"))
    tree = apply(image, archive.file(b"two"))
    assert (tree["one"].uid, tree["two"].uid) == (7, 0)


def test_last_record_of_a_key_counts(image):
    records = archive.record(b"path", b"one") + archive.record(b"path", b"two")
    assert list(apply(image, archive.pax(records), archive.file(b"x"))) == ["two"]


def test_empty_record_takes_back(image):
    records = archive.record(b"path", b"one") + archive.record(b"path", b"")
    assert list(apply(image, archive.pax(records), archive.file(b"x"))) == ["x"]


def test_global_header_is_passed_over(image):
    tree = apply(image, archive.pax({b"path": b"all", b"uid": b"7"}, b"g"), archive.file(b"x"))
    assert tree["x"].uid == 0


def test_unknown_records_are_passed_over(image):
    records = {b"comment": b"\0\xff", b"LIBARCHIVE.xattr.user.x": b"eA==", b"SCHILY.fflags": b"x"}
    assert list(apply(image, archive.pax(records), archive.file(b"x"))) == ["x"]


def test_size_of_pax(image):
    entry = archive.header(b"f", size=0) + archive.pad(b"12345")
    tree = apply(image, archive.pax({b"size": b"5"}), entry, archive.file(b"g"))
    assert tree["f"].content[0] == 5 and "g" in tree


@pytest.mark.parametrize(
    "number", [b"5", b"0000005", b" 5", b"     5 ", b"\x005", b"5\0garbage"[:2]]
)
def test_octal_numbers(image, number):
    assert apply(image, archive.file(b"f", uid=number.ljust(8, b"\0")))["f"].uid == 5


def test_empty_number_is_zero(image):
    assert apply(image, archive.file(b"f", uid=bytes(8), gid=b" " * 8))["f"].uid == 0


def test_binary_numbers(image):
    entry = archive.header(
        b"f",
        size=archive.base256(3, 12),
        uid=archive.base256(3_000_000_000, 8),
        gid=archive.base256(8, 8),
        mtime=archive.base256(-5, 12)[:0] + b"\xff" * 11 + b"\xfb",
    )
    node = apply(image, entry, archive.pad(b"abc"))["f"]
    assert (node.content[0], node.uid, node.gid) == (3, 3_000_000_000, 8)
    assert node.mtime == -5_000_000_000


def test_signed_checksum(image):
    block = archive.file("ä".encode())
    signed = sum(byte - 256 * (byte > 127) for byte in block[:148] + b" " * 8 + block[156:])
    old = archive.file("ä".encode(), checksum=b"%06o\0 " % signed)
    assert list(apply(image, old)) == ["ä"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_another_program(image, form):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as writer:
        for name in ("plain", "d" * 90 + "/" + "n" * 90, "ümlaut"):
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.mtime = 4, 1000, 1_234_567_890
            writer.addfile(member, io.BytesIO(b"text"))
    image.apply(file.getvalue())
    tree = image.tree()
    assert {tree[name].uid for name in ("plain", "d" * 90 + "/" + "n" * 90, "ümlaut")} == {1000}


# ---- the end


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(10240)])
def test_end_of_the_archive(image, end):
    image.apply(archive.file(b"f", b"text") + end)
    assert list(image.tree()) == ["f"]


def test_nothing_is_an_archive(image):
    assert image.apply(b"").entries == 0


def test_zero_block_between_entries_is_passed_over(image):
    image.apply(archive.file(b"a") + bytes(512) + archive.file(b"b") + archive.END)
    assert set(image.tree()) == {"a", "b"}


def test_what_follows_the_end_is_ignored(image):
    image.apply(archive.file(b"a") + archive.END + archive.file(b"b") + b"garbage")
    assert list(image.tree()) == ["a"]


def test_last_block_need_not_be_filled_up(image):
    image.apply(archive.header(b"a", size=3) + b"abc")
    assert image.tree()["a"].content[0] == 3


def test_unknown_type_names_entry_and_place(image):
    entry = archive.file(b"ok") + archive.header(b"disk/label", b"V")
    with pytest.raises(errors.NativeError) as caught:
        image.apply(entry + archive.END)
    assert "offset 1024" in str(caught.value) and "'disk/label' has type 0x56 ('V')" in str(
        caught.value
    )
    assert list(image.tree()) == ["ok"]
