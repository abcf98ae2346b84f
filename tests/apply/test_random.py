# SPDX-License-Identifier: Apache-2.0
"""Random layers: an ext4 holds what the model holds, whatever they do to each other."""

import collections
import hashlib
import stat

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.units import MiB

from . import archive, disk, model

# Few names, so that entries meet.
NAMES = ["a", "b", "c", "d", "e", "dir", "x" * 60]
KINDS = ["file"] * 6 + ["dir"] * 9 + ["symlink"] * 2 + ["hard"] * 2 + ["whiteout"] * 2
KINDS += ["opaque", "device", "fifo"]
TARGETS = ["a", "/a/b", "../c", "dir", "..", "/", ".", "a/../dir/..", "nowhere/x", "x" * 60]


class Layer:
    """An archive that grows, and what the model makes of it."""

    def __init__(self, rng, tree):
        self.rng = rng
        self.tree = tree
        self.data = b""

    def path(self):
        """Mostly in a directory that is there: what goes through a file ends the layer."""
        parts = [self.rng.choice(NAMES) for _ in range(self.rng.randint(1, 3))]
        if self.rng.random() < 0.95:
            folders = [name for name, found in self.tree.all().items() if found.is_dir]
            parts = [self.rng.choice([*folders, "."]), self.rng.choice(NAMES)]
        if self.rng.random() < 0.1:
            parts.insert(self.rng.randrange(len(parts)), self.rng.choice(["..", ".", ""]))
        return "/".join(parts)

    def add(self):
        """One more entry; Refused when the model cannot."""
        rng, path = self.rng, self.path()
        kind = rng.choice(KINDS)
        mode, uid, mtime = rng.randrange(0o10000), rng.randrange(1 << 17), rng.randrange(1 << 33)
        header = model.Object(mode, uid, uid ^ 1, mtime)
        self.data += archive.pax(
            {b"uid": b"%d" % uid, b"gid": b"%d" % (uid ^ 1), b"mtime": b"%d" % mtime}
        )
        getattr(self, kind)(path, header)

    def entry(self, kind, path, header, size=0, link=b"", **fields):
        self.data += archive.long_name(path.encode())
        if len(link) > 100:
            self.data += archive.long_name(link, b"K")
        self.data += archive.header(b"", kind, size, link, mode=header.mode, **fields)

    def file(self, path, header):
        size = self.rng.choice([0, 1, 100, 4096, 10000, 100_000])
        content = self.rng.randbytes(size)
        self.entry(archive.FILE, path, header, size)
        self.data += archive.pad(content)
        header.mode |= stat.S_IFREG
        header.content = content
        self.tree.put(path, header)

    def dir(self, path, header):
        self.entry(archive.DIR, path + "/", header)
        header.mode |= stat.S_IFDIR
        self.tree.put(path, header)

    def symlink(self, path, header):
        header.content = self.rng.choice(TARGETS)
        self.entry(archive.SYM, path, header, link=header.content.encode())
        header.mode = stat.S_IFLNK | 0o777
        self.tree.put(path, header)

    def hard(self, path, header):
        files = [name for name, found in self.tree.all().items() if not found.is_dir]
        link = self.rng.choice(files) if files and self.rng.random() < 0.9 else self.path()
        self.entry(archive.HARD, path, header, link=link.encode())
        self.tree.hard_link(path, link, header)

    def whiteout(self, path, header):
        parent, slash, name = path.rpartition("/")
        path = f"{parent}{slash}.wh.{name or 'a'}"
        if path.endswith((".wh..", ".wh...")):
            path += "x"
        self.entry(archive.FILE, path, header)
        self.tree.white_out(path)

    def opaque(self, path, header):
        path = self.rng.choice([path + "/.wh..wh..opq"] * 9 + [".wh..wh..opq"])
        self.entry(archive.FILE, path, header)
        self.tree.white_out(path)

    def device(self, path, header):
        header.content = (self.rng.randrange(4096), self.rng.randrange(1 << 20))
        self.entry(archive.CHR, path, header, major=header.content[0], minor=header.content[1])
        header.mode |= stat.S_IFCHR
        self.tree.put(path, header)

    def fifo(self, path, header):
        self.entry(archive.FIFO, path, header)
        header.mode |= stat.S_IFIFO
        self.tree.put(path, header)


def node(found, links):
    content = found.content
    if stat.S_ISREG(found.mode):
        content = len(content), hashlib.sha256(content).hexdigest()
    links = 0 if found.is_dir else links[id(found)]
    return disk.Node(found.mode, found.uid, found.gid, found.mtime * 10**9, content, links, ())


def nodes(tree):
    objects = tree.all()
    links = collections.Counter(id(found) for found in objects.values())
    return {path: node(found, links) for path, found in objects.items()}


def apply_random_layer(rng, tree, image):
    """A layer, until it is refused or long enough; both must agree."""
    layer = Layer(rng, tree)
    tree.begin_layer()
    refusal = None
    for _ in range(rng.randint(1, 40)):
        try:
            layer.add()
        except model.Refused as error:
            refusal = str(error)
            break
    if refusal:
        with pytest.raises(errors.NativeError, match=refusal):
            image.apply(layer.data)
    else:
        image.apply(layer.data)


@pytest.mark.parametrize("case", range(12))
def test_random_layers(tmp_path, rng, case):
    image, tree = disk.Image(tmp_path / "disk", 64 * MiB).mkfs(), model.Tree()
    for _ in range(12):
        apply_random_layer(rng, tree, image)
    image.check()
    assert disk.differences(image.tree(), nodes(tree)) == []
    assert disk.differences(image.tree_read(), nodes(tree)) == []
