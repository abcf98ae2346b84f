# SPDX-License-Identifier: Apache-2.0
"""
What layers do to a tree, in the plainest way: objects in dictionaries. Random layers are applied to
it and to an ext4, and have to come out the same.
"""

import dataclasses
import itertools
import stat

LINKS_MAX = 255


@dataclasses.dataclass(eq=False)
class Object:
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0  # seconds
    content: object = None  # bytes of a file, target of a symlink, numbers of a device
    children: dict = dataclasses.field(default_factory=dict)

    @property
    def is_dir(self):
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self):
        return stat.S_ISLNK(self.mode)


class Refused(Exception):
    """The layer ends here; what came before stays."""


class Tree:
    def __init__(self):
        self.root = Object(stat.S_IFDIR | 0o755)
        self.own = set()  # (directory, name) that the layer being applied has put there

    def begin_layer(self):
        self.own = set()

    # -- names

    @staticmethod
    def clean(path):
        parts = []
        for part in path.split("/"):
            if part == "..":
                parts[-1:] = []
            elif part not in ("", "."):
                parts.append(part)
        return parts

    def walk(self, parts, create):
        """[(directory, its name)] from the root to where parts lead."""
        steps, missing = [(self.root, None)], []
        todo = list(parts)
        links = itertools.count(1)
        while todo:
            part = todo.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                if missing:
                    missing.pop()
                elif len(steps) > 1:
                    steps.pop()
            elif missing or part not in steps[-1][0].children:
                if not create:
                    raise Refused("No such file")
                missing.append(part)
            else:
                steps, todo = self._down(steps, part, todo, links)
        for part in missing:
            made = Object(stat.S_IFDIR | 0o755)
            steps[-1][0].children[part] = made
            steps.append((made, part))
        return steps

    def _down(self, steps, part, todo, links):
        found = steps[-1][0].children[part]
        if found.is_dir:
            return [*steps, (found, part)], todo
        if not found.is_symlink:
            raise Refused("Not a directory")
        if next(links) > LINKS_MAX:
            raise Refused("symbolic links")
        start = steps[:1] if found.content.startswith("/") else steps
        return start, found.content.split("/") + todo

    def mark(self, steps, name):
        names = [step[1] for step in steps[1:]] + [name]
        self.own |= {(id(step[0]), part) for step, part in zip(steps, names)}

    # -- removing

    def remove(self, parent, name):
        gone = parent.children.pop(name)
        self.own.discard((id(parent), name))
        if gone.is_dir:
            for child in list(gone.children):
                self.remove(gone, child)

    def clear(self, folder):
        for name, child in list(folder.children.items()):
            if (id(folder), name) not in self.own:
                self.remove(folder, name)
            elif child.is_dir:
                self.clear(child)

    # -- entries

    def white_out(self, path):
        *parts, name = self.clean(path)
        folder = self.walk(parts, True)[-1][0]
        if name == ".wh..wh..opq":
            self.clear(folder)
            return
        name = name[len(".wh.") :]
        if name not in folder.children:
            return
        if (id(folder), name) not in self.own:
            self.remove(folder, name)
        elif folder.children[name].is_dir:
            self.clear(folder.children[name])

    def put(self, path, made):
        """A directory over a directory only changes it."""
        *parts, name = self.clean(path)
        steps = self.walk(parts, True)
        parent = steps[-1][0]
        there = parent.children.get(name)
        if there is not None and there.is_dir and made.is_dir:
            there.mode, there.uid, there.gid, there.mtime = (
                made.mode,
                made.uid,
                made.gid,
                made.mtime,
            )
        else:
            if there is not None:
                self.remove(parent, name)
            parent.children[name] = made
        self.mark(steps, name)

    def _target(self, link):
        *parts, name = self.clean(link)
        found = self.walk(parts, False)[-1][0].children.get(name)
        if found is None:
            raise Refused("No such file")
        if found.is_dir:
            raise Refused("a directory")
        return found

    def hard_link(self, path, link, header):
        *parts, name = self.clean(path)
        target = self._target(link)
        steps = self.walk(parts, True)
        parent = steps[-1][0]
        if parent.children.get(name) is not target:
            if name in parent.children:
                self.remove(parent, name)
                target = self._target(link)
                steps = self.walk(parts, True)
                parent = steps[-1][0]
            parent.children[name] = target
        if not target.is_symlink:
            target.mode = stat.S_IFMT(target.mode) | stat.S_IMODE(header.mode)
        target.uid, target.gid, target.mtime = header.uid, header.gid, header.mtime
        self.mark(steps, name)

    def all(self, folder=None, prefix=""):
        """{path: Object}"""
        found = {}
        for name, child in (folder or self.root).children.items():
            found[prefix + name] = child
            if child.is_dir:
                found.update(self.all(child, f"{prefix}{name}/"))
        return found
