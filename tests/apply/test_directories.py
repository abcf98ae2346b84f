# SPDX-License-Identifier: Apache-2.0
"""Large directories: indexed, as the kernel makes them, and found by the kernel's own index."""

import os

import pytest

from . import archive, disk

SEED = "01234567-89ab-cdef-0123-456789abcdef"


def hard_links(folder, names):
    """Names cost an inode each; links cost nothing."""
    paths = (folder + name for name in names)
    return archive.file(b"one") + b"".join(archive.many(archive.hard(b"", b"one"), paths))


def names_of(rng, count, longest=60):
    """Different names of all lengths."""
    alphabet = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
    made = set()
    while len(made) < count:
        made.add(bytes(rng.choices(alphabet, k=rng.randint(4, longest))))
    return sorted(made, key=lambda name: rng.random())


def found(image, folder="d"):
    """The names, each looked for on its own: the kernel goes through the index."""
    with image.mounted() as root:
        names = os.listdir(os.fsencode(root / folder))
        for name in names:
            os.lstat(os.path.join(os.fsencode(root / folder), name))
        return set(names)


def is_indexed(image, folder="d"):
    return "0x81000" in image.debugfs(f"stat {folder}")


@pytest.mark.parametrize("count", [10, 200, 5000])
def test_all_names_are_found(image, rng, count):
    names = names_of(rng, count)
    image.apply(hard_links(b"d/", names) + archive.END)
    assert found(image) == set(names)
    assert is_indexed(image) == (count > 100)


def test_names_that_were_there_are_found_and_replaced(image, rng):
    names = names_of(rng, 3000)
    image.apply(hard_links(b"d/", names) + archive.END)
    image.apply(
        archive.file(b"two") + b"".join(archive.hard(b"d/" + name, b"two") for name in names)
    )
    assert found(image) == set(names)
    assert (image.tree()["one"].links, image.tree()["two"].links) == (1, 3001)


def test_names_come_and_go(image, rng):
    """Against a set, in many layers."""
    names = names_of(rng, 1500)
    there = set()
    for _ in range(8):
        entries = [archive.file(b"one")] if not there else []
        for name in rng.sample(names, 400):
            if name in there and rng.random() < 0.6:
                entries.append(archive.whiteout(b"d/" + name))
                there.discard(name)
            else:
                entries.append(archive.hard(b"d/" + name, b"one"))
                there.add(name)
        image.apply(b"".join(entries) + archive.END)
        image.check()
    assert found(image) == there


def test_index_of_two_levels(tmp_path, rng):
    """With blocks of 1 KiB the root is full after some 120 leaves."""
    image = disk.Image(tmp_path / "disk").mke2fs("-b", "1024", "-O", "^has_journal")
    names = names_of(rng, 12000, 40)
    image.apply(hard_links(b"d/", names) + archive.END)
    image.check()
    assert found(image) == set(names)
    assert "Indirect levels: 1" in image.debugfs("htree_dump /d")


def test_index_that_is_full(tmp_path, rng):
    """The longest names in the smallest blocks: 2^14 leaves are all that two levels can lead to."""
    image = disk.Image(tmp_path / "disk", 64 << 20).mke2fs(
        "-b", "1024", "-O", "^has_journal", "-i", "65536"
    )
    names = [b"n" * 243 + b"%012d" % i for i in range(45000)]
    entries = archive.file(b"one") + b"".join(
        archive.long_name(b"d/" + name) + archive.hard(b"", b"one") for name in names
    )
    with pytest.raises(Exception, match="the index of directory inode .* is full"):
        image.apply(entries + archive.END)
    image.check()


# Six names with one hash (half_md4, seed 0), found by trying 260 million: more than a leaf holds.
TWINS = [
    b"n" * 243 + b"%012d" % i for i in (9066126, 12837990, 25725614, 64624826, 79272183, 182353528)
]


def test_names_with_the_same_hash(tmp_path, rng):
    """They need two leaves, which no hash tells apart."""
    image = disk.Image(tmp_path / "disk").mke2fs("-b", "1024", "-O", "^has_journal")
    disk.run("debugfs", "-w", "-R", "set_super_value hash_seed null", image.path)
    others = names_of(rng, 200)
    for names in (others[:100], TWINS[:3], others[100:], TWINS[3:]):
        image.apply(
            archive.file(b"one", mode=0o600)
            + b"".join(
                archive.long_name(b"d/" + name) + archive.hard(b"", b"one") for name in names
            )
        )
        image.check()
    assert found(image) == {*others, *TWINS}
    assert "0x8b22c043" in image.debugfs("htree_dump /d")
    replaced = b"".join(archive.long_name(b"d/" + name) + archive.file(b"") for name in TWINS)
    image.apply(replaced)
    image.check()
    assert found(image) == {*others, *TWINS}


@pytest.mark.parametrize("version", ["legacy", "half_md4", "tea"])
def test_hashes(tmp_path, rng, version):
    image = disk.Image(tmp_path / "disk").mke2fs("-O", "^has_journal", "-E", f"hash_seed={SEED}")
    disk.run("tune2fs", "-E", f"hash_alg={version}", image.path)
    names = names_of(rng, 2000) + ["ümläut".encode() * 5]
    image.apply(hard_links(b"d/", names) + archive.END)
    image.check()
    assert found(image) == set(names)


def test_directory_without_index(tmp_path, rng):
    image = disk.Image(tmp_path / "disk").mke2fs("-O", "^has_journal,^dir_index")
    names = names_of(rng, 1000)
    image.apply(hard_links(b"d/", names) + archive.END)
    image.check()
    assert found(image) == set(names)
    image.apply(b"".join(archive.whiteout(b"d/" + name) for name in names[:500]))
    image.check()
    assert found(image) == set(names[500:])


def test_directory_made_by_the_kernel(tmp_path, rng):
    """It has its own index, which is read and extended."""
    if not disk.can_mount():
        pytest.skip("mounting needs root and loop devices")
    image = disk.Image(tmp_path / "disk").mke2fs("-O", "^has_journal")
    names = names_of(rng, 2000)
    mount = tmp_path / "mount"
    mount.mkdir()
    disk.run("mount", "-o", "loop", image.path, mount)
    try:
        (mount / "d").mkdir()
        (mount / "one").touch()
        for name in names[:1000]:
            os.link(mount / "one", os.fsencode(mount / "d") + b"/" + name)
    finally:
        disk.run("umount", mount)
    image.apply(b"".join(archive.hard(b"d/" + name, b"one") for name in names[1000:]))
    image.check()
    assert found(image) == set(names)


def test_more_directories_than_links_can_count(tmp_path):
    image = disk.Image(tmp_path / "disk", 2 << 30).mkfs()
    paths = (b"d/%05d" % i for i in range(65010))
    image.apply(b"".join(archive.many(archive.directory(b""), paths)))
    image.check()
    assert "Links: 1 " in image.debugfs("stat d")
    image.apply(archive.whiteout(b"d") + archive.END)
    image.check()
    assert image.tree() == {}


def test_more_hard_links_than_links_can_count(image):
    entries = hard_links(b"d/", [b"%05d" % i for i in range(65000)])
    with pytest.raises(Exception, match="entry 'd/64999' .*Too many links"):
        image.apply(entries)
    with image.mounted() as folder:
        assert (folder / "one").stat().st_nlink == 65000
