# SPDX-License-Identifier: Apache-2.0
"""systemd is told that the daemon lives, as often as it asks, and only while it does."""

import signal

import pytest

from overlaybd_tcmu import notify

# The turn is taken and kept, as by somebody who hangs in libtcmu.
HUNG = (
    "import sys; from overlaybd_tcmu import daemon; from overlaybd_tcmu.tcmu import pump;"
    " pump.TURN_S = 0.01; pump.Pump.dispatch = lambda self: self._turn.take(0);"
    " sys.exit(daemon.main(sys.argv[1:]))"
)


def test_pings_come_as_often_as_demanded(service):
    service.environment["WATCHDOG_USEC"] = "200000"
    service.start()
    assert [service.notify.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    assert service.stop() == 0
    assert service.notify.recv(100) in (b"WATCHDOG=1", b"STOPPING=1")


def test_nobody_is_pinged_who_has_not_asked(service):
    service.start()
    assert service.stop() == 0
    assert service.notify.recv(100) == b"STOPPING=1"


def test_no_pings_when_messages_cannot_be_handled(service):
    service.environment["WATCHDOG_USEC"] = "100000"
    service.start()
    assert service.notify.recv(100) == b"WATCHDOG=1"
    service.stop(signal.SIGKILL)
    (service.folder / "tcmu").unlink()
    service.start_hung(("-c", HUNG))
    service.begin("reject overlaybd//x")
    service.notify.settimeout(1.0)
    with pytest.raises(TimeoutError):
        while service.notify.recv(100) == b"WATCHDOG=1":
            pass


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_what_is_demanded(monkeypatch, environment, expected):
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog_s() == expected
