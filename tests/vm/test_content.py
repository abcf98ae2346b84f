# SPDX-License-Identifier: Apache-2.0
"""The golden stacks through the kernel: every file, and every byte of the disk."""
import pytest

from . import images

PLACE = "/mnt/image"
ENGINES = {"psync": 0, "libaio": 1, "posix": 2}
STACKS = ("plain", "lz4-4k", "zstd-4k", "tar-lz4-4k", "c-lz4-64k")


@pytest.fixture(params=ENGINES)
def serving(guest, request):
    """The guest with a daemon of each engine in turn."""
    guest.call("service.start", {"ioEngine": ENGINES[request.param]})
    return guest


@pytest.mark.parametrize("name", STACKS)
def test_every_file_and_random_reads(serving, name, seed):
    stack = images.STACKS[name]
    disk = serving.call("disk.attach", 1, stack.config_path)["disk"]
    assert serving.call("service.read", stack.result_path) == "success"
    serving.call("mounts.mount", disk, PLACE)
    found = serving.call("mounts.difference", PLACE, stack.manifest)
    assert found == {"lines": [], "count": len(stack.manifest)}
    # O_DIRECT, from one sector to a MiB, across the edges of what is mapped.
    compared = serving.call("reads.compare_random", disk, stack.view_path, seed, 300)
    assert compared["differs_in"] is None


@pytest.mark.parametrize("name", STACKS)
def test_every_mapped_byte(guest, name):
    stack = images.STACKS[name]
    guest.call("service.start")
    disk = guest.call("disk.attach", 1, stack.config_path)["disk"]
    compared = guest.call("reads.compare_mapped", disk, stack.view_path)
    assert (compared["size"], compared["differs_in"]) == (1 << 30, None)
    assert compared["bytes"] > 3 << 20


def test_layer_found_in_a_directory(guest):
    guest.call("service.start")
    stack = images.STACKS["lz4-4k"]
    names = ("overlaybd.commit", ".commit", "overlaybd.sealed")
    for number, (layer, name) in enumerate(zip(stack.lowers, names)):
        folder = f"/root/directories/{number}"
        guest.call("files.link", f"{images.GOLDEN}/{layer}", f"{folder}/{name}")
    lowers = [{"dir": f"/root/directories/{number}"} for number in range(3)]
    guest.call("files.write_json", "/root/directories/config.v1.json", {"lowers": lowers})
    disk = guest.call("disk.attach", 1, "/root/directories/config.v1.json")["disk"]
    guest.call("mounts.mount", disk, PLACE)
    assert guest.call("mounts.difference", PLACE, stack.manifest)["lines"] == []
