# SPDX-License-Identifier: Apache-2.0
"""
The sample image out of a registry on loopback in the guest, and how many requests it costs to mount
it and read all its files.

The CPU is emulated, so nothing is timed here; requests are counted, each of which is a round trip
at most: those under way at once share one.
"""
from __future__ import annotations

import pathlib
import tempfile
from typing import Any, Dict

from . import sample, session
from .harness import errors, machine

DELAY_MS = 20
IMAGE = "/root/sample"
PLACE = "/mnt/sample"
UNIT = 256 << 10  # cacheConfig.refillSize, as shipped


def publish(
    guest: session.Guest, image: sample.Image, place: str, delay_s: float = 0
) -> Dict[str, Any]:
    """
    The layers into the registry, the image's configuration into the folder place, and nothing else
    there. Returns what the configuration says of the registry.
    """
    guest.vm.put(image.folder, place)
    paths = [f"{place}/{path.name}" for path in image.layers]
    said: Dict[str, Any] = guest.call("registry.start", paths, delay_s)
    guest.call("files.remove", place)
    config = {**said, "upper": {}, "resultFile": f"{place}/init-debug.log"}
    guest.call("files.write_json", f"{place}/config.v1.json", config)
    return said


def measure_start() -> Dict[str, Any]:
    """ours: requests; limit: the most there may be: each unit once, and each layer's size."""
    with tempfile.TemporaryDirectory(prefix="overlaybd-sample-") as folder:
        image = sample.build(pathlib.Path(folder), IMAGE)
        with machine.Machine() as vm:
            guest = session.Guest(vm)
            publish(guest, image, IMAGE, DELAY_MS / 1000)
            guest.call("service.start")
            disk = guest.call("disk.attach", 1, f"{IMAGE}/config.v1.json")["disk"]
            guest.call("mounts.mount", disk, PLACE)
            found = guest.call("mounts.digests", PLACE)
            fetched = guest.call("registry.fetched")
            guest.call("mounts.unmount", PLACE)
            guest.call("disk.detach", 1)
            guest.call("service.stop")
            guest.call("registry.stop")
        if found != image.files:
            raise errors.VmError("wrong files")
        bound = sum(-(-path.stat().st_size // UNIT) + 1 for path in image.layers)
    return {
        "what": f"mount and {len(found)} files",
        "delay_ms": DELAY_MS,
        "ours": fetched["requests"],
        "limit": bound,
        "ratio": fetched["requests"] / bound,
    }
