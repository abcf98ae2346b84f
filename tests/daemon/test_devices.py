# SPDX-License-Identifier: Apache-2.0
"""Devices come, go and come back: what is answered, what is open, what resultFile says."""

import json
import signal

import pytest

from overlaybd_tcmu import daemon
from overlaybd_tcmu.ffi import libtcmu

from ..support import layers

# A device that never finishes, without the wait of the real deadline.
IMPATIENT = (
    "import sys; from overlaybd_tcmu import daemon; daemon.STOP_DEADLINE_S = 0.2;"
    " sys.exit(daemon.main(sys.argv[1:]))"
)
EAGER = (
    "import sys; from overlaybd_tcmu import daemon; from overlaybd_tcmu.tcmu import device;"
    " device.RETRY_FIRST_S = 0.01; sys.exit(daemon.main(sys.argv[1:]))"
)


class Snapshot:
    """A directory with an image's config, its layer and its resultFile."""

    def __init__(self, folder, with_layer=True):
        folder.mkdir()
        self.layer = folder / "layer.lsmt"
        self.result_path = folder / "result"
        self.config_path = folder / "config.v1.json"
        document = {"lowers": [{"file": str(self.layer)}], "resultFile": str(self.result_path)}
        self.config_path.write_text(json.dumps(document))
        if with_layer:
            self.write_layer()

    def write_layer(self):
        layers.write_picture(self.layer, "AB-C")

    def result(self):
        return self.result_path.read_text()


@pytest.fixture
def snapshot(tmp_path):
    """Makes snapshots, one folder each."""

    def make(name="1", **options):
        return Snapshot(tmp_path / name, **options)

    return make


def test_device_is_served_by_a_thread_of_its_name(service, snapshot):
    one = snapshot()
    service.start()
    assert service.add(one.config_path) == 0
    assert one.result() == "success"
    assert str(one.layer) in service.open_files()
    assert "dev opened name=overlaybd/" in service.log()
    assert service.stop() == 0


def test_nothing_is_open_when_removed_has_returned(service, snapshot):
    one = snapshot()
    service.start()
    before = len(service.open_files())
    number = service.add(one.config_path)
    assert service.ask(f"remove {number}") == "0"
    assert len(service.open_files()) == before
    assert service.wait_idle()
    assert f"dev closed name=overlaybd/{one.config_path}" in service.log()


def test_fifty_devices_come_and_go(service, snapshot):
    one = snapshot()
    service.start()
    before = len(service.open_files())
    numbers = [service.add(one.config_path) for _ in range(50)]
    assert sorted(numbers) == list(range(50))
    assert all(service.ask(f"remove {number}") == "0" for number in numbers)
    assert len(service.open_files()) == before
    assert service.stop() == 0


def test_clean_stop_closes_live_devices(service, snapshot):
    one = snapshot()
    service.start()
    service.add(one.config_path)
    assert service.stop() == 0
    assert service.log().index("dev closed") < service.log().index(":stopped")


def test_image_that_cannot_be_opened_is_refused_and_the_reason_told(service, snapshot):
    one = snapshot(with_layer=False)
    service.start()
    before = len(service.open_files())
    assert service.add(one.config_path) < 0
    assert one.result() == f"failed:empty repoBlobUrl: layer 0: no such file: {one.layer}"
    assert "dev open failed" in service.log()
    assert len(service.open_files()) == before
    one.write_layer()
    assert service.add(one.config_path) == 0
    assert one.result() == "success"


def test_configuration_that_is_missing_is_refused(service):
    service.start()
    assert service.add("/none/config.v1.json") < 0
    assert "/none/config.v1.json: cannot be read" in service.log()


def test_configuration_string_of_no_use_is_explained(service):
    service.start()
    assert service.ask("reject overlaybd/") == (
        "not overlaybd/<config path>[;<device id>]: overlaybd/"
    )
    assert service.ask("reject overlaybd//a") == ""
    assert int(service.ask("add overlaybd/")) < 0


def test_device_id_is_used_once(service, snapshot):
    first, second = snapshot("1"), snapshot("2")
    service.start()
    number = service.add(first.config_path, "7")
    assert number == 0
    assert service.add(second.config_path, "7") < 0
    assert second.result() == "failed:duplicated dev id: 7"
    assert service.add(second.config_path, "8") == 1
    service.ask(f"remove {number}")
    assert service.add(first.config_path, "7") == 0


def test_device_id_of_a_refused_device_is_free_again(service, snapshot):
    one = snapshot(with_layer=False)
    service.start()
    assert service.add(one.config_path, "7") < 0
    one.write_layer()
    assert service.add(one.config_path, "7") == 0


@pytest.mark.parametrize("kind", [libtcmu.CfgInfo.DEV_CFGSTR, libtcmu.CfgInfo.WRITE_CACHE])
def test_reconfig_of_anything_but_the_size_is_refused(service, snapshot, kind):
    one = snapshot()
    service.start()
    number = service.add(one.config_path)
    assert service.ask(f"reconfig {number} {kind} 0") == "-95"


def test_reconfig_of_the_size_of_a_read_only_disk_is_refused(service, snapshot):
    one = snapshot()
    service.start()
    number = service.add(one.config_path)
    assert service.ask(f"reconfig {number} {libtcmu.CfgInfo.DEV_SIZE} {1 << 40}") == "-30"


def test_live_devices_are_adopted_before_netlink_is_unblocked(service, snapshot):
    ones = [snapshot(str(number)) for number in range(5)]
    service.add_live(*(one.config_path for one in ones))
    service.start()
    assert "ready adopted=5" in service.log()
    assert [one.result() for one in ones] == ["success"] * 5
    assert (service.parameters / "block_netlink").read_text() == "0"
    assert service.ask("remove 3") == "0"
    assert service.stop() == 0


def test_failed_adoption_is_repeated_until_it_works(service, snapshot):
    one = snapshot(with_layer=False)
    service.add_live(one.config_path)
    service.start(("-c", EAGER))
    assert "adoption failed, will be repeated" in service.log()
    assert one.result().startswith("failed:")
    one.write_layer()
    assert any("dev opened" in line for line in service.follow())
    assert one.result() == "success"
    assert service.stop() == 0


def test_device_whose_adoption_keeps_failing_can_be_removed(service, snapshot):
    one = snapshot(with_layer=False)
    service.add_live(one.config_path)
    service.start()
    assert service.ask("remove 0") == "0"
    assert service.stop() == 0


def test_stop_has_a_deadline_and_says_what_hangs(service, snapshot):
    one = snapshot()
    service.environment["FAKE_TCMU_STUCK"] = "1"
    service.start(("-c", IMPATIENT))
    service.add(one.config_path)
    assert service.stop() == daemon.EXIT_STUCK
    assert f"state name=overlaybd/{one.config_path} uio=uio0 state=serving" in service.log()


def test_state_is_reported_on_request(service, snapshot):
    one = snapshot()
    service.start()
    service.add(one.config_path)
    service.send_signal(signal.SIGUSR1)
    assert any("state=serving commands=0 inflight=0" in line for line in service.follow())
    assert service.stop() == 0
