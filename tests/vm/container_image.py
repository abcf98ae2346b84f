# SPDX-License-Identifier: Apache-2.0
"""
An image as a registry has it: two layers made by the programs of this checkout, as a converter
makes them, and the documents that name them.

    folder/blobs/sha256:...     what is pushed, the layers and the image's configuration
    folder/manifest.json
"""
from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
import random
import subprocess
import sys
import tarfile
from typing import Any, Dict, List

from .harness import rootfs

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAYER = "application/vnd.oci.image.layer.v1.tar"
LABEL = "containerd.io/snapshot/overlaybd/"
UNREAD_BYTES = 32 << 20  # of a file that no container reads
PROGRAMS = ("sh", "cat", "sha256sum", "ls", "sync", "dd")


@dataclasses.dataclass(frozen=True)
class Image:
    folder: pathlib.Path
    files: Dict[str, str]  # path: sha256
    layer_bytes: int


def build(folder: pathlib.Path) -> Image:
    generator = random.Random("container")
    first = {
        "bin/busybox": (rootfs.build().boot / "busybox").read_bytes(),
        "data/text": b"hello from the first layer\n",
        "data/gone": b"the second layer removes this\n",
        "data/random": generator.randbytes(1 << 20),
        "data/unread": generator.randbytes(UNREAD_BYTES),
    }
    second = {"data/text": b"hello from the second layer\n", "data/.wh.gone": b""}
    layers: List[pathlib.Path] = []
    for number, files in enumerate((first, second)):
        tar = folder / f"{number}.tar"
        _write_tar(tar, files, with_programs=not number)
        layers.append(_convert(folder / f"layer{number}", tar, layers))
    blobs = folder / "image" / "blobs"
    blobs.mkdir(parents=True)
    manifest = _manifest(blobs, layers)
    (folder / "image" / "manifest.json").write_text(json.dumps(manifest))
    read = {path: data for path, data in {**first, **second}.items() if path.startswith("data/")}
    del read["data/gone"], read["data/.wh.gone"], read["data/unread"]
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in read.items()}
    return Image(folder / "image", digests, sum(path.stat().st_size for path in layers))


def _write_tar(path: pathlib.Path, files: Dict[str, bytes], with_programs: bool) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "data", "dev", "etc", "proc", "sys", "tmp"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for name in PROGRAMS if with_programs else ():
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)


def _convert(folder: pathlib.Path, tar: pathlib.Path, lowers: List[pathlib.Path]) -> pathlib.Path:
    """The layer of a tar above others, in the form that registries have."""
    folder.mkdir()
    upper = {"data": f"{folder}/writable_data", "index": f"{folder}/writable_index"}
    config = {"lowers": [{"file": str(path)} for path in lowers], "upper": upper, "resultFile": ""}
    (folder / "config.json").write_text(json.dumps(dict(config, repoBlobUrl="")))
    size = ["0"] if lowers else ["1", "--mkfs"]
    _program("create", upper["data"], upper["index"], "-s", *size)
    _program("apply", str(tar), f"{folder}/config.json")
    made = folder / "overlaybd.commit"
    _program("commit", "-z", "-t", upper["data"], upper["index"], str(made))
    return made


def _program(name: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"overlaybd_tcmu.tools.{name}", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def _manifest(blobs: pathlib.Path, layers: List[pathlib.Path]) -> Dict[str, Any]:
    described = []
    for path in layers:
        one = _put(blobs, path.read_bytes(), LAYER)
        named = {"blob-digest": one["digest"], "blob-size": str(one["size"])}
        named.update({"version": "0.1.0", "blob-fs-type": "ext4"})
        one["annotations"] = {LABEL + key: value for key, value in named.items()}
        described.append(one)
    root = {"type": "layers", "diff_ids": [one["digest"] for one in described]}
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]}, "rootfs": root}
    kind = "application/vnd.oci.image.config.v1+json"
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _put(blobs, json.dumps(config).encode(), kind),
        "layers": described,
    }


def _put(blobs: pathlib.Path, data: bytes, kind: str) -> Dict[str, Any]:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": kind, "digest": digest, "size": len(data)}
