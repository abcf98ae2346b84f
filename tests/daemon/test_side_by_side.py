# SPDX-License-Identifier: Apache-2.0
"""Devices come and go while others do not open, for their registry accepts and says nothing."""

import json
import signal
import socket
import time

import pytest

from ..support import layers

# As the daemon, but a device that hangs is not waited for as long.
HASTY = (
    "import sys; from overlaybd_tcmu import daemon; daemon.FINISH_S = 0.2;"
    " daemon.READY_DEADLINE_S = 0.5; daemon.LOOK_S = 0.05;"
    " sys.exit(daemon.main(sys.argv[1:]))"
)


@pytest.fixture
def silent():
    """A registry's address; connections are made and nothing more."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def image(tmp_path):
    """Writes a config.v1.json of one local layer, or of one that only a registry has."""

    layers.write_picture(tmp_path / "layer.lsmt", "AB-C")

    def write(name, registry=None):
        path = tmp_path / f"{name}.json"
        lower = {"file": str(tmp_path / "layer.lsmt")}
        document = {"lowers": [lower], "resultFile": str(tmp_path / f"{name}.result")}
        if registry:
            document["repoBlobUrl"] = f"http://{registry}/v2/x/blobs"
            document["lowers"] = [{"digest": f"sha256:{'a' * 64}", "size": 65536}]
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.fixture
def hasty(service, tmp_path):
    """A daemon that caches below tmp_path."""
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache"), "cacheSizeGB": 1}
    service.configure(cacheConfig=cache)
    service.program = ("-c", HASTY)
    return service


def wait_open(service, count):
    """Until so many images are being opened."""
    until = time.monotonic() + 20
    while service.log().count("dev open name=") < count:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_devices_are_served_while_one_does_not_open(hasty, image, silent):
    hasty.start(hasty.program)
    hangs = hasty.begin_add(image("hangs", silent))
    wait_open(hasty, 1)
    numbers = [hasty.add(image("fine")) for _ in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    assert hasty.ask("remove 2") == "0"
    with pytest.raises(TimeoutError):
        hangs(timeout_s=0.01)


def test_first_of_those_that_open_is_answered_first(hasty, image, silent):
    """Not only the last: the answers do not wait for each other on one stack."""
    hasty.start(hasty.program)
    first = hasty.begin_add(image("first", silent))
    wait_open(hasty, 1)
    hasty.begin_add(image("second", silent))
    wait_open(hasty, 2)
    assert hasty.ask("remove 0") == "0"  # ends the first one's opening
    assert int(first()) < 0


def test_storm_of_attaches_with_some_that_hang(hasty, image, silent):
    hasty.start(hasty.program)
    hanging = [hasty.begin_add(image(f"hangs{number}", silent)) for number in range(10)]
    fine = image("fine")
    answers = [hasty.begin_add(fine) for _ in range(50)]
    numbers = [int(answer()) for answer in answers]
    assert len(set(numbers)) == 50 and min(numbers) >= 0
    for number in numbers:
        assert hasty.ask(f"remove {number}") == "0"
    for number in set(range(60)) - set(numbers):
        hasty.ask(f"remove {number}")
    assert all(int(answer()) < 0 for answer in hanging)
    assert hasty.stop() == 0
    assert hasty.errors == ""


def test_device_that_is_removed_while_it_opens_leaves_nothing_behind(hasty, image, silent):
    hasty.start(hasty.program)
    hangs = hasty.begin_add(image("hangs", silent))
    wait_open(hasty, 1)
    assert hasty.ask("remove 0") == "0"
    assert int(hangs()) < 0
    assert hasty.add(image("fine")) == 0
    hasty.send_signal(signal.SIGUSR1)
    assert any("state=serving" in line for line in hasty.follow())
    assert "hangs.json uio=" not in hasty.log()


def test_stop_ends_what_does_not_open_and_answers_it(hasty, image, silent):
    hasty.start(hasty.program)
    hangs = hasty.begin_add(image("hangs", silent))
    wait_open(hasty, 1)
    assert hasty.stop() == 0
    assert int(hangs()) < 0


def test_start_is_not_held_up_by_a_live_device_that_does_not_open(hasty, image, silent):
    hasty.add_live(image("hangs", silent), image("fine"))
    hasty.start(hasty.program)
    assert "ready adopted=2 waiting=1" in hasty.log()
    assert "image is not open yet name=overlaybd/" in hasty.log()
    assert "state=serving" not in hasty.log()
    assert hasty.add(image("fine")) == 2
    assert hasty.ask("remove 0") == "0"
    assert hasty.stop() == 0


def test_more_live_devices_that_hang_than_may_open_at_once(hasty, image, silent):
    hanging = [image(f"hangs{number}", silent) for number in range(20)]
    hasty.add_live(*hanging, image("fine"))
    hasty.start(hasty.program)
    assert any("dev opened" in line for line in hasty.follow())
    assert hasty.stop() == 0
