# SPDX-License-Identifier: Apache-2.0
"""Images of a registry: a layer they share, and one that each has alone."""
import hashlib

from guest import files, reads, registry, service

CHUNK_BYTES = 1 << 20


def start(folder, shared, own, delay_s):
    """
    Serves the layers from a registry that answers late; configs[i] is that of shared and own[i].
    """
    remote = registry.start([shared, *own], delay_s)
    base, *tops = remote["lowers"]
    configs = []
    for number, top in enumerate(tops, start=1):
        place = f"{folder}/{number}"
        lowers = [dict(lower, dir=place) for lower in (base, top)]
        config = {"repoBlobUrl": remote["repoBlobUrl"], "lowers": lowers, "upper": {}}
        configs.append(f"{place}/config.v1.json")
        files.write_json(configs[-1], dict(config, resultFile=f"{place}/init-debug.log"))
    return configs


def opened_at_once():
    """How many images at most were being opened at the same moment, by the service's log."""
    opening = most = 0
    for line in service.log().splitlines():
        opening += "dev open name=" in line
        opening -= "dev opened name=" in line
        most = max(most, opening)
    return most


def digest(disk):
    """Of the whole disk, around the page cache."""
    found = hashlib.sha256()
    with reads.DirectDisk(disk) as source:
        for offset in range(0, source.size, CHUNK_BYTES):
            found.update(source.read(offset, min(CHUNK_BYTES, source.size - offset)))
    return found.hexdigest()
