# SPDX-License-Identifier: Apache-2.0
"""KVM where it truly works, else QEMU's own emulation (TCG).

A /dev/kvm that can be opened proves little: inside some virtual machines it makes a virtual CPU and
then no kernel gets past its first instructions, or QEMU aborts. So the first use starts a real
machine with KVM and waits for its agent, and the answer is kept for this boot of the host.
"""
from __future__ import annotations

import os
import pathlib
from typing import Callable, List

KVM = "kvm"
TCG = "tcg"
CHOICES = (KVM, TCG)
ENVIRONMENT = "OVERLAYBD_VM_ACCEL"
BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")

# Left alone the guest distrusts the emulated TSC and reads the HPET instead. Each such read takes
# QEMU's global lock: with two virtual CPUs wake-ups then take 1-4 ms and every measurement is
# worthless.
TCG_KERNEL = "tsc=reliable clocksource=tsc"


def choose(cache: pathlib.Path, try_kvm: Callable[[], bool]) -> str:
    """
    What $OVERLAYBD_VM_ACCEL demands, else what try_kvm found out (asked once per boot of the host).
    """
    demanded = os.environ.get(ENVIRONMENT)
    if demanded:
        if demanded not in CHOICES:
            raise ValueError(f"{ENVIRONMENT}={demanded}: not one of {', '.join(CHOICES)}")
        return demanded
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    known = cache / ("acceleration-" + BOOT_ID.read_text().strip())
    if not known.exists():
        for old in cache.glob("acceleration-*"):
            old.unlink(missing_ok=True)
        known.write_text(KVM if try_kvm() else TCG)
    return known.read_text()


def qemu_arguments(acceleration: str) -> List[str]:
    if acceleration == KVM:
        return ["-machine", "pc,hpet=off", "-accel", "kvm", "-cpu", "host"]
    return ["-machine", "pc,hpet=off", "-accel", "tcg,thread=multi", "-cpu", "max"]


def kernel_arguments(acceleration: str) -> str:
    return TCG_KERNEL if acceleration == TCG else ""
