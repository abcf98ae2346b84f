# SPDX-License-Identifier: Apache-2.0
"""Onto images: through a writable layer, over layers that others have made."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
import zstandard

from overlaybd_tcmu.ffi import ext4, native
from overlaybd_tcmu.image import config as image_config
from overlaybd_tcmu.image import opener
from overlaybd_tcmu.units import GiB, KiB, MiB
from tests.support import fault_registry, golden

from . import archive, disk

SIZE = 256 * MiB
LAYERS = ["layer0", "layer1", "layer2"]


def tar(name):
    return golden.folder() / "tars" / f"{name}.tar"


class Stack:
    """An image that grows by layers: each an upper that is sealed and becomes a lower."""

    def __init__(self, folder, size=SIZE, sparse=False):
        self.folder = folder
        self.size = size
        self.sparse = sparse
        self.lowers = []

    def open(self, read_only=False):
        return opener.open_image(image_config.load(str(self.config)), read_only=read_only)

    def new_upper(self):
        number = len(self.lowers)
        self.data, self.index = (str(self.folder / f"{name}{number}") for name in ("data", "index"))
        native.create_upper(self.data, self.index, 0 if self.lowers else self.size, self.sparse)
        self.config = self.folder / f"config{number}.json"
        upper = {"data": self.data, "index": self.index}
        document = {"lowers": [{"file": path} for path in self.lowers], "upper": upper}
        self.config.write_text(json.dumps({"repoBlobUrl": "", "resultFile": "", **document}))
        return self

    def seal(self):
        with native.Upper(self.data, self.index) as upper:
            upper.seal()
        self.lowers.append(self.data)

    def apply(self, data, mkfs=False):
        with self.open() as image, open(data, "rb") as file:
            target = ext4.image_disk(image)
            if mkfs:
                ext4.mkfs(target)
            return ext4.apply(target, file.fileno())

    def exported(self):
        """What the image shows, as a plain disk."""
        with self.open(read_only=True) as image:
            return disk.export(image, self.folder / "exported")


@pytest.mark.parametrize("sparse", [False, True], ids=["append", "sparse"])
def test_image_holds_what_a_plain_disk_does(tmp_path, sparse):
    """Layer by layer the same bytes, so all that is known of one is known of the other."""
    stack, plain = Stack(tmp_path, sparse=sparse), disk.Image(tmp_path / "plain", SIZE).mkfs()
    for name in LAYERS:
        stack.new_upper().apply(tar(name), mkfs=not stack.lowers)
        plain.apply(tar(name))
        exported = stack.exported()
        exported.check()
        assert disk.same(exported.path, plain.path)
        stack.seal()


def test_layer_holds_what_changes_and_no_more(tmp_path):
    """Above all not the bitmaps of 512 groups, which a writer of ext4 writes back together."""
    stack = Stack(tmp_path, 64 * GiB)
    (tmp_path / "tar").write_bytes(archive.file(b"etc/hostname", b"name\n") + archive.END)
    stack.new_upper().apply(tmp_path / "tar", mkfs=True)
    stack.seal()
    stack.new_upper().apply(tmp_path / "tar")
    with native.Upper(stack.data, stack.index) as upper:
        assert 0 < upper.info().mapped <= 48 * KiB


def test_nothing_to_apply_writes_nothing(tmp_path):
    stack = Stack(tmp_path)
    stack.new_upper().apply("/dev/null", mkfs=True)
    stack.seal()
    stack.new_upper().apply("/dev/null")
    with native.Upper(stack.data, stack.index) as upper:
        assert upper.info().mapped == 0


@pytest.mark.parametrize("lower", ["plain", "lz4-4k", "zstd-4k", "tar-lz4-4k"])
def test_over_layers_of_the_original(tmp_path, lower):
    """e2fsck has things to mend on what the original makes, and none any more on ours."""
    (first,) = (golden.folder() / lower).glob("layer0.*")
    stack = Stack(tmp_path)
    stack.lowers = [str(first)]
    stack.new_upper()
    assert disk.execute("e2fsck", "-fn", stack.exported().path).returncode != 0
    stack.apply(tar("layer1"))
    exported = stack.exported().check()
    expected = disk.Image(tmp_path / "expected", SIZE).mkfs()
    for name in LAYERS[:2]:
        expected.apply(tar(name))
    assert disk.differences(exported.tree(), expected.tree()) == []


def test_over_a_layer_in_a_registry(tmp_path):
    """What is needed of it is fetched, and what is not is not."""
    stack = Stack(tmp_path)
    stack.new_upper().apply(tar("layer0"), mkfs=True)
    stack.seal()
    blob = pathlib.Path(stack.lowers[0]).read_bytes()
    service = tmp_path / "service.json"
    service.write_text(json.dumps({"cacheConfig": {"cacheDir": str(tmp_path / "cache")}}))
    with fault_registry.FaultRegistry() as registry:
        lower = {"digest": registry.put(blob), "size": len(blob)}
        stack.new_upper()
        document = json.loads(stack.config.read_text())
        document.update(repoBlobUrl=registry.repo_url(), lowers=[lower])
        stack.config.write_text(json.dumps(document))
        program = [sys.executable, "-m", "overlaybd_tcmu.tools.apply", tar("layer1"), stack.config]
        subprocess.run([*program, "--service_config_path", service], check=True)
        assert 0 < registry.bytes_sent() < len(blob)
    document["lowers"] = [{"file": stack.lowers[0]}]
    stack.config.write_text(json.dumps(document))
    plain = disk.Image(tmp_path / "plain", SIZE).mkfs()
    for name in LAYERS[:2]:
        plain.apply(tar(name))
    assert disk.same(stack.exported().check().path, plain.path)


def test_over_the_base_layer_of_2021(tmp_path):
    """64 GiB with a journal, and with groups that nobody has written yet."""
    stack = Stack(tmp_path)
    stack.lowers = [str(golden.folder() / "published" / "ext4_64")]
    stack.new_upper().apply(tar("layer0"))
    exported = stack.exported().check()
    expected = disk.Image(tmp_path / "expected", SIZE).mkfs()
    expected.apply(tar("layer0"))
    assert disk.differences(exported.tree(), expected.tree()) == []


def test_writer_that_is_killed_leaves_an_image_that_opens(tmp_path):
    """Wherever it is killed; and applying again from the start gives what it always does."""
    stack = Stack(tmp_path)
    stack.new_upper()
    data = b"".join(archive.file(b"d%d/f" % i, b"%d" % i * 5000) for i in range(3000))
    for part in (0.1, 0.5, 0.99):
        program = [sys.executable, "-m", "overlaybd_tcmu.tools.apply", "--mkfs", "-", stack.config]
        with subprocess.Popen(program, stdin=subprocess.PIPE) as process:
            process.stdin.write(data[: int(len(data) * part)])
            process.stdin.flush()
            # All but what pipe and buffers hold has been taken by now.
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        stack.open().close()
    (tmp_path / "tar").write_bytes(data)
    stack.apply(tmp_path / "tar", mkfs=True)
    plain = disk.Image(tmp_path / "plain", SIZE).mkfs()
    plain.apply(data)
    assert disk.same(stack.exported().check().path, plain.path)


def test_memory_is_bounded(tmp_path):
    """Many names, a large window of the compressor, a large file: a fraction of what is allowed."""
    names = archive.many(archive.hard(b"", b"one"), (b"d/%d" % i for i in range(60_000)))
    data = archive.file(b"one") + b"".join(names) + archive.file(b"large", bytes(100 * MiB))
    parameters = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    path = tmp_path / "layer"
    path.write_bytes(zstandard.ZstdCompressor(compression_params=parameters).compress(data))
    stack = Stack(tmp_path).new_upper()
    program = "import sys; from overlaybd_tcmu.tools import apply; apply.main(sys.argv[1:])"
    program += "; print(open('/proc/self/status').read())"
    command = [sys.executable, "-c", program, "--mkfs", path, stack.config]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", shown).group(1)) * KiB
    if "LD_PRELOAD" not in os.environ:
        assert peak < 256 * MiB
