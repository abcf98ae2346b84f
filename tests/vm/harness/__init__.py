# SPDX-License-Identifier: Apache-2.0
"""A real Debian kernel in QEMU, and commands in it.

    rootfs.py        the Debian userland and kernel on a disk image, made once and kept
    initrd.py        the few files the kernel starts from: drivers, init, agent
    acceleration.py  KVM where it truly works, else emulation
    machine.py       the QEMU process and the commands running in it
    protocol.py      the frames on the wire between machine.py and agent.py
    agent.py         the guest's end of the wire; knows nothing of ours
    errors.py        what can go wrong

Nothing here knows overlaybd.
"""
