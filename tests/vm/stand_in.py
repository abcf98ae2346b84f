# SPDX-License-Identifier: Apache-2.0
"""
Stacks for a checkout without golden data, in the same places: made by our own tools from tars, with
manifests of what was put into the tars. So the kernel is served the same formats and compares every
file, only the layers' writer is not the original.

    files of three layers --tar--> overlaybd-apply --> overlaybd-commit, in each format
"""
from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import pathlib
import random
import re
import shutil
import subprocess
import tarfile
from typing import Dict, List, Tuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "vm" / "stand-in"
SIZE_GB = 1
# Stack: the tree it has, what its layers are called, and how they are committed.
FORMATS: Dict[str, Tuple[str, str, List[str]]] = {
    "plain": ("view2", "lsmt", []),
    "lz4-4k": ("view2", "zfile", ["-z"]),
    "zstd-4k": ("view2", "zfile", ["-z", "--algorithm", "zstd"]),
    "tar-lz4-4k": ("view2", "tar", ["-z", "-t"]),
    "c-plain": ("c-view1", "lsmt", []),
    "c-lz4-64k": ("c-view1", "zfile", ["-z", "--bs", "64"]),
    "c-zstd-64k": ("c-view1", "zfile", ["-z", "--bs", "64", "--algorithm", "zstd"]),
}
LAYERS = {"view2": 3, "c-view1": 2}
_LETTERS = {tarfile.REGTYPE: "f", tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l"}
_LETTERS.update({tarfile.FIFOTYPE: "p", tarfile.CHRTYPE: "c"})


@dataclasses.dataclass
class Entry:
    """A file of a layer, as tar has it."""

    name: str
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    data: bytes = b""
    target: str = ""
    owner: Tuple[int, int] = (0, 0)


@functools.lru_cache(maxsize=None)
def folder() -> pathlib.Path:
    """The folder, laid out as the golden one; made once a session."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    views = {}
    for view, layers in LAYERS.items():
        trees = [list(_tree(view, number)) for number in range(layers)]
        views[view] = _make_layers(view, trees)
    recorded = {}
    for name, (view, suffix, _) in FORMATS.items():
        lowers = [f"{name}/layer{number}.{suffix}" for number in range(LAYERS[view])]
        document = {"lowers": [{"file": f"@GOLDEN@/{lower}"} for lower in lowers]}
        _write(PLACE / "configs" / f"{name}.json", json.dumps(document))
        recorded[" + ".join(lowers)] = {"sha256": views[view]}
    _write(PLACE / "hashes.json", json.dumps({"views": recorded, "files": {}}))
    return PLACE


def _tree(view: str, number: int) -> List[Entry]:
    """What a layer brings, folders first."""
    rng = random.Random(f"{view} {number}")
    home = f"layer{number}"
    words = [f"{rng.getrandbits(24):x}" for _ in range(500)]
    entries = [
        Entry(home, tarfile.DIRTYPE, 0o755),
        Entry(f"{home}/random", data=rng.randbytes(1 << 21)),
    ]
    entries += [
        Entry(f"{home}/f{n:02}", data=" ".join(rng.choices(words, k=rng.randrange(3000))).encode())
        for n in range(110)
    ]
    entries += [
        Entry(f"{home}/empty"),
        Entry(f"{home}/setuid", mode=0o4755, data=b"#!/bin/true\n", owner=(1000, 1001)),
        Entry(f"{home}/link", tarfile.SYMTYPE, 0o777, target="../hello"),
        Entry(f"{home}/long", tarfile.SYMTYPE, 0o777, target="x" * 90 + "/y"),
        Entry(f"{home}/fifo", tarfile.FIFOTYPE, 0o600),
        Entry(f"{home}/null", tarfile.CHRTYPE, 0o666),
        Entry("hello", data=f"hello from layer {number}\n".encode()),
    ]
    if number:
        entries.append(Entry(f"layer{number - 1}/.wh.f07"))
    return entries


def _make_layers(view: str, trees: List[List[Entry]]) -> str:
    """Applies each tree over those below it, and commits it in every format; digest of the disk."""
    work = PLACE / "work" / view
    work.mkdir(parents=True)
    lowers: List[Dict[str, str]] = []
    for number, tree in enumerate(trees):
        data, index = (work / f"{number}.{name}" for name in ("data", "index"))
        tar = (PLACE / "tars" if view == "view2" else work) / f"layer{number}.tar"
        tar.parent.mkdir(exist_ok=True)
        _write_tar(tar, tree)
        fresh = ["--mkfs", str(SIZE_GB)] if not lowers else ["0"]
        _run("overlaybd-create", *fresh[:-1], data, index, fresh[-1])
        config = work / "config.json"
        upper = {"data": str(data), "index": str(index)}
        config.write_text(json.dumps({"lowers": lowers, "upper": upper}))
        _run("overlaybd-apply", tar, config)
        for name, (of, suffix, options) in FORMATS.items():
            if of == view:
                made = PLACE / name / f"layer{number}.{suffix}"
                made.parent.mkdir(exist_ok=True)
                _run("overlaybd-commit", *options, data, index, made)
        plain = next(name for name in ("plain", "c-plain") if FORMATS[name][0] == view)
        lowers.append({"file": str(PLACE / plain / f"layer{number}.lsmt")})
    config.write_text(json.dumps({"lowers": lowers}))
    disk = work / "disk"
    said = _run("overlaybd-export", "--sha256", config, disk)
    _write(PLACE / "manifests" / f"{view}.tsv", "\n".join(_manifest(trees, disk)) + "\n")
    shutil.rmtree(work)
    return re.findall(r"[0-9a-f]{64}", said)[0]


def _write_tar(path: pathlib.Path, tree: List[Entry]) -> None:
    with tarfile.open(path, "w") as tar:
        for entry in tree:
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode, info.linkname = entry.kind, entry.mode, entry.target
            info.size, info.mtime = len(entry.data), 1_700_000_000
            info.uid, info.gid = entry.owner
            info.devmajor, info.devminor = 1, 3
            tar.addfile(info, io.BytesIO(entry.data))


def _manifest(trees: List[List[Entry]], disk: pathlib.Path) -> List[str]:
    """What the guest is to find; only of lost+found the disk is asked for the size."""
    merged: Dict[str, Entry] = {}
    for tree in trees:
        for entry in tree:
            parent, _, name = entry.name.rpartition("/")
            if name.startswith(".wh."):
                del merged[f"{parent}/{name[4:]}"]
            else:
                merged[entry.name] = entry
    command = ["debugfs", "-R", "stat /lost+found", str(disk)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    size = re.findall(r"Size: (\d+)", said)[0]
    lines = [_describe(entry) for entry in merged.values()]
    return sorted([*lines, f"lost+found\td\t700\t0\t0\t{size}\t2\t-"])


def _describe(entry: Entry) -> str:
    size, links = len(entry.data), 1
    if entry.kind == tarfile.DIRTYPE:
        size, links = 4096, 2
    elif entry.kind == tarfile.SYMTYPE:
        size = len(entry.target)
    fields = [entry.name, _LETTERS[entry.kind], f"{entry.mode:o}", *entry.owner, size, links]
    if entry.kind == tarfile.SYMTYPE:
        fields.append(entry.target)
    regular = entry.kind == tarfile.REGTYPE
    fields.append(hashlib.sha256(entry.data).hexdigest() if regular else "-")
    return "\t".join(str(field) for field in fields)


def _run(program: str, *arguments: object) -> str:
    command = [str(ROOT / "build" / "bin" / program), *(str(one) for one in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def _write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
