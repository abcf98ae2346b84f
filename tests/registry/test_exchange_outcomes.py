# SPDX-License-Identifier: Apache-2.0
"""Whatever a server does: a range the core asks for comes to what an ordinary one does."""

import contextlib

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.registry import client

from ..support import fault_registry
from .asking import FIRST, PART, RANGE, Asking, Cache, Ordinary
from .conftest import Clock

HURT = {
    "nothing": {},
    "401": dict(status=401),
    "403": dict(status=403),
    "403 for ever": dict(status=403, times=None),
    "404": dict(status=404),
    "404 for ever, and says why": dict(
        status=404, body=b'{"errors":[{"code":"BLOB_UNKNOWN"}]}', times=None
    ),
    "416": dict(status=416, headers={"Content-Range": "bytes */300000"}),
    "418": dict(status=418),
    "429": dict(status=429, headers={"Retry-After": "7"}),
    "429 without more": dict(status=429),
    "500": dict(status=500),
    "500, long": dict(status=500, body=bytes(200_000)),
    "503": dict(status=503),
    "503 with a pause": dict(status=503, headers={"Retry-After": "7"}),
    "200": dict(ignore_range=True),
    "204": dict(status=204, length=-1),
    "shifted": dict(shift=4096),
    "other range": dict(content_range="bytes 0-4095/300000"),
    "other total": dict(content_range="bytes 65536-262143/300001"),
    "no total": dict(content_range="bytes 65536-262143/*"),
    "no range": dict(content_range=""),
    "chunked": dict(chunked=True),
    "chunked and cut": dict(chunked=True, cut_after=PART + 5),
    "chunked and too much": dict(chunked=True, body=bytes(3 * PART + 1)),
    "no length": dict(length=-1, last=True),
    "length too small": dict(length=3 * PART - 1),
    "length too large": dict(length=3 * PART + 1),
    "two lengths": dict(headers={"content-length": "5"}),
    "too much": dict(length=3 * PART, body=bytes(3 * PART + 100)),
    "closed": dict(close=True),
    "closed for ever": dict(close=True, times=None),
    "cut before the body": dict(cut_after=0),
    "cut": dict(cut_after=PART + 5),
    "cut at a part's end": dict(cut_after=PART),
    "closed afterwards": dict(last=True),
    "says that it closes": dict(headers={"Connection": "close"}, last=True),
    "says that it closes, and cut": dict(headers={"Connection": "close"}, cut_after=PART + 5),
    "says that it keeps": dict(headers={"Connection": "keep-alive"}),
    "compressed": dict(headers={"Content-Encoding": "gzip"}),
    "not compressed": dict(headers={"Content-Encoding": "identity"}),
    "other digest": dict(headers={"Docker-Content-Digest": "sha256:" + 64 * "0"}),
    "other digest as Etag": dict(headers={"Etag": f'"sha256:{64 * "0"}"'}),
    "replaced": dict(headers={"Etag": '"other"'}),
    "replaced again and again": dict(headers={"Etag": '"other"'}, times=None),
    "weak Etag": dict(headers={"Etag": 'W/"other"'}),
    "redirect to nowhere": dict(status=307, times=None),
    "continued line": dict(headers={"X": "y\r\n z"}),
    "no header": dict(headers={"X": "y\r\nnonsense"}),
    "long header": dict(headers={"X": 70_000 * "y"}),
    "slow head": dict(delay_s=60, times=None),
    "slow body": dict(stall_after=0, times=None),
    "slower and slower": dict(stall_after=PART + 5, times=None),
}


def arm(server, how):
    if how:
        server.fault(**how)


SCENES = {name: lambda server, how=how: arm(server, how) for name, how in HURT.items()}
SCENES["token revoked"] = lambda server: server.revoke()
SCENES["redirect appears"] = lambda server: server.redirect()
SCENES["redirect appears, and the store refuses"] = lambda server: (
    server.redirect(),
    server.fault(on="store", status=403, times=None),
)
SCENES["connections were closed"] = lambda server: server.registry.break_connections()


def seen(server):
    """The requests so far, without what differs each time."""
    return [
        (kind, one.method, one.range, sorted(one.headers), one.status)
        for kind in server.kinds
        for one in server.requests(kind)
    ]


def told(cache, one, kind):
    """(bytes, or what is said of their lack), and how often they were asked for directly."""
    into = cache.sink(kind, *RANGE)
    try:
        one.read(*RANGE, into)
    except errors.RegistryError as error:
        return (error.kind, error.temporary, error.retry_after_s), into.asked
    return cache.content(*RANGE), into.asked


def outcome(made, folder, data, scene, kind):
    """What a range asked for in this way comes to; and the next one, when all is well again."""
    clock = Clock()
    with fault_registry.FaultRegistry() as server:
        digest = server.put(data)
        server.require_bearer({}, anonymous=True)
        one = made.blob(server.repo_url(), digest, registry=made.registry(clock))
        with contextlib.closing(Cache(folder, digest, len(data))) as cache:
            cache.take(one, *FIRST, kind)
            server.clear()
            scene(server)
            result, asked = told(cache, one, kind)
            requests = seen(server)
            server.heal()
            clock.time += 10  # a pause is over
            again = told(cache, one, kind)[0]
            one.close()
            return asked, (result, requests, again, server.registry.connections()[0])


@pytest.mark.parametrize("name", SCENES)
def test_outcome_is_that_of_an_ordinary_request(made, tmp_path, data, name, monkeypatch):
    monkeypatch.setattr(client, "READ_S", 0.3)
    ordinary = outcome(made, tmp_path / "ordinary", data, SCENES[name], Ordinary)
    direct = outcome(made, tmp_path / "direct", data, SCENES[name], Asking)
    assert (ordinary[0], direct[0] > 0) == (0, True)
    assert direct[1] == ordinary[1]
