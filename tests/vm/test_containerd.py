# SPDX-License-Identifier: Apache-2.0
"""
The distribution's containerd and runc with a snapshotter that does what the real one does: pull,
run, write, commit, remove. Everything comes from a registry in the machine.
"""
import pytest

from . import container_image

WRITABLE = "containerd.io/snapshot/overlaybd.writable"
MOUNT = "/mnt/committed"
CALL_TIMEOUT_S = 300

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def containerd(host, tmp_path):
    """Running, the image in its registry, and nothing pulled."""
    host.image = container_image.build(tmp_path)
    host.vm.put(host.image.folder, "/root/container-image")
    call(host, "start", "/root/container-image")
    yield host
    call(host, "stop")


def call(host, name, *arguments):
    return host.start(f"containers.{name}", *arguments).result(CALL_TIMEOUT_S)


def test_pull_run_write_commit_remove(containerd):
    host = containerd
    call(host, "pull")
    folders = call(host, "layer_folders")
    assert list(folders.values()) == [[], []], "a layer was unpacked"
    assert host.call("disk.attached") == []
    read_and_written_beside(host)
    written_in_a_layer_of_ours(host, "dir")
    written_in_a_layer_of_ours(host, "dev")


def read_and_written_beside(host):
    """A container whose writes are overlayfs's: the image's disk is attached read-only."""
    names = " ".join(host.image.files)
    script = f"sha256sum {names}; ls data; echo new >data/new; cat data/new"
    said = call(host, "run", "one", script)
    lines = said.splitlines()
    found = dict(reversed(line.split()) for line in lines if "data/" in line)
    assert found == host.image.files
    assert lines[-4:] == ["random", "text", "unread", "new"]
    cached = call(host, "cached_bytes")
    print(f"of {host.image.layer_bytes >> 10} KiB of layers {cached >> 10} KiB were fetched")
    assert cached < host.image.layer_bytes // 2
    assert len(host.call("disk.attached")) == 1
    call(host, "remove", "one")
    call(host, "wait_detached")


def written_in_a_layer_of_ours(host, mode):
    """
    A container whose root is a writable disk, and the layer that becomes of it. In mode "dir" the
    snapshotter mounts the disk, in mode "dev" whoever runs the container does.
    """
    write = "cat /data/text; echo kept >/data/new; dd if=/data/random of=/data/copy; sync"
    said = call(host, "run", mode, f"{write}; cat /proc/mounts", [f"{WRITABLE}={mode}"])
    assert said.startswith("hello from the second layer\n")
    (root,) = [line.split() for line in said.splitlines() if line.split()[1:2] == ["/"]]
    assert root[2] == "ext4" and root[3].startswith("rw")
    call(host, "snapshots", "commit", "committed", mode)
    assert host.call("disk.attached") == []
    call(host, "snapshots", "view", "look", "committed")
    shown = call(host, "snapshots", "mounts", MOUNT, "look")  # mount -t bind SOURCE ...
    source = shown.split()[3]
    found = host.call("mounts.digests", f"{source}/data")
    assert found["copy"] == found["random"] == host.image.files["data/random"]
    assert "new" in found and "gone" not in found
    assert len(host.call("disk.attached")) == 1
    call(host, "snapshots", "delete", "look")
    call(host, "snapshots", "delete", "committed")
    call(host, "remove", mode)
    call(host, "wait_detached")
