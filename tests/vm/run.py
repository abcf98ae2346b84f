# SPDX-License-Identifier: Apache-2.0
"""
Serves a sample image lazily and shows it, step by step: "make run".

It is served as it would be on a host with TCMU: Debian's kernel and this checkout's daemon in a
virtual machine, the layers in a registry on loopback and nowhere else, the disk attached with the
snapshotter's own sequence. Nothing is left running.
"""
from __future__ import annotations

import pathlib
import random
import sys
import tempfile
import time

from . import fio, lazily, sample, session
from .harness import errors, machine

PLACE = "/mnt/sample"
IMAGE = "/root/sample"
FIO_S = 2.0
MIB = 1 << 20


def main() -> int:
    print("overlaybd-tcmu serves a sample image from this checkout, in a virtual machine\n")
    try:
        with tempfile.TemporaryDirectory(prefix="overlaybd-sample-") as folder:
            image = sample.build(pathlib.Path(folder), IMAGE)
            say(
                "image",
                f"{len(image.layers)} layers, lz4: {mib(image.stored_bytes)} hold",
            )
            say(
                "",
                f"{len(image.files)} files, {mib(image.file_bytes)}; disk {mib(image.size)}",
            )
            serve(image)
    except errors.VmError as error:
        print(f"run: {error}", file=sys.stderr)
        return 1
    print("\nEvery file had the right bytes; nothing is left running.")
    return 0


def serve(image: sample.Image) -> None:
    with machine.Machine() as vm:
        kernel = vm.run("uname -r").strip()
        say("machine", f"Linux {kernel} by {vm.accelerator}, up in {vm.boot_s:.1f} s")
        guest = session.Guest(vm)
        said = lazily.publish(guest, image, IMAGE)
        say("registry", f"{said['repoBlobUrl']}: the layers are here and nowhere else")
        started = guest.call("service.start")
        rss = guest.call("service.memory")["rss"]
        said = guest.call("service.run", ["--version"])["output"].strip()
        say(
            "daemon",
            f"{said}, ready after {started['seconds']:.2f} s, {mib(rss)} of memory",
        )
        disk = attach(guest)
        fetched(guest, image)
        read_one(guest, image)
        read_all(guest, image)
        read_without_registry(guest, image)
        measure(guest, disk)
        detach(guest)
        guest.call("registry.stop")
    say("machine", "powered off")


def attach(guest: session.Guest) -> str:
    attached = guest.call("disk.attach", 1, f"{IMAGE}/config.v1.json")
    disk: str = attached["disk"]
    queue = guest.call("kernel.queue", disk)
    size = int(queue["size"]) * 512
    mode = "read-only" if queue["ro"] == "1" else "writable"
    say("attach", f"dev_config=overlaybd/{IMAGE}/config.v1.json")
    say("", f"/dev/{disk} after {attached['attach_s']:.2f} s: {mib(size)}, {mode}")
    guest.call("mounts.mount", disk, PLACE)
    shown = guest.vm.run(["findmnt", "-no", "SOURCE,TARGET,FSTYPE,OPTIONS", PLACE])
    say("mount", " ".join(shown.split()))
    for line in guest.vm.run(["ls", "-lh", PLACE]).splitlines()[1:]:
        say("", "  " + line)
    return disk


def fetched(guest: session.Guest, image: sample.Image) -> None:
    """How little, so far."""
    found = guest.call("registry.fetched")
    if found["twice"]:
        raise errors.VmError(f"fetched twice: {found['twice']}")
    share = 100 * found["bytes"] / image.stored_bytes
    text = f"{mib(found['bytes'])} of {mib(image.stored_bytes)}, {share:.0f} %"
    say("", f"fetched by now: {text}, with {found['requests']} requests")


def read_one(guest: session.Guest, image: sample.Image) -> None:
    path = random.Random("one").choice(sorted(image.files))
    if guest.call("mounts.digest", f"{PLACE}/{path}") != image.files[path]:
        raise errors.VmError(f"wrong file: {path}")
    say("read", f"{path}, which has the right SHA-256")
    fetched(guest, image)


def read_all(guest: session.Guest, image: sample.Image) -> None:
    took_s = check_all(guest, image)
    rate = image.file_bytes / MIB / took_s
    files = f"{len(image.files)} files, {mib(image.file_bytes)}"
    say("", f"all {files} in {took_s:.2f} s ({rate:.0f} MiB/s)")
    say("", "every SHA-256 is that of the file which went into the image")
    fetched(guest, image)


def read_without_registry(guest: session.Guest, image: sample.Image) -> None:
    guest.call("registry.down")
    took_s = check_all(guest, image)
    say("cache", f"the registry is gone: all files once more in {took_s:.2f} s, all right")
    guest.call("registry.up")


def check_all(guest: session.Guest, image: sample.Image) -> float:
    """Every file against the digest it had before it went into the image; seconds of reading."""
    guest.call("mounts.drop_caches")
    started = time.monotonic()
    found = guest.call("mounts.digests", PLACE)
    took_s = time.monotonic() - started
    wrong = {path for path, digest in image.files.items() if found.get(path) != digest}
    if wrong or len(found) != len(image.files):
        raise errors.VmError(f"wrong files: {sorted(wrong)}; {len(found)} found in all")
    return took_s


def measure(guest: session.Guest, disk: str) -> None:
    label = "fio"
    for one in fio.measure_disk(guest, disk, FIO_S):
        rate, latency = one["bytes_per_s"] / MIB, one["latency_us"]
        figures = f"{one['iops']:8.0f} IOPS {rate:7.1f} MiB/s {latency:7.0f} us"
        say(label, f"{one['job']:27}{figures}")
        label = ""
    if guest.vm.accelerator == "tcg":
        say("", "(an emulated CPU: for real numbers, 'make bench' or a host with KVM)")


def detach(guest: session.Guest) -> None:
    guest.call("mounts.unmount", PLACE)
    started = time.monotonic()
    guest.call("disk.detach", 1)
    say("detach", f"unmounted and removed in {time.monotonic() - started:.2f} s")
    stopped = guest.call("service.stop")
    say(
        "stop",
        f"daemon ended with status {stopped['status']} in {stopped['seconds']:.2f} s",
    )


def say(step: str, what: str) -> None:
    print(f"  {step:9}{what}", flush=True)


def mib(count: int) -> str:
    return f"{count / MIB:.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
