# SPDX-License-Identifier: Apache-2.0
"""systemd's own opinion of the unit, and what in it is held by other parts of the tree."""

import pathlib
import shutil
import subprocess

import pytest

from overlaybd_tcmu import daemon

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNIT = ROOT / "packaging/overlaybd-tcmu.service"


def settings():
    lines = UNIT.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] not in "#[")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_accepts_every_line(tmp_path):
    unit = tmp_path / UNIT.name
    # What need not be installed to be understood.
    text = UNIT.read_text().replace("/opt/overlaybd/bin/overlaybd-tcmu", "/bin/true")
    unit.write_text(text.replace("/sbin/modprobe", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=25)
    assert (done.returncode, done.stdout) == (0, "")
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_would_complain(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("WatchdogSec=", "WatchDog="))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=25)
    assert "WatchDog" in done.stderr


def test_what_the_original_sets_is_kept():
    found = settings()
    expected = {"Restart": "always", "KillMode": "process"}
    expected.update(OOMScoreAdjust="-999", LimitNOFILE="1048576", DefaultDependencies="no")
    assert {key: found[key] for key in expected} == expected


def test_systemd_waits_longer_than_the_daemon_takes():
    def seconds(name):
        return float(settings()[name].rstrip("s"))

    assert seconds("TimeoutStopSec") > daemon.STOP_DEADLINE_S
    assert seconds("TimeoutStartSec") > daemon.READY_DEADLINE_S
    assert seconds("WatchdogSec") > 4 * daemon.LOOK_S


def test_nothing_hides_devices_or_later_mounts():
    """Each of these makes a mount namespace or a list of allowed devices."""
    found = settings()
    hiding = ["PrivateDevices", "PrivateTmp", "PrivateMounts", "ProtectSystem", "ProtectHome"]
    hiding += ["ProtectKernelTunables", "ProtectClock", "DevicePolicy", "MemoryDenyWriteExecute"]
    assert set(hiding) & set(found) == set()
