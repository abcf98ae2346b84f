# SPDX-License-Identifier: Apache-2.0
"""The golden layers, against what the original made of them and what GNU tar does."""

import stat

import pytest

from tests.support import golden

from . import disk, oracle

STACKS = {
    "view0": ["layer0"],
    "view1": ["layer0", "layer1"],
    "view2": ["layer0", "layer1", "layer2"],
    "c-view0": ["c-layer0"],
    "c-view1": ["c-layer0", "c-layer1"],
}
LETTERS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
}


def layers_of(view):
    return [golden.folder() / "tars" / f"{name}.tar" for name in STACKS[view]]


@pytest.fixture(params=STACKS)
def applied(request, tmp_path):
    """(view, the image with its layers)."""
    image = disk.Image(tmp_path / "disk", 256 << 20).mkfs()
    for layer in layers_of(request.param):
        image.apply(layer)
        image.check()
    return request.param, image


def line_of(name, node, path):
    """What the manifest says of a path."""
    kind = LETTERS[stat.S_IFMT(node.mode)]
    size = path.lstat().st_size if kind in "fd" else 0
    content = {"l": lambda: node.content, "f": lambda: node.content[1]}.get(kind, lambda: "-")()
    return [name, kind, f"{node.mode & 0o7777:o}", str(node.uid), str(node.gid), str(size), content]


def test_tree_is_what_the_original_made(applied):
    view, image = applied
    with image.mounted() as folder:
        tree = disk.tree_of(folder)
        lines = [line_of(name, tree[name], folder / name) for name in sorted(tree)]
        links = {name: (folder / name).lstat().st_nlink for name in tree}
    manifest = (golden.folder() / "manifests" / f"{view}.tsv").read_text().splitlines()
    rows = [row.split("\t") for row in manifest if row.split("\t")[0] != "lost+found"]
    expected = [row[:5] + [row[5] if row[1] in "fd" else "0"] + row[7:8] for row in sorted(rows)]
    assert lines == expected
    assert links == {row[0]: int(row[6]) for row in rows}


def test_tree_is_what_tar_unpacks(applied, tmp_path_factory):
    view, image = applied
    tree = image.tree()
    # On a real disk: memory holds no attributes of users.
    expected = oracle.tree(layers_of(view), tmp_path_factory.mktemp("unpacked"))
    assert disk.differences(tree, expected) == []


def test_published_layer(tmp_path):
    layer = golden.folder() / "published" / "hello-world.layer.tar.gz"
    image = disk.Image(tmp_path / "disk").mkfs()
    image.apply(layer)
    image.check()
    tree = image.tree()
    folder = tmp_path / "unpacked"
    folder.mkdir()
    assert disk.differences(tree, oracle.tree([layer], folder)) == []
    assert list(tree) == ["hello"]
