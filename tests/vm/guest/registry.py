# SPDX-License-Identifier: Apache-2.0
"""A registry on loopback in the guest: that of tests/support, which can be taken away and asked."""
import os

from support import fault_registry

REPOSITORY = "library/sample"

_registry = None
_digests = {}


def start(paths, delay_s=0.0):
    """Serves the files as blobs; what config.v1.json says of them: repoBlobUrl and lowers."""
    global _registry
    stop()
    _registry = fault_registry.FaultRegistry()
    _registry.delay(delay_s)
    lowers = []
    for path in paths:
        with open(path, "rb") as file:
            _digests[path] = _registry.put(file.read())
        lowers.append({"digest": _digests[path], "size": os.path.getsize(path)})
    return {"repoBlobUrl": _registry.repo_url(REPOSITORY), "lowers": lowers}


def stop():
    global _registry
    if _registry is not None:
        _registry.close()
        _registry = None
    _digests.clear()


def down():
    _registry.down()


def up():
    _registry.up()


def fetched():
    """Requests for blobs so far, their bytes, and whether any byte was asked for twice."""
    ranges = [one for digest in _digests.values() for one in _of(digest)]
    twice = any(_overlap(_of(digest)) for digest in _digests.values())
    return {"requests": len(ranges), "bytes": sum(count for _, count in ranges), "twice": twice}


def _of(digest):
    return sorted(_registry.ranges(digest))


def _overlap(ranges):
    return any(start + count > then for (start, count), (then, _) in zip(ranges, ranges[1:]))
