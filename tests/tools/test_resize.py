# SPDX-License-Identifier: Apache-2.0
"""overlaybd-resize: file system and image grow and shrink together, or stay as they were."""

import contextlib
import json
import os
import shutil
import signal
import subprocess

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.image import config, opener
from overlaybd_tcmu.tools import export
from overlaybd_tcmu.units import GiB, MiB

from ..support import fault_registry, nth_call

E2FSPROGS = ("mke2fs", "debugfs", "e2fsck", "resize2fs", "dumpe2fs")
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
FILE = os.urandom(3 * MiB)

pytestmark = pytest.mark.skipif(
    not all(shutil.which(name, path=PATH) for name in E2FSPROGS), reason="no e2fsprogs"
)


def e2fs(*command, accepted=(0,), **options):
    environment = {**os.environ, "PATH": PATH}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=20, **options
    )
    assert done.returncode in accepted, done.stdout + done.stderr
    return done.stdout


class Disk:
    """An image of one writable layer, with an ext4 that has a file, and one of unwritten blocks."""

    def __init__(self, folder, sparse, size=GiB, blocks=0):
        self.folder = folder
        self.raw = folder / "raw"
        upper = {"data": str(folder / "data"), "index": str(folder / "index")}
        native.create_upper(upper["data"], upper["index"], size, sparse)
        self.config = folder / "config.json"
        self.config.write_text(json.dumps({"lowers": [], "upper": upper}))
        (folder / "file").write_bytes(FILE)
        with open(self.raw, "wb") as file:
            file.truncate(size)
        e2fs("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-b", "4096", self.raw)
        e2fs("debugfs", "-w", "-R", f"write {folder}/file file", self.raw)
        if blocks:
            e2fs("debugfs", "-w", "-R", "write /dev/null large", self.raw)
            e2fs("debugfs", "-w", "-R", f"fallocate large 0 {blocks}", self.raw)
        self._import()

    def _import(self):
        with self.opened() as image, open(self.raw, "rb") as file:
            end = 0
            with contextlib.suppress(OSError):  # there is no more data
                while True:
                    at = file.seek(end, os.SEEK_DATA)
                    end = file.seek(at, os.SEEK_HOLE)
                    image.pwrite(os.pread(file.fileno(), end - at, at), at)
            image.flush()

    def opened(self):
        return opener.open_image(config.load(str(self.config)))

    def size(self):
        """Bytes of the disk; of the file system on it, which must be whole and have its file."""
        with self.opened() as image, open(self.raw, "wb") as file:
            disk = image.info().virtual_size
            file.truncate(disk)
            export.copy(image, export.SparseFile(file.fileno()), lambda done: None)
        e2fs("e2fsck", "-fn", self.raw)
        e2fs("debugfs", "-R", f"dump file {self.folder}/again", self.raw)
        assert (self.folder / "again").read_bytes() == FILE
        fields = dict(
            line.split(":", 1)
            for line in e2fs("dumpe2fs", "-h", self.raw).splitlines()
            if ":" in line
        )
        return disk, int(fields["Block count"]) * int(fields["Block size"])

    def left(self):
        return sorted(set(os.listdir(self.folder)) & {"data", "index", "data.resizing"})


@pytest.fixture(params=["append-only", "sparse"])
def disk(request, tmp_path):
    return Disk(tmp_path, request.param == "sparse")


def test_image_grows_and_shrinks(succeeds, disk):
    for size in (3, 1, 2):
        said = succeeds("resize", "--config", disk.config, "--size", size)
        assert said.startswith(f"Success: filesystem resized to {size} GB (")
        assert disk.size() == (size * GiB, size * GiB)
        assert disk.left() == ["data", "index"]


def test_layers_of_a_registry_are_fetched(succeeds, tmp_path):
    """An image whose file system only a registry has; what differs goes into the upper layer."""
    made = Disk(tmp_path, False)
    succeeds("commit", tmp_path / "data", tmp_path / "index", tmp_path / "layer", "-z")
    for path in (tmp_path / "data", tmp_path / "index"):
        path.unlink()
    succeeds("create", tmp_path / "data", tmp_path / "index", 0)
    document = json.loads(made.config.read_text())
    service = tmp_path / "overlaybd.json"
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache")}
    service.write_text(json.dumps({"cacheConfig": cache, "credentialConfig": {"mode": "file"}}))
    with fault_registry.FaultRegistry() as server:
        document["repoBlobUrl"] = server.repo_url()
        document["lowers"] = [{"digest": server.put((tmp_path / "layer").read_bytes())}]
        made.config.write_text(json.dumps(document))
        options = ["--config", made.config, "--service_config_path", service]
        succeeds("resize", *options, "--size", 2)
    document["lowers"] = [{"file": str(tmp_path / "layer")}]
    made.config.write_text(json.dumps(document))
    assert made.size() == (2 * GiB, 2 * GiB)


