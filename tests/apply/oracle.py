# SPDX-License-Identifier: Apache-2.0
"""
What a stack of layers unpacks to, by GNU tar and the rules for whiteouts.

Whiteouts first, for they hide what lower layers have and nothing of their own layer's; then tar.
"""

import os
import pathlib
import shutil
import subprocess
import tarfile

from . import disk

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def hide(root, name):
    """Carries out the whiteout called name."""
    path = pathlib.Path(root, name)
    if path.name == OPAQUE:
        for child in path.parent.iterdir() if path.parent.is_dir() else ():
            remove(child)
    else:
        remove(path.with_name(path.name[len(WHITEOUT) :]))


def make_way(root, members):
    """In a layer what is no directory replaces one, and the other way round; tar would refuse."""
    for member in members:
        path = pathlib.Path(root, member.name)
        if os.path.lexists(path) and member.isdir() != (path.is_dir() and not path.is_symlink()):
            remove(path)


def folders(root):
    """{path: time of the last change} of every directory."""
    return {folder: os.stat(folder).st_mtime_ns for folder, _, _ in os.walk(root)}


def unpack_one(layer, root):
    with tarfile.open(layer) as archive:
        members = archive.getmembers()
    before = folders(root)
    for member in members:
        if os.path.basename(member.name).startswith(WHITEOUT):
            hide(root, member.name)
    make_way(root, members)
    options = ["--delay-directory-restore", "--exclude=.wh.*"]
    options += ["--numeric-owner", "--xattrs", "--xattrs-include=*"]
    command = ["tar", "-xpf", str(layer), "-C", str(root), *options]
    subprocess.run(command, check=True)
    # A directory that the layer does not list keeps its time, and one that nobody lists has none.
    listed = {os.path.normpath(os.path.join(root, member.name)) for member in members}
    for folder in folders(root):
        if folder not in listed:
            os.utime(folder, ns=(0, before.get(folder, 0)))


def unpack(layers, root):
    """The layers, lowest first, into the folder."""
    for layer in layers:
        unpack_one(layer, str(root))


def tree(layers, folder):
    """{path: Node} of what they unpack to; folder is an empty one to do it in."""
    unpack(layers, folder)
    return disk.tree_of(folder)
