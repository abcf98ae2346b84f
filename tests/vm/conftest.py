# SPDX-License-Identifier: Apache-2.0
"""
One machine for all tests of this floor, cleaned up after each; a test that leaves it broken costs a
new one.

After every test: nothing is mounted or attached, the daemon has been stopped in order, its log has
no error and the kernel no complaint but those the test announced in guest.expected (parts of
lines).
"""
import shutil

import pytest

from . import debs
from . import host as hosts
from . import images, session
from .harness import errors, machine


class Floor:
    def __init__(self):
        self._vm = None
        self._guest = None

    def guest(self):
        if self._guest is None:
            self._vm = machine.Machine()
            self._vm.start()
            self._guest = session.Guest(self._vm)
            images.put(self._guest)
            print(f"\nvm: {self._vm.accelerator}, up in {self._vm.boot_s:.1f} s")
        return self._guest

    def discard(self):
        if self._vm is not None:
            self._vm.kill()
        self._vm = self._guest = None

    def close(self):
        if self._vm is not None:
            self._vm.stop()


@pytest.fixture(scope="session")
def floor():
    if not shutil.which(machine.QEMU):
        pytest.skip(f"{machine.QEMU} is not here and could not be installed")
    one = Floor()
    yield one
    one.close()


@pytest.fixture
def guest(floor, request):
    one = floor.guest()
    try:
        one.expected = []
        one.call("kernel.mark", request.node.name)
        one.call("service.clean_up")
        yield one
        tidy(one)
    except Exception:
        floor.discard()
        raise


@pytest.fixture(scope="session")
def host_floor():
    if not shutil.which(machine.QEMU):
        pytest.skip(f"{machine.QEMU} is not here and could not be installed")
    if debs.missing():
        pytest.skip(f"not installed: {', '.join(debs.missing())}")
    one = hosts.Host()
    yield one
    one.close()


@pytest.fixture
def host(host_floor, request):
    """The package's service under systemd; its newer packages are in host.followers."""
    try:
        one = host_floor.guest()
        one.expected = []
        one.followers = host_floor.followers
        one.call("kernel.mark", request.node.name)
        yield one
        hosts.tidy(one, one.expected)
    except Exception:
        host_floor.discard()
        raise


def tidy(guest):
    """Undoes what the test has made, in the snapshotter's order, and looks for complaints."""
    for place in guest.call("mounts.mounted"):
        guest.call("mounts.unmount", place)
    if guest.call("disk.attached") and not guest.call("service.running"):
        guest.call("service.start")
    for number in guest.call("disk.attached"):
        guest.call("disk.detach", number)
    if guest.call("service.running"):
        assert guest.call("service.stop")["status"] == 0
    assert unexpected(guest, guest.call("kernel.complaints")) == []
    lines = guest.call("service.log").splitlines()
    assert unexpected(guest, [line for line in lines if "ERROR" in line or "FATAL" in line]) == []
    assert unexpected(guest, guest.call("service.output").splitlines()) == []
    assert guest.server_errors() == ""


def unexpected(guest, lines):
    return [line for line in lines if not any(part in line for part in guest.expected)]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows both sides: the daemon's log and the kernel's."""
    report = (yield).get_result()
    fixtures = getattr(item, "funcargs", {})
    guest = fixtures.get("guest") or fixtures.get("host")
    if not report.failed or guest is None:
        return
    try:
        if "host" in fixtures:
            report.sections.append(("systemd's journal", guest.call("unit.journal")[-6000:]))
        report.sections.append(("daemon's log", guest.call("service.log")[-6000:]))
        report.sections.append(("daemon's output", guest.call("service.output")[-3000:]))
        report.sections.append(("kernel's log", guest.call("kernel.log")))
    except (errors.VmError, TimeoutError, session.GuestError) as error:
        report.sections.append(("machine", str(error)))
