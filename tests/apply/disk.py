# SPDX-License-Identifier: Apache-2.0
"""File systems in plain files: made and written by us, judged by e2fsck, read by the kernel."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import stat
import subprocess
import tempfile

import pytest

from overlaybd_tcmu.ffi import ext4
from overlaybd_tcmu.units import MiB

from . import reader


def execute(*command):
    """Another program, without a sanitizer's runtime in it."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def run(*command):
    """What the program prints; it must succeed."""
    result = execute(*command)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


@functools.lru_cache(maxsize=None)
def can_mount():
    """Root may be one in a container, where the kernel mounts nothing: only trying tells."""
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        image = Image(os.path.join(folder, "disk"), 4 * MiB).mkfs()
        mounted = execute("mount", "-o", "loop,ro", image.path, folder).returncode == 0
        return mounted and execute("umount", folder).returncode == 0


@dataclasses.dataclass(frozen=True)
class Node:
    """What a path of a tree is, but for its name. Times in nanoseconds."""

    mode: int
    uid: int
    gid: int
    mtime: int
    content: object  # digest of a file, target of a symlink, number of a device
    links: int
    xattrs: tuple


def content_of(path, status):
    if stat.S_ISREG(status.st_mode):
        return status.st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return os.major(status.st_rdev), os.minor(status.st_rdev)
    return None


def node(path):
    status = os.lstat(path)
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return Node(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        content_of(path, status),
        0 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
        tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
    )


def tree_of(root):
    """{path: Node} of everything under root, lost+found and the root itself left out."""
    root = pathlib.Path(root)
    found = {}
    for folder, directories, files in os.walk(root):
        if pathlib.Path(folder) == root and "lost+found" in directories:
            directories.remove("lost+found")
        for name in directories + files:
            path = pathlib.Path(folder, name)
            found[str(path.relative_to(root))] = node(path)
    return found


def node_of(inode):
    links = 0 if stat.S_ISDIR(inode.mode) else inode.links
    content = reader.content_of(inode)
    owner = inode.uid, inode.gid
    return Node(inode.mode, *owner, inode.mtime, content, links, inode.xattrs())


def differences(ours, theirs):
    """A line for each path that is not the same in two trees."""
    return [
        f"{name}: {ours.get(name)} instead of {theirs.get(name)}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def ranges(fd, size):
    """(offset, count) of a sparse file's data."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:
            return
        offset = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, offset - start


def same(one, other):
    """Do two sparse files hold the same bytes? Holes of both are not looked at."""
    with open(one, "rb") as first, open(other, "rb") as second:
        fds, size = (first.fileno(), second.fileno()), os.stat(one).st_size
        places = {place for fd in fds for place in ranges(fd, size)}
        return size == os.stat(other).st_size and all(
            len({os.pread(fd, count, offset) for fd in fds}) == 1 for offset, count in places
        )


def export(image, path):
    """What a native.Image shows, as a plain disk."""
    raw, offset = Image(path, image.info().virtual_size), 0
    with open(raw.path, "r+b") as file:
        while (found := image.next_data(offset)) is not None:
            start, offset = found[0], min(found[1], found[0] + 4 * MiB)
            os.pwrite(file.fileno(), image.pread(offset - start, start), start)
    return raw


class Image:
    """An ext4 in a file."""

    def __init__(self, path, size=32 * MiB):
        self.path = pathlib.Path(path)
        self.path.write_bytes(b"")
        os.truncate(self.path, size)

    def mkfs(self):
        with ext4.file_disk(str(self.path)) as disk:
            ext4.mkfs(disk)
        return self

    def mke2fs(self, *options):
        kind = () if "-t" in options else ("-t", "ext4")
        run("mke2fs", "-q", "-F", *kind, *options, self.path)
        return self

    def apply(self, data, **options):
        """Applies an archive: bytes, or the path of one."""
        with contextlib.ExitStack() as stack:
            if isinstance(data, bytes):
                file = stack.enter_context(tempfile.TemporaryFile())
                file.write(data)
                file.seek(0)
            else:
                file = stack.enter_context(open(data, "rb"))
            disk = stack.enter_context(ext4.file_disk(str(self.path)))
            return ext4.apply(disk, file.fileno(), **options)

    def check(self):
        """e2fsck finds nothing to mend."""
        result = execute("e2fsck", "-fn", self.path)
        assert result.returncode == 0, result.stdout
        return self

    @contextlib.contextmanager
    def mounted(self):
        """The tree as the kernel shows it, read-only."""
        if not can_mount():
            pytest.skip("mounting needs root and loop devices")
        with tempfile.TemporaryDirectory() as folder:
            run("mount", "-o", "loop,ro", self.path, folder)
            try:
                yield pathlib.Path(folder)
            finally:
                run("umount", folder)

    def tree(self):
        """{path: Node}, as the kernel shows it where it may."""
        if not can_mount():
            return self.tree_read()
        with self.mounted() as folder:
            return tree_of(folder)

    def tree_read(self):
        """{path: Node}, as plain Python reads it."""
        with open(self.path, "rb") as file:
            return {path: node_of(inode) for path, inode in reader.walk(reader.Ext4(file))}

    def debugfs(self, command):
        return run("debugfs", "-R", command, self.path)
