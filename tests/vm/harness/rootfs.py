# SPDX-License-Identifier: Apache-2.0
"""
The guest's disk: a Debian userland and Debian's cloud kernel in one ext4 image. Made once (about 40
s), then kept.

    <cache>/<key>/root.img     the guest writes to a throw-away copy, so many share it
    <cache>/<key>/vmlinuz
    <cache>/<key>/boot/        for initrd.py: busybox, modules/NN-name.ko
    <cache>/lock               held while making; whoever comes second finds the result

The key says what is inside. The daemon's own needs come from Debian's packages alone: that they
suffice is part of what the tests in the machine show.
"""
from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Iterator

from . import errors

SUITE = "bookworm"
MIRROR_ENVIRONMENT = "OVERLAYBD_VM_MIRROR"  # default: Debian's own, with its security updates
KERNEL = "linux-image-cloud-amd64"
DAEMON_PACKAGES = (
    "python3 libtcmu2 libaio1 liblz4-1 libzstd1 libssl3 libcurl4 python3-jsonschema python3-lz4 "
    "python3-zstandard python3-cachetools python3-requests python3-urllib3 "
    "python3-prometheus-client"
).split()
TEST_PACKAGES = (
    "e2fsprogs fio kmod util-linux procps psmisc iproute2 strace sg3-utils busybox-static tar "
    "systemd"
).split()
CONTAINER_PACKAGES = "containerd runc docker-registry python3-grpcio python3-protobuf".split()
PACKAGES = DAEMON_PACKAGES + TEST_PACKAGES + CONTAINER_PACKAGES
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console")
IMAGE_BYTES = 2 * 1024**3
UNWANTED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
NEEDED_PROGRAMS = ("mmdebstrap", "mkfs.ext4")

# Runs on the host with the new tree as $1. The kernel's package is unpacked instead of installed:
# installing it would pull in an initramfs generator and run it.
KERNEL_HOOK = f"""#!/bin/sh
set -e
depends=$(chroot "$1" apt-cache depends {KERNEL})
package=$(echo "$depends" | sed -n 's/.*Depends: \\(linux-image-[0-9].*\\)/\\1/p')
mkdir "$1/kernel"
chroot "$1" sh -ec "cd /kernel
    apt-get -qq -o APT::Sandbox::User=root download $package
    dpkg -x *.deb ."
"""


@dataclasses.dataclass(frozen=True)
class RootImage:
    folder: pathlib.Path

    @property
    def image(self) -> pathlib.Path:
        return self.folder / "root.img"

    @property
    def kernel(self) -> pathlib.Path:
        return self.folder / "vmlinuz"

    @property
    def boot(self) -> pathlib.Path:
        return self.folder / "boot"


def cache_folder() -> pathlib.Path:
    """Where images are kept: $OVERLAYBD_VM_CACHE, or the checkout's build/vm."""
    named = os.environ.get("OVERLAYBD_VM_CACHE")
    return pathlib.Path(named) if named else pathlib.Path(__file__).parents[3] / "build" / "vm"


def build() -> RootImage:
    """The image, made now if it is not there."""
    folder = cache_folder() / _key()
    with _lock(cache_folder()):
        if not folder.exists():
            _make(folder)
    return RootImage(folder)


def _key() -> str:
    said = "\0".join([SUITE, KERNEL_HOOK, *PACKAGES, *BOOT_MODULES])
    return hashlib.sha256(f"{said}\0{IMAGE_BYTES}".encode()).hexdigest()[:12]


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: pathlib.Path) -> None:
    for program in NEEDED_PROGRAMS:
        if not shutil.which(program):
            raise errors.VmMissing(f"{program} is not installed; making the guest's disk needs it")
    if os.geteuid() != 0:
        raise errors.VmMissing("making the guest's disk needs root (once; running it does not)")
    started = time.monotonic()
    print("vm: making the guest's disk, once", file=sys.stderr)
    work = folder.with_name(folder.name + ".tmp")
    tree = work / "tree"
    shutil.rmtree(work, ignore_errors=True)
    (work / "boot" / "modules").mkdir(parents=True)
    _debian(tree, work)
    _take_kernel(tree, work)
    _take_boot_files(tree, work / "boot")
    _file_system(tree, work / "root.img")
    shutil.rmtree(tree)
    work.rename(folder)
    print(f"vm: made {folder} in {time.monotonic() - started:.0f} s", file=sys.stderr)


def _debian(tree: pathlib.Path, work: pathlib.Path) -> None:
    hook = work / "take-kernel"
    hook.write_text(KERNEL_HOOK)
    hook.chmod(0o755)
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in UNWANTED]
    command += ["--include=" + ",".join(PACKAGES)]
    command += [f"--customize-hook={hook}", SUITE, str(tree)]
    mirror = os.environ.get(MIRROR_ENVIRONMENT)
    _run(*command, *([mirror] if mirror else []))


def _take_kernel(tree: pathlib.Path, work: pathlib.Path) -> None:
    (kernel,) = (tree / "kernel" / "boot").glob("vmlinuz-*")
    (modules,) = (tree / "kernel").glob("**/lib/modules/*")
    version = kernel.name[len("vmlinuz-") :]
    (tree / "usr/lib/modules").mkdir(exist_ok=True)
    modules.rename(tree / "usr/lib/modules" / version)
    kernel.rename(work / "vmlinuz")
    shutil.rmtree(tree / "kernel")
    _run("chroot", str(tree), "depmod", "-a", version)
    (work / "boot" / "version").write_text(version)


def _take_boot_files(tree: pathlib.Path, boot: pathlib.Path) -> None:
    shutil.copy(tree / "usr/bin/busybox", boot / "busybox")
    version = (boot / "version").read_text()
    shown = subprocess.run(
        [
            "chroot",
            str(tree),
            "modprobe",
            "-S",
            version,
            "-a",
            "--show-depends",
            *BOOT_MODULES,
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    paths = [line.split()[1] for line in shown.splitlines() if line.startswith("insmod ")]
    for number, path in enumerate(dict.fromkeys(paths)):
        name = os.path.basename(path)
        shutil.copy(tree / path.lstrip("/"), boot / "modules" / f"{number:02}-{name}")


def _file_system(tree: pathlib.Path, image: pathlib.Path) -> None:
    (tree / "etc/hosts").write_text("127.0.0.1 localhost vm\n::1 localhost\n")
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    _run(
        "mkfs.ext4",
        "-q",
        "-F",
        "-m0",
        "-O",
        "^has_journal",
        "-d",
        str(tree),
        str(image),
    )


def _run(*command: str) -> None:
    # What these say goes to stderr: stdout belongs to whoever started us.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno())
    if done.returncode:
        raise errors.VmError(f"{command[0]} ended with status {done.returncode}")
