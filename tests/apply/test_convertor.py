# SPDX-License-Identifier: Apache-2.0
"""
The command lines of containerd's userspace convertor, letter by letter: create, apply and commit
for each layer, with relative paths and a colon in them, no root and no service config needed.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.image import config as image_config
from overlaybd_tcmu.image import opener
from tests.support import golden

from . import disk

ROOT = pathlib.Path(__file__).resolve().parents[2]
UUIDS = [f"0123abcd-4567-89ab-cdef-00000000000{number}" for number in range(3)]


@pytest.fixture
def convert(tmp_path):
    """Runs a program in the working directory of the convertor; it must succeed."""

    def run(name, *arguments):
        program = [sys.executable, "-m", f"overlaybd_tcmu.tools.{name}", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        result = subprocess.run(
            program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=25
        )
        assert result.returncode == 0, result.stderr
        return result

    return run


def folder_of(number):
    return f"tmp_conv/{number:04}_sha256:{number:064x}"


def write_config(folder, lowers):
    upper = {"index": f"{folder}/writable_index", "data": f"{folder}/writable_data"}
    document = {"repoBlobUrl": "", "lowers": lowers, "upper": upper, "resultFile": ""}
    return json.dumps(document)


def build(convert, work, layers, sparse):
    """The layers as overlaybd blobs; the config of an image of them all."""
    lowers = []
    for number, layer in enumerate(layers):
        folder = folder_of(number)
        (work / folder).mkdir(parents=True)
        (work / folder / "layer.tar").symlink_to(layer)
        (work / folder / "config.json").write_text(write_config(folder, lowers))
        files = f"{folder}/writable_data", f"{folder}/writable_index"
        options = ["-s"] * sparse + ["--mkfs"] * (number == 0)
        convert("create", *files, "0" if number else "64", *options)
        convert("apply", f"{folder}/layer.tar", f"{folder}/config.json")
        commit = f"{folder}/overlaybd.commit"
        parent = ["--parent-uuid", UUIDS[number - 1]] if number else []
        convert("commit", *files, commit, "-z", "-t", "--uuid", UUIDS[number], *parent)
        lowers.append({"file": commit})
    config = work / "config.json"
    lowers = [{"file": str(work / lower["file"])} for lower in lowers]
    config.write_text(json.dumps({"repoBlobUrl": "", "lowers": lowers, "upper": {}}))
    return config


def exported(config, path):
    """The image as a plain disk."""
    with opener.open_image(image_config.load(str(config))) as image:
        return disk.export(image, path)


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "append"])
def test_conversion(convert, tmp_path, sparse):
    layers = [golden.folder() / "tars" / f"layer{number}.tar" for number in range(3)]
    config = build(convert, tmp_path, layers, sparse)
    raw = exported(config, tmp_path / "raw")
    plain = disk.Image(tmp_path / "plain", 64 << 30).mkfs()
    for layer in layers:
        plain.apply(layer)
    assert disk.differences(raw.tree(), plain.tree()) == []
    assert disk.same(raw.path, plain.path)


def test_conversion_of_a_published_image(convert, tmp_path):
    layer = golden.folder() / "published" / "hello-world.layer.tar.gz"
    config = build(convert, tmp_path, [layer], True)
    ours = exported(config, tmp_path / "ours").tree()
    blob = tmp_path / "theirs.json"
    published = golden.folder() / "published" / "hello-world.overlaybd.tar"
    blob.write_text(json.dumps({"repoBlobUrl": "", "lowers": [{"file": str(published)}]}))
    theirs = exported(blob, tmp_path / "theirs").tree()
    assert disk.differences(ours, theirs) == []


def test_blobs_are_the_same_every_time(convert, tmp_path):
    layers = [golden.folder() / "tars" / f"c-layer{number}.tar" for number in range(2)]
    blobs = []
    for name, sparse in (("one", True), ("two", True)):
        (tmp_path / name).mkdir()
        build(convert, tmp_path, layers, sparse)
        found = sorted((tmp_path / "tmp_conv").glob("*/overlaybd.commit"))
        blobs.append([path.read_bytes() for path in found])
        (tmp_path / "tmp_conv").rename(tmp_path / name / "tmp_conv")
    assert blobs[0] == blobs[1]


def test_layer_that_was_made_is_one(convert, tmp_path):
    """With the data's magic at its beginning, and a file system that fills the disk."""
    convert("create", "data", "index", "1", "--mkfs")
    assert (tmp_path / "data").read_bytes()[:4] == b"LSMT"
    with native.Upper(str(tmp_path / "data"), str(tmp_path / "index")) as upper:
        with native.Image([], upper=upper) as image:
            assert int.from_bytes(image.pread(4, 1024 + 4), "little") == 1 << 18


def test_plain_disk_that_was_made_is_one(convert, tmp_path):
    convert("create", "data", "index", "1", "--raw", "--mkfs")
    assert "Block count:              262144" in disk.run("dumpe2fs", "-h", tmp_path / "data")


def test_layer_without_a_size_has_no_file_system(tmp_path):
    program = [sys.executable, "-m", "overlaybd_tcmu.tools.create", "data", "index", "0", "--mkfs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 255
    assert "mkfs failed, " in result.stderr and "\n" not in result.stderr.strip()
    assert list(tmp_path.iterdir()) == []
