# SPDX-License-Identifier: Apache-2.0
"""
A machine like an operator's: systemd as init, the Debian package installed by dpkg, the service
enabled by its path. One for all tests of it, cleaned up after each.
"""
from __future__ import annotations

import os
import pathlib
import tempfile
from typing import Any, List, Optional

from . import debs, images, payload, session
from .harness import machine

# "make vm-long" does everything as often as it was promised, which takes an emulated CPU long.
LONG = bool(os.environ.get("OVERLAYBD_VM_LONG"))
KILLS, UPGRADES, RESTARTS, CROWD = (100, 20, 20, 200) if LONG else (4, 1, 1, 100)

MEMORY_MIB = 4096 if LONG else 2560  # the kernel takes 8 MiB for each device's ring
PACKAGES = "/root/packages"
FIRST = f"{PACKAGES}/first.deb"
UNIT = "/opt/overlaybd/overlaybd-tcmu.service"
NAME = "overlaybd-tcmu.service"


class Host:
    """guest() is the machine, with the service running in it."""

    def __init__(self) -> None:
        self.followers = [f"{PACKAGES}/follower-{n:03}.deb" for n in range(1, UPGRADES + 1)]
        self._vm: Optional[machine.Machine] = None
        self._guest: Optional[session.Guest] = None

    def guest(self) -> session.Guest:
        if self._guest is None:
            self._vm = machine.Machine(memory_mib=MEMORY_MIB, init="systemd")
            self._vm.start()
            guest = session.Guest(self._vm, self._put)
            images.put(guest)
            self._install(guest)
            self._guest = guest
            print(f"\nhost: systemd and the package, up in {self._vm.boot_s:.1f} s")
        return self._guest

    def discard(self) -> None:
        if self._vm is not None:
            self._vm.kill()
        self._vm = self._guest = None

    def close(self) -> None:
        if self._vm is not None:
            self._vm.stop()

    def _put(self, vm: machine.Machine) -> None:
        vm.put(payload.GUEST, "/opt/vm/guest")
        vm.put(payload.SUPPORT, "/opt/vm/support")
        package = debs.build()
        with tempfile.TemporaryDirectory(prefix="overlaybd-packages-") as name:
            folder = pathlib.Path(name)
            debs.followers(package, folder, len(self.followers))
            (folder / "first.deb").write_bytes(package.read_bytes())
            vm.put(folder, PACKAGES)

    def _install(self, guest: session.Guest) -> None:
        """As the README says."""
        guest.start("unit.install", FIRST).result(180)
        guest.call("unit.systemctl", "enable", UNIT)
        guest.start("unit.systemctl", "start", NAME).result(120)


def tidy(guest: session.Guest, expected: List[str]) -> None:
    """Undoes what a test has made, and looks for complaints not expected (parts of lines)."""
    for place in guest.call("mounts.mounted"):
        guest.call("mounts.unmount", place)
    numbers = guest.call("disk.attached")
    if numbers:
        guest.start("disk.detach_all", numbers).result(240)
    assert guest.call("unit.show", "ActiveState") == {"ActiveState": "active"}
    lines: List[Any] = guest.call("service.log").splitlines()
    found = [line for line in lines if "ERROR" in line or "FATAL" in line]
    # systemd writes where the kernel does.
    found += [line for line in guest.call("kernel.complaints") if "systemd" not in line]
    assert [line for line in found if not any(part in line for part in expected)] == []
    assert guest.server_errors() == ""
