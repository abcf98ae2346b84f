# SPDX-License-Identifier: Apache-2.0
"""
A sample image made from nothing but this checkout and mkfs.ext4: two layers, as a registry would
have them.

    layer 0   what mkfs.ext4 makes of a first tree of files
    layer 1   the blocks that differ after debugfs wrote further files, and others anew, into it
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import random
import subprocess
from typing import Dict, Iterable, List

from tests.support import layers

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZE = 64 << 20
TEXTS = 40
TEXT_WORDS = 30_000


@dataclasses.dataclass(frozen=True)
class Image:
    folder: pathlib.Path  # config.v1.json and the layers
    layers: List[pathlib.Path]
    files: Dict[str, str]  # path: sha256
    file_bytes: int
    size: int  # of the disk, in bytes

    @property
    def stored_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.layers)


def build(folder: pathlib.Path, place: str) -> Image:
    """The image in folder/image, for use at place."""
    tree, disk, image = folder / "tree", folder / "disk", folder / "image"
    image.mkdir()
    first, second = _first_files(), _second_files()
    _write(tree, first)
    _make_disk(disk, tree)
    base = disk.read_bytes()
    _write(folder / "changes", second)
    _change_disk(disk, folder / "changes", second)
    made = [image / "layer0.lz4", image / "layer1.lz4"]
    layers.write_changes(made[0], b"", base)
    layers.write_changes(made[1], base, disk.read_bytes())
    _write_config(image, made, place)
    files = {**first, **second}
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    return Image(image, made, digests, sum(map(len, files.values())), SIZE)


def _first_files() -> Dict[str, bytes]:
    generator = random.Random("sample")
    vocabulary = [f"{generator.getrandbits(generator.choice((12, 20, 28))):x}" for _ in range(4000)]
    files = {f"text/{n:02}.txt": _text(generator, vocabulary) for n in range(TEXTS)}
    files["hello"] = b"hello from layer 0\n"
    files["random"] = generator.randbytes(1 << 20)
    return files


def _second_files() -> Dict[str, bytes]:
    sources = sorted((ROOT / "docs").glob("*.md")) + [ROOT / "LICENSE"]
    files = {f"docs/{path.name}": path.read_bytes() for path in sources}
    files["hello"] = b"hello from layer 1, which covers layer 0\n"
    return files


def _text(generator: random.Random, vocabulary: List[str]) -> bytes:
    return " ".join(generator.choices(vocabulary, k=TEXT_WORDS)).encode()


def _write(tree: pathlib.Path, files: Dict[str, bytes]) -> None:
    for name, data in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)


def _make_disk(disk: pathlib.Path, tree: pathlib.Path) -> None:
    with open(disk, "wb") as file:
        file.truncate(SIZE)
    options = ["-q", "-F", "-m0", "-b4096", "-O", "^has_journal", "-d", str(tree)]
    subprocess.run(["mkfs.ext4", *options, str(disk)], check=True)


def _change_disk(disk: pathlib.Path, tree: pathlib.Path, names: Iterable[str]) -> None:
    """Puts the tree's files into the file system, in place of those it has."""
    script = ["mkdir docs"]
    for name in names:
        path = pathlib.PurePosixPath("/", name)
        script += [
            f"cd {path.parent}",
            f"rm {path.name}",
            f"write {tree / name} {path.name}",
        ]
    # Its complaints are about what is there already or not yet there; e2fsck has the last word.
    debugfs = ["debugfs", "-w", "-f", "/dev/stdin", str(disk)]
    subprocess.run(debugfs, input="\n".join(script), text=True, capture_output=True, check=True)
    subprocess.run(["e2fsck", "-fn", str(disk)], capture_output=True, check=True)


def _write_config(image: pathlib.Path, made: List[pathlib.Path], place: str) -> None:
    document = {
        "repoBlobUrl": "",
        "lowers": [{"file": f"{place}/{path.name}"} for path in made],
        "upper": {},
        "resultFile": f"{place}/init-debug.log",
    }
    (image / "config.v1.json").write_text(json.dumps(document))
