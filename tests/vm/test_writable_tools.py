# SPDX-License-Identifier: Apache-2.0
"""What the tools make, served and mounted: the kernel is the judge."""
import errno
import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.apply import archive
from tests.apply import disk as host_disk
from tests.apply import oracle

from . import images
from .disks import assert_clean, attached, small_folder

ROOT = pathlib.Path(__file__).resolve().parents[2]
STACK = images.STACKS["lz4-4k"]
FOLDER = "/root/made"
PLACE = "/mnt/made"
SMALL = "/mnt/small"
UUID = "0123abcd-4567-89ab-cdef-0000000000{:02}"
ACL = bytes.fromhex("02000000 01000600ffffffff 02000700e8030000 04000400ffffffff".replace(" ", ""))
ACL += bytes.fromhex("10000600ffffffff 20000400ffffffff".replace(" ", ""))
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
# What the golden layers lack: ACLs, capabilities, attributes of all kinds, large numbers and names.
METADATA = b"".join(
    [
        archive.pax({b"SCHILY.xattr.system.posix_acl_default": ACL, b"mtime": b"1.5"}),
        archive.directory(b"listed", uid=7, gid=8),
        archive.pax({b"SCHILY.xattr.system.posix_acl_access": ACL}),
        archive.file(b"listed/acl", b"a", mode=0o664),
        archive.pax({b"SCHILY.xattr.security.capability": CAPABILITY}),
        archive.file(b"listed/ping", b"p" * 5000, mode=0o755),
        archive.pax(
            {
                b"SCHILY.xattr.user.text": b"v" * 300,
                b"SCHILY.xattr.user.bytes": b"a\0=\nb",
                b"SCHILY.xattr.trusted.overlay.opaque": b"y",
                b"uid": b"3000000000",
                b"gid": b"70000",
                b"mtime": b"4294967300.123456789",
            }
        ),
        archive.file(b"listed/owned", b"o", mode=0o6751),
        archive.long_name(b"deep/" * 40 + b"n" * 255),
        archive.file(b"", b"long"),
        archive.hard(b"listed/second", b"listed/ping", mode=0o755),
        archive.header(b"listed/null", archive.CHR, major=1, minor=3),
        archive.header(b"listed/pipe", archive.FIFO),
        archive.symlink(b"listed/link", b"/listed/../listed/ping"),
        archive.END,
    ]
)


@pytest.fixture
def serving(guest):
    guest.call("service.start")
    guest.call("files.remove", FOLDER)
    return guest


def tree(guest, place=PLACE):
    """{path: Node}, as the guest's kernel shows it."""

    def node(facts):
        content = facts["content"]
        facts["content"] = tuple(content) if isinstance(content, list) else content
        facts["xattrs"] = tuple((name, bytes.fromhex(value)) for name, value in facts["xattrs"])
        return host_disk.Node(**facts)

    return {path: node(facts) for path, facts in guest.call("trees.tree", place).items()}


def write_config(guest, name, lowers):
    document = {"repoBlobUrl": "", "lowers": lowers, "upper": {}, "resultFile": ""}
    guest.call("files.write_json", f"{FOLDER}/{name}", document)
    return f"{FOLDER}/{name}"


