# SPDX-License-Identifier: Apache-2.0
"""A disk that grows while it is in use: by either request, by configfs, by overlaybd-ctl."""

import os
import resource
import signal
import urllib.parse

import pytest

from overlaybd_tcmu.ffi import libtcmu
from overlaybd_tcmu.image import config as image_config
from overlaybd_tcmu.image import opener
from overlaybd_tcmu.tools import ctl

from ..native import tcmu_device as scsi
from ..support import layers
from .conftest import read, write
from .test_api import checked
from .test_metrics import device_values

OLD = 4 * layers.CLUSTER
NEW = 64 * layers.CLUSTER


@pytest.fixture
def writable(daemon):
    """(config, the kernel's side) of a writable device with the id 7."""
    daemon.start()
    config = daemon.image(picture="AB-C", writable=True)
    return config, daemon.add(config, "7")


def post(daemon, size, name="7"):
    return daemon.ask(f"/v1/devices/{name}/resize", "POST", f'{{"size": {size}}}')


def configured(daemon, size):
    """As a write to attrib/dev_size: the kernel asks, and gets this."""
    return int(daemon.service.ask(f"reconfig 0 {libtcmu.CfgInfo.DEV_SIZE} {size}"))


def size_of(daemon):
    (one,) = daemon.get("/v1/devices")["devices"]
    return one["size"]


def assert_grown(daemon, kernel):
    """The kernel is told once, then the new blocks can be used."""
    assert size_of(daemon) == device_values(daemon)["size_bytes"] == NEW
    attention = read(kernel, NEW // 512 - 8)
    assert (attention.status, attention.key, attention.asc) == (2, 6, 0x2A09)
    write(kernel, b"n" * 4096, NEW // 512 - 8)
    assert read(kernel, NEW // 512 - 8).data == b"n" * 4096
    assert read(kernel).data == layers.cluster("A", 0)
    assert scsi.refused(read(kernel, NEW // 512 - 7)) == (scsi.ILLEGAL, scsi.OUT_OF_RANGE)


def test_a_post_to_the_device(daemon, writable):
    _, kernel = writable
    status, answer = post(daemon, NEW)
    assert (status, answer["name"], answer["size"]) == (200, "uio0", NEW)
    assert_grown(daemon, kernel)


@pytest.mark.parametrize("method, name", [("GET", "7"), ("POST", "uio0")])
def test_a_request_in_the_manner_of_the_snapshot(daemon, writable, method, name):
    status, answer = daemon.ask(f"/resize?dev_id={name}&size={NEW}", method)
    assert (status, answer) == (200, {"success": True, "message": "Resized successfully"})
    checked("resize", answer)
    assert_grown(daemon, writable[1])


def test_a_size_written_to_configfs(daemon, writable):
    assert configured(daemon, NEW) == 0
    assert_grown(daemon, writable[1])


def test_overlaybd_ctl(daemon, writable, capsys):
    arguments = ["--config", str(daemon.service.config_path), "resize", "7"]
    assert ctl.main([*arguments, f"{NEW >> 10}K"]) == ctl.EXIT_OK
    assert f"uio0 has {NEW} bytes (256.0 KiB) now." in capsys.readouterr().out
    assert ctl.main([*arguments, "512"]) == ctl.EXIT_FOUND
    assert "a disk in use only grows" in capsys.readouterr().err
    assert_grown(daemon, writable[1])


def test_asking_again_changes_nothing(daemon, writable):
    for _ in range(2):
        assert post(daemon, NEW)[0] == 200
        assert configured(daemon, NEW) == 0
    assert_grown(daemon, writable[1])


def test_a_killed_daemon_s_successor_has_the_size(daemon, writable):
    config, kernel = writable
    post(daemon, NEW)
    read(kernel)  # told
    write(kernel, b"n" * 512, NEW // 512 - 1)
    daemon.service.stop(signal.SIGKILL)
    daemon.service.add_live(config)
    os.unlink(daemon.folder / "tcmu")
    daemon.service.start()
    assert size_of(daemon) == NEW
    daemon.service.stop()
    with opener.open_image(image_config.load(str(config)), read_only=True) as image:
        assert image.pread(512, NEW - 512) == b"n" * 512


# ---- refused


@pytest.mark.parametrize(
    "size, status, code, said",
    [
        (OLD - 512, 409, -1, "a disk in use only grows"),
        (NEW + 1, 400, -22, "not a multiple of 512"),
        (1 << 62, 400, -22, "virtual_size"),
    ],
)
def test_sizes_that_are_refused(daemon, writable, size, status, code, said):
    got, answer = post(daemon, size)
    assert got == status and said in checked("refusal", answer)["error"]
    got, answer = daemon.ask(f"/resize?dev_id=7&size={size}")
    assert (got, answer["message"]) == (status, "Failed to resize")
    assert said in checked("resize", answer)["reason"]
    assert configured(daemon, size) == code
    assert size_of(daemon) == OLD
    assert read(writable[1]).data == layers.cluster("A", 0)


def test_a_read_only_disk(daemon):
    daemon.start()
    daemon.add(daemon.image(), "7")
    status, answer = post(daemon, NEW)
    assert status == 409 and "no writable layer" in answer["error"]
    assert daemon.ask(f"/resize?dev_id=7&size={NEW}")[0] == 409


def test_a_device_there_is_not(daemon, writable):
    assert post(daemon, NEW, "8")[0] == 404
    status, answer = daemon.ask(f"/resize?dev_id=8&size={NEW}")
    assert (status, answer["message"]) == (404, "Image file not found")


def test_what_cannot_be_understood(daemon, writable):
    for query in ("", "?dev_id=7", "?size=512", "?dev_id=&size="):
        status, answer = daemon.ask("/resize" + query)
        assert status == 400 and answer["message"].startswith("Missing dev_id or size")
    for size in ("x", "-512", "1e6", "٣", "9" * 30):
        assert daemon.ask(f"/resize?dev_id=7&size={urllib.parse.quote(size)}")[0] == 400
    for body in ("", "{}", '{"size": 0}', '{"size": "512"}', '{"size": 512, "x": 1}'):
        assert daemon.ask("/v1/devices/7/resize", "POST", body)[0] == 400
    assert daemon.ask("/v1/devices/7/resize")[0] == 405


def test_a_device_that_is_not_served_yet(daemon):
    config = daemon.image(writable=True)
    (config.parent / "layer").unlink()
    daemon.service.add_live(config)
    daemon.start()
    status, answer = post(daemon, NEW, "uio0")
    assert status == 409 and "is not served" in answer["error"]


def test_files_that_cannot_be_written(daemon, writable):
    # bytes a file may have: less than where the size is stated
    resource.prlimit(daemon.service.process.pid, resource.RLIMIT_FSIZE, (16, 16))
    status, answer = post(daemon, NEW)
    assert status == 500 and "stating a virtual size" in answer["error"]
    assert size_of(daemon) == OLD
