# SPDX-License-Identifier: Apache-2.0
"""overlaybd-ctl as its users run it: against a daemon that works, hangs, or is not there."""

import json
import os
import re

import pytest

from overlaybd_tcmu.tools import ctl, reports

from ..native import tcmu_device as scsi
from ..support import layers, slowfs
from .conftest import IMPATIENT, read


@pytest.fixture
def run(daemon, capsys):
    """Runs the program with the daemon's configuration: (status, lines of what it says)."""

    def run(*arguments):
        status = ctl.main(["--config", str(daemon.service.config_path), *arguments])
        said = capsys.readouterr()
        return status, (said.out or said.err).splitlines()

    return run


@pytest.fixture
def machine(run):
    """As run, with --json: (status, document)."""

    def machine(*arguments):
        status, lines = run("--json", *arguments)
        return status, json.loads(lines[-1])

    return machine


def test_status(daemon, run, machine):
    daemon.start()
    daemon.add(daemon.image())
    status, lines = run("status")
    assert status == ctl.EXIT_OK
    assert lines[0] == "status    ok" and "devices   1 serving" in lines
    assert machine("status")[1]["devices"] == {"serving": 1}


def test_devices(daemon, run, machine):
    daemon.start()
    config = daemon.image()
    read(daemon.add(config, "seven"))
    status, (head, row) = run("devices")
    assert status == ctl.EXIT_OK
    assert row.split()[:3] == ["uio0", "seven", "serving"] and row.endswith(str(config))
    assert head.index("CONFIG") == row.index(str(config))
    assert machine("devices")[1]["devices"][0]["reads"] == 1


def test_top_shows_what_happened_in_between(daemon, machine, run, monkeypatch):
    daemon.start()
    kernel = daemon.add(daemon.image())
    # whatever else sleeps does not: this is the pause between two looks
    monkeypatch.setattr(ctl.time, "sleep", lambda _: [read(kernel) for _ in range(3)])
    status, document = machine("top", "--count", "1")
    (one,) = document["devices"]
    assert status == ctl.EXIT_OK
    assert one["read_bytes_per_s"] == pytest.approx(one["reads_per_s"] * layers.CLUSTER)
    assert one["reads_per_s"] > 0 and one["writes_per_s"] == 0
    _, lines = run("top", "--count", "2")
    assert [line.split()[0] for line in lines] == ["DEVICE", "uio0"] * 2


def test_explain_goes_stage_by_stage(daemon, run, machine):
    daemon.start()
    kernel = daemon.add(daemon.image(), "seven")
    _, lines = run("explain", "uio0")
    assert "no command has been answered yet" in lines
    for _ in range(5):
        read(kernel)
    status, lines = run("explain", "seven")
    assert status == ctl.EXIT_OK
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["read"][0] == "5" and rows["read"][-2:] == ["100", "%"]
    assert int(rows["decode"][0]) % 64 == 0
    assert int(rows["lookup"][0]) % 64 == 0
    assert any("reads of layer files" in line for line in lines)
    assert machine("explain", "uio0")[1]["latency"]["read"]["count"] == 5


def test_explain_of_a_device_there_is_not(daemon, run):
    daemon.start()
    status, lines = run("explain", "uio9")
    assert (status, lines) == (1, ["overlaybd-ctl: uio9: no device has that name or id"])


def test_hang_says_what_since_when_on_what(daemon, run, machine, rng):
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse here")
    config = daemon.image()
    scsi.write_layer(config.parent / "layer", rng.randbytes(scsi.MAPPED), at=scsi.MAPPED)
    (daemon.folder / "slow").mkdir()
    with slowfs.SlowFile(config.parent / "layer", daemon.folder / "slow", patience_s=60) as slow:
        config.write_text(json.dumps({"lowers": [{"file": slow.path}]}))
        daemon.start(program=("-c", IMPATIENT), exporter={"updateInterval": 0})
        kernel = daemon.add(config)
        assert run("hang") == (ctl.EXIT_OK, ["no command has waited for 5 s"])
        slow.hold = 1000
        kernel.queue(scsi.read_10(scsi.MAPPED // 512, 8), 4096)
        kernel.kick()
        while not daemon.get("/v1/devices/uio0")["pending"]:
            pass
        status, (_, row) = run("hang", "--age", "0")
        assert status == ctl.EXIT_FOUND
        assert row.split()[:2] == ["uio0", "read"] and row.endswith(str(config))
        (one,) = machine("hang", "--age", "0")[1]["commands"]
        assert (one["offset"], one["count"]) == (scsi.MAPPED, 4096)
        assert any("command hangs" in line for line in daemon.service.follow())
        assert run("status")[0] == ctl.EXIT_FOUND
        slow.release()
        kernel.answers(1)


def test_log_level(daemon, run):
    daemon.start()
    assert run("log-level", "3") == (0, ["3 (error)"])
    assert run("log-level") == (0, ["3 (error)"])
    assert daemon.get("/v1/log-level")["level"] == 3


# ---- nobody there


def test_a_service_that_does_not_run(daemon, run):
    daemon.start()
    daemon.service.stop()
    status, (line,) = run("status")
    assert status == ctl.EXIT_UNREACHABLE
    assert re.match("overlaybd-ctl: unix:///.*: No such file .*; is the service running", line)


def test_a_service_without_an_api(daemon, run):
    status, (line,) = run("devices")
    assert status == ctl.EXIT_CONFIG and "serviceConfig.enable: is false" in line


def test_an_address_that_is_none(run):
    assert run("--address", "ftp://x", "status")[0] == ctl.EXIT_CONFIG


def test_somebody_else_answers(daemon, run):
    daemon.start()
    address = f"http://127.0.0.1:{daemon.port('metrics')}"
    assert run("--address", address, "status")[0] == ctl.EXIT_FOUND  # 404, in JSON


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "-"),
        (12e-6, "12 us"),
        (0.0034, "3.4 ms"),
        (5, "5.0 s"),
        (600, "10.0 min"),
        (9e3, "2.5 h"),
    ],
)
def test_durations(seconds, text):
    assert reports.duration(seconds) == text
