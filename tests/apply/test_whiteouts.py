# SPDX-License-Identifier: Apache-2.0
"""
Whiteouts hide what lower layers have, in whatever order the archive brings them. A tree is written
as the names in it.
"""

import pytest

from overlaybd_tcmu import errors

from . import archive

LOWER = ["a", "d/x", "d/y", "d/e/f", "g/h", "top"]


def names(image):
    tree = image.tree()
    return sorted(name for name in tree if not any(other.startswith(name + "/") for other in tree))


@pytest.fixture
def lower(image):
    """An image with a lower layer."""
    image.apply(b"".join(archive.file(name.encode(), b"low") for name in LOWER) + archive.END)
    return image


def apply(image, *entries):
    image.apply(b"".join(entries) + archive.END)
    return names(image)


def without(*gone):
    return sorted(name for name in LOWER if not name.startswith(gone))


def test_file_goes(lower):
    assert apply(lower, archive.whiteout(b"a")) == without("a")


def test_directory_goes_with_all_that_is_in_it(lower):
    assert apply(lower, archive.whiteout(b"d")) == without("d")


def test_what_is_not_there_may_be_whited_out(lower):
    assert apply(lower, archive.whiteout(b"d/none")) == sorted(LOWER)


def test_directory_of_a_whiteout_is_made(lower):
    assert apply(lower, archive.whiteout(b"new/none")) == sorted([*LOWER, "new"])


def test_then_another_one_comes(lower):
    entries = archive.whiteout(b"d"), archive.file(b"d/new")
    assert apply(lower, *entries) == sorted([*without("d"), "d/new"])


def test_file_of_the_same_layer_stays(lower):
    entries = archive.file(b"a", b"upper"), archive.whiteout(b"a")
    assert apply(lower, *entries) == sorted(LOWER)
    assert lower.debugfs("cat a") == "upper"


def test_own_part_of_a_directory_stays(lower):
    entries = archive.directory(b"d"), archive.file(b"d/new"), archive.whiteout(b"d")
    assert apply(lower, *entries) == sorted([*without("d"), "d/new"])


def test_opaque_directory_is_emptied(lower):
    assert apply(lower, archive.opaque(b"d")) == sorted([*without("d"), "d"])


@pytest.mark.parametrize("late", [False, True])
def test_own_content_of_an_opaque_directory_stays(lower, late):
    own = [archive.directory(b"d"), archive.file(b"d/x"), archive.file(b"d/e/new")]
    entries = [*own, archive.opaque(b"d")] if late else [archive.opaque(b"d"), *own]
    assert apply(lower, *entries) == sorted([*without("d"), "d/x", "d/e/new"])


def test_opaque_root(lower):
    assert apply(lower, archive.file(b"new"), archive.opaque(b""), archive.file(b"d/z")) == [
        "d/z",
        "new",
    ]
    assert "lost+found" in lower.debugfs("ls /")


def test_opaque_root_by_the_name_of_dot(lower):
    assert apply(lower, archive.opaque(b".")) == []


def test_opaque_directory_that_is_not_there(lower):
    assert apply(lower, archive.opaque(b"n/m")) == sorted([*LOWER, "n/m"])


def test_name_that_was_replaced_is_no_longer_the_layers(lower):
    """What was put there and then hidden by a later archive is a lower layer's by then."""
    lower.apply(archive.file(b"d/x", b"upper") + archive.END)
    assert apply(lower, archive.whiteout(b"d/x")) == without("d/x")


def test_directory_that_came_and_went_leaves_no_trace(lower):
    """Its inode's number may serve another directory, whose names are not the layer's."""
    entries = [archive.file(b"t/%d/x" % i) for i in range(50)] + [archive.file(b"t")]
    entries += [archive.opaque(b"d")]
    assert apply(lower, *entries) == sorted([*without("d", "t"), "d", "t", "top"])


@pytest.mark.parametrize("kind", [archive.DIR, archive.CHR, archive.SYM])
def test_whiteout_is_known_by_its_name(lower, kind):
    entry = archive.header(b"d/.wh.x", kind, link=b"t")
    assert apply(lower, entry) == without("d/x")


def test_device_0_0_is_no_whiteout(lower):
    entry = archive.header(b"a", archive.CHR, major=0, minor=0)
    assert apply(lower, entry) == sorted(LOWER)


def test_other_names_of_aufs_are_whiteouts_too(lower):
    assert apply(lower, archive.file(b".wh..wh.plnk"), archive.file(b".wh..wh.aufs")) == sorted(
        LOWER
    )


@pytest.mark.parametrize("name", [b".wh.", b"d/.wh..", b"d/.wh..."])
def test_whiteout_of_nothing_is_refused(lower, name):
    with pytest.raises(errors.NativeError, match="a whiteout of nothing"):
        lower.apply(archive.file(name) + archive.END)
    assert names(lower) == sorted(LOWER)


def test_whiteout_of_one_of_two_hard_links(lower):
    apply(lower, archive.hard(b"other", b"a"))
    assert apply(lower, archive.whiteout(b"a")) == sorted([*without("a"), "other"])
    assert lower.tree()["other"].links == 1


def test_whiteout_through_a_symlink(lower):
    apply(lower, archive.symlink(b"s", b"d"))
    assert apply(lower, archive.whiteout(b"s/x")) == sorted([*without("d/x"), "s"])


def test_very_deep_tree_goes(image):
    """Deeper than any path: a part of it through symlinks."""
    entries = [archive.symlink(b"s0", b"/")]
    for i in range(20):
        below = b"/".join([b"n"] * 39 + [b"end"])
        entries.append(archive.directory(b"s%d/" % i + below))
        entries.append(archive.symlink(b"s%d" % (i + 1), b"s%d/" % i + below))
    image.apply(b"".join(entries) + archive.END)
    used = image.debugfs("show_super_stats -h").split("Free inodes:")[1].split()[0]
    image.check()
    image.apply(archive.whiteout(b"n") + archive.END)
    freed = image.debugfs("show_super_stats -h").split("Free inodes:")[1].split()[0]
    assert int(freed) - int(used) == 20 * 40
