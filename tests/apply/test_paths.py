# SPDX-License-Identifier: Apache-2.0
"""Where names lead: never out of the image, and through symlinks as for a process inside."""

import stat

import pytest

from overlaybd_tcmu import errors

from . import archive


def names(image, *entries):
    image.apply(b"".join(entries) + archive.END)
    return {
        name: node.content for name, node in image.tree().items() if not stat.S_ISDIR(node.mode)
    }


@pytest.mark.parametrize(
    "name, path",
    [
        (b"./a", "a"),
        (b"/a", "a"),
        (b"//a", "a"),
        (b"a/", "a"),
        (b"a//b", "a/b"),
        (b"./a/./b", "a/b"),
        (b"x/../a", "a"),
        (b"../a", "a"),
        (b"../../../a", "a"),
        (b"/../a", "a"),
        (b"x/../../a", "a"),
        (b"a/b/../../../../c", "c"),
        (b"..a", "..a"),
        (b"...", "..."),
        (b".a/b.", ".a/b."),
        (b"a b\tc", "a b\tc"),
        ("ä/ö".encode(), "ä/ö"),
    ],
)
def test_name(image, name, path):
    assert list(names(image, archive.file(name))) == [path]


@pytest.mark.parametrize(
    "target, path",
    [
        (b"d", "d/f"),
        (b"/d", "d/f"),
        (b"d/e/..", "d/f"),
        (b"../../../d", "d/f"),
        (b"/../d/", "d/f"),
        (b"./d/./", "d/f"),
        (b"d/e", "d/e/f"),
        (b"t", "d/e/f"),
        (b"t/..", "d/f"),
        (b"/", "f"),
        (b"..", "f"),
        (b"new/folder", "new/folder/f"),
        (b"/new/../other", "other/f"),
        (b"new/../../other", "other/f"),
    ],
)
def test_parent_is_a_symlink(image, target, path):
    """t -> d/e is there, and d/e."""
    entries = archive.directory(b"d/e"), archive.symlink(b"t", b"d/e")
    found = names(image, *entries, archive.symlink(b"s", target), archive.file(b"s/f", b"x"))
    assert set(found) == {"t", "s", path}


def test_parent_is_a_symlink_of_a_lower_layer(image):
    names(image, archive.directory(b"usr/bin"), archive.symlink(b"bin", b"usr/bin"))
    assert "usr/bin/sh" in names(image, archive.file(b"bin/sh"))


def test_symlink_that_changes_leads_elsewhere(image):
    """The way to the same parent is looked for again."""
    entries = []
    for target in (b"one", b"two"):
        entries += [archive.symlink(b"s", target), archive.file(b"s/f", target)]
    assert set(names(image, *entries)) == {"s", "one/f", "two/f"}


def test_directory_replaces_a_symlink_on_the_way(image):
    entries = archive.symlink(b"s", b"one"), archive.file(b"s/f"), archive.directory(b"s")
    assert set(names(image, *entries, archive.file(b"s/g"))) == {"one/f", "s/g"}


def test_last_component_is_not_followed(image):
    found = names(
        image, archive.file(b"t"), archive.symlink(b"s", b"t"), archive.file(b"s", b"123")
    )
    assert {name: size for name, (size, _) in found.items()} == {"t": 0, "s": 3}


def test_hard_link_through_a_symlink(image):
    entries = archive.file(b"d/f"), archive.symlink(b"s", b"d"), archive.hard(b"h", b"s/f")
    assert set(names(image, *entries)) == {"d/f", "s", "h"}


@pytest.mark.parametrize("target", [b"s", b"./s", b"/s/s", b"t"])
def test_loop_of_symlinks(image, target):
    entries = archive.symlink(b"t", b"s"), archive.symlink(b"s", target), archive.file(b"s/f")
    with pytest.raises(errors.NativeError, match="entry 's/f' at offset 1024: .*symbolic links"):
        image.apply(b"".join(entries) + archive.END)


def test_symlinks_that_grow_and_grow(image):
    """Each doubles the way; 2^60 components are not walked."""
    entries = [archive.directory(b"d")]
    for i in range(60):
        link = b"s%d" % (i - 1) if i else b"d"
        entries.append(archive.symlink(b"s%d" % i, link + b"/../" + link))
    with pytest.raises(errors.NativeError, match="symbolic links|name too long"):
        image.apply(b"".join(entries) + archive.file(b"s59/f") + archive.END)


def test_parent_is_a_file(image):
    with pytest.raises(errors.NativeError, match="'a' on the way there: Not a directory"):
        image.apply(archive.file(b"a") + archive.file(b"a/b/c") + archive.END)
    assert list(image.tree()) == ["a"]


def test_longest_name(image):
    name = b"n" * 255
    assert list(names(image, archive.long_name(name), archive.file(b"n"))) == [name.decode()]


def test_name_that_is_too_long(image):
    with pytest.raises(errors.NativeError, match=r"entry 'n+\.\.\.' .*a name of 256 bytes"):
        image.apply(archive.long_name(b"n" * 256) + archive.file(b"n") + archive.END)


def test_longest_path(image):
    path = b"/".join([b"p" * 63] * 64)
    assert len(path) == 4095
    image.apply(archive.long_name(path) + archive.directory(b"n") + archive.END)
    assert image.debugfs("stat /" + "/".join(["p" * 63] * 32)).startswith("Inode:")


def test_path_that_is_too_long(image):
    path = b"/".join([b"p" * 63] * 64) + b"/"
    with pytest.raises(errors.NativeError, match="a path of 4096 bytes: File name too long"):
        image.apply(archive.long_name(path) + archive.directory(b"n") + archive.END)
