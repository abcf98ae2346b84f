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
    """
    Requests for blobs so far, the bytes they brought, and which were asked for twice. A single byte
    does not count: that is how a blob is asked for its size.
    """
    ranges = {digest: sorted(_registry.ranges(digest)) for digest in _digests.values()}
    brought = [[one for one in each if one[1] > 1] for each in ranges.values()]
    return {
        "requests": sum(map(len, ranges.values())),
        "bytes": sum(count for each in brought for _, count in each),
        "twice": [pair for each in brought for pair in _overlaps(each)],
    }


def _overlaps(ranges):
    """Pairs of neighbours."""
    return [pair for pair in zip(ranges, ranges[1:]) if sum(pair[0]) > pair[1][0]]
