# SPDX-License-Identifier: Apache-2.0
"""
What the kernel starts from: a static busybox, the virtio drivers, init and the agent; 2.3 MB.

The cloud kernel has ext4 built in but virtio-blk only as a module, so the root image needs these
few files before it. The agent is the first process then, or systemd is, and the agent a service of
its: 15 s more on an emulated CPU, for what is about the service's unit.
"""
from __future__ import annotations

import pathlib
from typing import Dict, Tuple

HERE = pathlib.Path(__file__).parent

INIT = """#!/bin/busybox sh
box=/bin/busybox
$box mount -t devtmpfs dev /dev
for module in /modules/*; do $box insmod $module; done
if ! $box mount -t ext4 -o noatime /dev/vda /root; then
    echo "init: no root file system"
    $box poweroff -f
fi
$box mount -o move /dev /root/dev
$box mkdir -p /root/dev/pts /root/dev/shm
$box mount -t devpts pts /root/dev/pts
$box mount -t proc proc /root/proc
$box mount -t sysfs sys /root/sys
for folder in dev/shm run tmp; do $box mount -t tmpfs tmp /root/$folder; done
$box hostname vm
$box mkdir /root/run/agent
$box cp /agent/* /root/run/agent/
@START@
"""

AGENT = "/usr/bin/python3 -S -B /run/agent/agent.py"

# By name: what each init does once the root file system is there.
START = {
    "agent": f"exec $box switch_root /root {AGENT}",
    "systemd": """
units=/root/run/systemd/system
$box mkdir -p $units/multi-user.target.wants
$box mv /root/run/agent/agent.service $units; $box chmod 644 $units/agent.service
$box ln -s ../agent.service $units/multi-user.target.wants
$box ln -s /lib/systemd/system/multi-user.target $units/default.target
for unit in @MASKED@; do $box ln -s /dev/null $units/$unit; done
exec $box switch_root /root /lib/systemd/systemd
""",
}

# systemd buries the orphans, and the agent is like any other service.
UNIT = f"""[Unit]
Description=The test's hand in this machine
[Service]
ExecStart={AGENT}
KillMode=process
"""

# What takes time and helps no test.
MASKED = (
    "containerd.service docker-registry.service getty.target systemd-networkd.service "
    "systemd-logind.service systemd-update-utmp.service systemd-random-seed.service "
    "systemd-journal-flush.service apt-daily.timer "
    "apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service "
    "fstrim.timer systemd-firstboot.service systemd-machine-id-commit.service"
)

FOLDERS = ("bin", "dev", "root", "modules", "agent")
DIRECTORY = 0o040755
PROGRAM = 0o100755


def build(boot_folder: pathlib.Path, init: str) -> bytes:
    """
    An initrd from what rootfs.py set aside for it: busybox, and modules in the order of loading.
    init is one of START's names.
    """
    start = START[init].replace("@MASKED@", MASKED)
    files: Dict[str, bytes] = {"init": INIT.replace("@START@", start).encode()}
    files["agent/agent.service"] = UNIT.encode()
    files["bin/busybox"] = (boot_folder / "busybox").read_bytes()
    for module in sorted((boot_folder / "modules").iterdir()):
        files[f"modules/{module.name}"] = module.read_bytes()
    for name in ("agent.py", "protocol.py"):
        files[f"agent/{name}"] = (HERE / name).read_bytes()
    entries = [(name, DIRECTORY, b"") for name in FOLDERS]
    entries += [(name, PROGRAM, data) for name, data in files.items()]
    return _cpio(entries)


def _cpio(entries: list[Tuple[str, int, bytes]]) -> bytes:
    """
    The "newc" form: each entry is a header of 13 hexadecimal fields, the name and the data, both
    padded to 4.
    """
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields)
        out += name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4)
        out += data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)