def run(name, *arguments):
    """A tool of this checkout, here: in the machine each would take seconds to start."""
    program = [sys.executable, "-m", f"overlaybd_tcmu.tools.{name}", *map(str, arguments)]
    subprocess.run(program, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def convert(folder, layers):
    """What containerd's convertor runs for each layer, of both kinds in turn; the blobs."""
    lowers = []
    for number, layer in enumerate(layers):
        data, index = folder / f"data{number}", folder / f"index{number}"
        upper = {"data": str(data), "index": str(index)}
        config = folder / f"config{number}.json"
        config.write_text(json.dumps({"repoBlobUrl": "", "lowers": lowers, "upper": upper}))
        options = ["1", "-s", "--mkfs"] if number == 0 else ["0", "-s"][: 1 + number % 2]
        run("create", data, index, *options)
        run("apply", layer, config)
        blob = folder / f"{number}.commit"
        run("commit", data, index, blob, "-z", "-t", "--uuid", UUID.format(number))
        lowers.append({"file": str(blob)})
    return [lower["file"] for lower in lowers]


def test_applied_layers_are_what_tar_unpacks(serving, tmp_path):
    """Every path with all its metadata, as the kernel shows it, against GNU tar's."""
    metadata = tmp_path / "metadata.tar"
    metadata.write_bytes(METADATA)
    layers = [images.source() / "tars" / f"layer{number}.tar" for number in range(3)] + [metadata]
    lowers = []
    for blob in convert(tmp_path, layers):
        serving.vm.put(blob, FOLDER)
        lowers.append({"file": f"{FOLDER}/{os.path.basename(blob)}"})
    disk = attached(serving, write_config(serving, "config.v1.json", lowers))
    assert_clean(serving, disk)
    serving.call("mounts.mount", disk, PLACE)
    (tmp_path / "unpacked").mkdir()
    expected = oracle.tree(layers, tmp_path / "unpacked")
    assert len(expected) > 300 and any(node.xattrs for node in expected.values())
    assert host_disk.differences(tree(serving), expected) == []


def test_container_is_sealed_and_committed_right_after_detach(serving):
    """What the snapshotter and obdconv do with a container's changes; each result is served."""
    lowers, folder = STACK.config(images.GOLDEN)["lowers"], f"{FOLDER}/container"
    disk = attached(serving, serving.call("writable.create", folder, 0, lowers))
    upper = serving.call("writable.paths", folder)
    serving.call("mounts.mount", disk, PLACE, read_only=False)
    serving.call("writable.write_random", f"{PLACE}/new", 3 << 20)
    expected = tree(serving)
    assert "new" in expected
    serving.call("mounts.unmount", PLACE)
    serving.call("disk.detach", 1)
    serving.call("writable.tool", "commit", "--seal", upper["data"], upper["index"])
    sealed = serving.call("writable.take_sealed", folder)
    blob = f"{folder}/fs/overlaybd.commit.temp"
    serving.call("writable.tool", "commit", "--commit_sealed", sealed, blob, "-z", "-t")
    for number, path in enumerate((sealed, blob), start=1):
        config = write_config(serving, f"{number}.json", [*lowers, {"file": path}])
        disk = attached(serving, config, number)
        assert serving.call("kernel.queue", disk)["ro"] == "1"
        serving.call("mounts.mount", disk, f"{PLACE}{number}")
        assert host_disk.differences(tree(serving, f"{PLACE}{number}"), expected) == []
        serving.call("mounts.unmount", f"{PLACE}{number}")


@pytest.fixture
def small(serving):
    """A file system of 24 MiB for the layer."""
    with small_folder(serving, SMALL):
        yield serving
        serving.call("mounts.unmount", PLACE)
        serving.call("disk.detach", 1)


def test_full_backing_disk_under_a_file_system(small):
    """Files are refused as on any full disk; with some removed and trimmed, it goes on."""
    disk = attached(small, small.call("writable.create", SMALL, 1))
    small.call("writable.mkfs", disk)
    small.call("mounts.mount", disk, PLACE, read_only=False)
    full = small.call("writable.fill", PLACE, 0)
    small.expected = ["space allocation error", "write failed image=", "EXT4-fs", "Buffer I/O"]
    assert full["errno"] in (errno.ENOSPC, errno.EIO)  # the kernel tells whoever syncs as it likes
    assert 12 < full["count"] < 24
    for number in [*range(8), full["count"]]:
        small.call("files.unlink", f"{PLACE}/{number:03}")
    assert small.call("kernel.command", "fstrim", PLACE)["status"] == 0
    assert small.call("writable.fill", PLACE, 100, most=4) == {"count": 4, "errno": 0}
    small.call("mounts.unmount", PLACE)
    assert small.call("writable.mend", disk) in (0, 1)
    small.call("mounts.mount", disk, PLACE, read_only=False)
    expected = {*range(8, full["count"]), *range(100, 104)}
    assert small.call("writable.filled", PLACE) == sorted(expected)
