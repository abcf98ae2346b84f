# SPDX-License-Identifier: Apache-2.0
"""What cannot work says why: failed opens, wrong configurations, and the log afterwards."""
import errno

import pytest

from . import images, session

FOLDER = "/root/failures"
CONFIG = f"{FOLDER}/config.v1.json"
RESULT = f"{FOLDER}/init-debug.log"
GOOD = f"{images.GOLDEN}/lz4-4k/layer0.zfile"


@pytest.fixture
def serving(guest):
    guest.call("service.start")
    # What the daemon, the kernel and libtcmu say about it.
    guest.expected = [
        f"dev open failed name=overlaybd/{CONFIG}",
        "TCMU netlink",
        "handler open failed",
    ]
    guest.call("files.remove", FOLDER)
    return guest


def refused(guest, lowers, **more):
    """Attaches an image that cannot be opened; returns what the result file says."""
    guest.call("files.write_json", CONFIG, {"lowers": lowers, "resultFile": RESULT, **more})
    before = guest.call("disk.attached")
    with pytest.raises(session.GuestError) as caught:
        guest.call("disk.attach", 1, CONFIG)
    assert caught.value.errno == errno.ENOENT
    assert guest.call("disk.attached") == before
    assert guest.call("service.running")
    return guest.call("service.read", RESULT)


def test_missing_layer(serving):
    said = refused(serving, [{"file": GOOD}, {"file": "/root/failures/none"}])
    assert said.startswith("failed:empty repoBlobUrl")
    assert "\n" not in said


def test_layer_that_is_none(serving):
    serving.call("files.write_bytes", f"{FOLDER}/layer", "not a layer" * 1000)
    assert refused(serving, [{"file": f"{FOLDER}/layer"}]).startswith(
        "failed:failed to open layer 0"
    )


def test_cut_layer(serving):
    serving.call("files.copy_part", GOOD, f"{FOLDER}/layer", 300_000)
    assert refused(serving, [{"file": f"{FOLDER}/layer"}]).startswith(
        "failed:failed to open layer 0"
    )


def test_no_layers(serving):
    assert refused(serving, []).startswith("failed:")


def test_wrong_type_names_the_key(serving):
    assert "lowers" in refused(serving, "many")


def test_missing_config(serving):
    with pytest.raises(session.GuestError) as caught:
        serving.call("disk.attach", 1, CONFIG)
    assert caught.value.errno == errno.ENOENT


def test_failure_does_not_harm_what_runs(serving):
    stack = images.STACKS["plain"]
    disk = serving.call("disk.attach", 2, stack.config_path)["disk"]
    refused(serving, [{"file": "/root/failures/none"}])
    compared = serving.call("reads.compare_random", disk, stack.view_path, 5, 30)
    assert compared["differs_in"] is None


def test_mended_image_attaches(serving):
    refused(serving, [{"file": f"{FOLDER}/layer"}])
    serving.call("files.link", GOOD, f"{FOLDER}/layer")
    assert serving.call("disk.attach", 1, CONFIG)["disk"]
    assert serving.call("service.read", RESULT) == "success"


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"ioEngine": 3}, "ioEngine"),
        ({"logConfig": {"logLevel": "loud"}}, "logConfig.logLevel"),
        ({"download": []}, "download"),
    ],
)
def test_wrong_service_config(guest, settings, named):
    guest.call("files.write_json", "/root/wrong.json", settings)
    said = guest.call("service.run", ["/root/wrong.json"])
    assert said["status"] == 2
    assert named in said["errors"]
    assert len(said["errors"].splitlines()) == 1


def test_missing_service_config(guest):
    said = guest.call("service.run", ["/root/none.json"])
    assert said["status"] == 2
    assert "/root/none.json" in said["errors"]


def test_log_tells_the_life_of_a_device(guest):
    stack = images.STACKS["plain"]
    guest.call("service.start")
    guest.call("disk.attach", 1, stack.config_path)
    guest.call("disk.detach", 1)
    guest.call("service.stop")
    log = guest.call("service.log")
    for words in ("dev open ", "dev opened ", "dev closed ", "stopped"):
        assert words in log
    assert stack.config_path in log


def test_device_id_is_accepted(guest):
    stack = images.STACKS["plain"]
    guest.call("service.start")
    disk = guest.call("disk.attach", 1, stack.config_path, device_id="snapshot-7")["disk"]
    compared = guest.call("reads.compare_random", disk, stack.view_path, 5, 10)
    assert compared["differs_in"] is None