def test_little_is_written(succeeds, disk):
    before = disk.folder.joinpath("data").stat().st_blocks
    succeeds("resize", "--config", disk.config, "--size", 2)
    grown = disk.folder.joinpath("data").stat().st_blocks - before
    assert grown * 512 < MiB


def calls_of(tool, disk, arguments):
    """How many calls there are until it is done; the disk is as before."""
    save(disk)
    log = disk.folder / "log"
    assert tool(*arguments, env=nth_call.environment(disk.folder, log=log)).returncode == 0
    restore(disk)
    return len(log.read_text().split())


def save(disk):
    for name in ("data", "index"):
        subprocess.run(["cp", disk.folder / name, disk.folder / f"{name}.before"], check=True)


def restore(disk):
    for name in ("data", "index"):
        subprocess.run(["cp", disk.folder / f"{name}.before", disk.folder / name], check=True)


@pytest.mark.parametrize("size, kills", [(2, 2), (1, 1)])
def test_kill_at_any_call_leaves_the_old_or_the_new_image(tool, tmp_path, rng, size, kills):
    disk = Disk(tmp_path, sparse=size == 1)
    if size == 1:
        assert tool("resize", "--config", disk.config, "--size", 2).returncode == 0
    arguments = ["resize", "--config", disk.config, "--size", size]
    count = calls_of(tool, disk, arguments)
    for nth in [count - 1, *rng.sample(range(1, count), kills)]:
        save(disk)
        done = tool(*arguments, env=nth_call.environment(disk.folder, nth=nth))
        assert done.returncode == -signal.SIGKILL, done.stderr
        if "data.resizing" in disk.left():
            with pytest.raises(errors.ImageError, match="run overlaybd-resize again"):
                disk.opened()
            assert tool(*arguments).returncode == 0
            assert disk.size() == (size * GiB, size * GiB)
        else:
            assert disk.size() in ((GiB, GiB), (2 * GiB, 2 * GiB))
        restore(disk)


@pytest.mark.parametrize(
    "size, complaint",
    [
        ("0", "size must be greater than 0"),
        ("-1", "size must be positive: -1"),
        ("3000000000", "size value out of range: 3000000000"),
        ("2000000000", "size overflow: 2000000000 GB"),
        ("1.5", "invalid size (expected integer in GB): 1.5"),
        ("big", "invalid size (expected integer in GB): big"),
    ],
)
def test_size_that_cannot_be(fails, tmp_path, size, complaint):
    line = fails(1, "resize", "--config", "none", f"--size={size}")
    assert line == complaint


def test_too_small_for_what_is_on_it(fails, succeeds, tmp_path):
    disk = Disk(tmp_path, sparse=True, size=2 * GiB, blocks=400_000)
    line = fails(1, "resize", "--config", disk.config, "--size", 1)
    assert line.startswith("resize failed: resize2fs: New size smaller than minimum")
    assert disk.left() == ["data", "index"]
    assert disk.size() == (2 * GiB, 2 * GiB)


def test_image_without_a_writable_layer(fails, tmp_path, succeeds):
    succeeds("create", "data", "index", "1")
    succeeds("commit", "data", "index", "layer")
    (tmp_path / "c.json").write_text(json.dumps({"lowers": [{"file": str(tmp_path / "layer")}]}))
    line = fails(1, "resize", "--config", "c.json", "--size", "2")
    assert line == "resize failed: the image is read-only, it has no upper"


def test_image_without_a_file_system(fails, tmp_path, succeeds):
    succeeds("create", "data", "index", "1")
    upper = {"data": str(tmp_path / "data"), "index": str(tmp_path / "index")}
    (tmp_path / "c.json").write_text(json.dumps({"lowers": [], "upper": upper}))
    line = fails(1, "resize", "--config", "c.json", "--size", "2")
    assert line == "resize failed: there is no ext4 on the image"
    assert sorted(os.listdir(tmp_path)) == ["c.json", "data", "index"]


def test_missing_arguments(tool):
    for arguments in [], ["--config", "c.json"], ["--size", "1"]:
        assert tool("resize", *arguments).returncode == 106


def test_image_in_use_is_refused(fails, disk):
    with disk.opened():
        line = fails(1, "resize", "--config", disk.config, "--size", 2)
    assert "is in use by another process" in line
    assert disk.left() == ["data", "index"]
