# SPDX-License-Identifier: Apache-2.0
"""
The golden stacks as images in the guest; stand_in.py's where there is no golden data.

    /root/golden/...                    the layers, as unpacked
    /root/images/<stack>/config.v1.json
    /root/views/<view>.raw              what the disk must say, sparse; made by the exporter on the
                                        host and held against the recorded digest there

Views instead of digests in the guest, because comparing a GiB is cheap there and hashing it is not.
"""
from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, Dict, List

from tests.support import golden

from . import session, stand_in

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = "/root/golden"
NAMES = (
    "plain",
    "lz4-4k",
    "zstd-4k",
    "tar-lz4-4k",
    "c-plain",
    "c-lz4-64k",
    "c-zstd-64k",
)


def source() -> pathlib.Path:
    """The folder with layers, configurations, manifests and digests."""
    return golden.find() or stand_in.folder()


@dataclasses.dataclass(frozen=True)
class Stack:
    name: str

    @property
    def config_path(self) -> str:
        return f"/root/images/{self.name}/config.v1.json"

    @property
    def result_path(self) -> str:
        return f"/root/images/{self.name}/init-debug.log"

    @property
    def view(self) -> str:
        return "c-view1" if self.name.startswith("c-") else "view2"

    @property
    def view_path(self) -> str:
        return f"/root/views/{self.view}.raw"

    @functools.cached_property
    def manifest(self) -> List[str]:
        text = (source() / "manifests" / f"{self.view}.tsv").read_text()
        return text.splitlines()

    @functools.cached_property
    def sha256_of(self) -> Dict[str, str]:
        """Digest of each file of the tree."""
        lines = [line.split("\t") for line in self.manifest]
        return {fields[0]: fields[-1] for fields in lines if fields[1] == "f"}

    @functools.cached_property
    def largest_file(self) -> str:
        lines = [line.split("\t") for line in self.manifest]
        return max((fields for fields in lines if fields[1] == "f"), key=lambda f: int(f[5]))[0]

    @functools.cached_property
    def lowers(self) -> List[str]:
        """The layers' paths in the golden folder, lowest first."""
        return [lower["file"].removeprefix("@GOLDEN@/") for lower in self._config()["lowers"]]

    @property
    def sha256(self) -> str:
        """Of the whole disk."""
        hashes = json.loads((source() / "hashes.json").read_text())
        return str(hashes["views"][" + ".join(self.lowers)]["sha256"])

    def config(self, place: str) -> Dict[str, Any]:
        """The image's configuration with the layers at place."""
        return json.loads(json.dumps(self._config()).replace("@GOLDEN@", place))

    def _config(self) -> Dict[str, Any]:
        return json.loads((source() / "configs" / f"{self.name}.json").read_text())


STACKS = {name: Stack(name) for name in NAMES}


def put(guest: session.Guest) -> None:
    """Layers, configurations and views."""
    with tempfile.TemporaryDirectory(prefix="overlaybd-images-") as name:
        folder = pathlib.Path(name)
        (folder / "golden").symlink_to(source())
        for stack in STACKS.values():
            _put_config(folder / "images", stack)
        (folder / "views").mkdir()
        for stack in (STACKS["plain"], STACKS["c-plain"]):
            _make_view(folder / "views" / f"{stack.view}.raw", stack)
        guest.vm.put(folder, "/root")


def _put_config(images: pathlib.Path, stack: Stack) -> None:
    (images / stack.name).mkdir(parents=True)
    document = {"repoBlobUrl": "", **stack.config(GOLDEN), "upper": {}}
    document["resultFile"] = stack.result_path
    (images / stack.name / "config.v1.json").write_text(json.dumps(document))


def _make_view(path: pathlib.Path, stack: Stack) -> None:
    config = path.with_suffix(".json")
    config.write_text(json.dumps(stack.config(str(source()))))
    command = [sys.executable, "-m", "overlaybd_tcmu.tools.export", "--sha256"]
    said = subprocess.run(
        [*command, str(config), str(path)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert stack.sha256 in said.stdout, f"{stack.name}: the exported view has another digest"
    config.unlink()
