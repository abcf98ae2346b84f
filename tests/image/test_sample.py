# SPDX-License-Identifier: Apache-2.0
"""The image that "make run" serves: e2fsprogs as the judge of what it shows."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from overlaybd_tcmu.formats import layer, stream, view

from ..support import layers
from ..vm import sample


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """The sample, and its view as a raw file."""
    if not shutil.which("mkfs.ext4") or not shutil.which("debugfs"):
        pytest.skip("no e2fsprogs here")
    folder = tmp_path_factory.mktemp("sample")
    image = sample.build(folder, str(folder / "image"))
    config, raw = image.folder / "config.v1.json", folder / "raw"
    command = [sys.executable, "-m", "overlaybd_tcmu.tools.export", str(config), str(raw)]
    subprocess.run(command, cwd=sample.ROOT, check=True)
    return image, raw


def test_file_system_is_clean(disk):
    _, raw = disk
    assert raw.stat().st_size == sample.SIZE
    subprocess.run(["e2fsck", "-fn", raw], check=True, capture_output=True)


def test_every_file_is_what_went_into_it(disk, tmp_path):
    image, raw = disk
    command = ["debugfs", "-R", f"rdump / {tmp_path}", str(raw)]
    subprocess.run(command, check=True, capture_output=True)
    found = {
        str(path.relative_to(tmp_path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert found == image.files


def test_each_layer_is_smaller_than_what_it_holds(disk):
    image, _ = disk
    assert len(image.layers) == 2
    assert image.stored_bytes < image.file_bytes


def test_configuration_is_for_where_the_image_will_be(disk):
    image, _ = disk
    lowers = json.loads((image.folder / "config.v1.json").read_text())["lowers"]
    assert [lower["file"] for lower in lowers] == [str(path) for path in image.layers]


def test_changes_over_their_base_are_the_top(tmp_path):
    base = layers.view("AAAA")
    top = base[: layers.CLUSTER] + bytes(layers.CLUSTER) + layers.view("--B-B")[-3 * 4096 :]
    layers.write_changes(tmp_path / "0", b"", base)
    layers.write_changes(tmp_path / "1", base, top)
    files = [stream.Memory((tmp_path / name).read_bytes()) for name in "01"]
    disk = view.View([layer.load(file) for file in files])
    assert disk.pread(disk.size, 0) == top
    assert [segment.length for segment in disk.layers[1].segments] == [32]
