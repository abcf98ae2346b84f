# SPDX-License-Identifier: Apache-2.0
"""The calls about what is fetched and kept: each does what it says, and refuses what is not so."""

import json

import pytest

from ..native import lazy
from .conftest import read, until
from .test_api import checked

ABSENT = "sha256:" + "0" * 64


@pytest.fixture
def stream(rng):
    """An LSMT stream of some 2 MiB; every other 4 KiB of its disk are a hole."""
    return lazy.stream_of(rng, 8192)[1]


@pytest.fixture
def attached(daemon, server, stream):
    """The digest of a device's one layer, which is in a registry; the device has the id "id"."""
    daemon.start(cacheConfig=daemon.cache())
    config = daemon.lazy_image(server, stream)
    daemon.kernel = daemon.add(config, "id")
    return json.loads(config.read_text())["lowers"][0]["digest"]


@pytest.fixture
def whole(daemon, attached, stream):
    """As attached, and all of it is here: nothing is fetched any more."""
    assert post(daemon, "/v1/prefetch", {"device": "id"})[0] == 202
    until(lambda: daemon.get("/v1/cache")["used"] == len(stream))
    return attached


def put(daemon, path, document):
    return daemon.ask(path, "PUT", json.dumps(document).encode())


def post(daemon, path, document):
    return daemon.ask(path, "POST", json.dumps(document).encode())


# ---- the cache


def test_a_cache_nobody_has_needed_yet(daemon):
    daemon.start(cacheConfig=daemon.cache(cacheSizeGB=3))
    found = checked("cache", daemon.get("/v1/cache"))
    assert (found["size"], found["used"], found["blobs"]) == (3 << 30, 0, [])
    assert found["path"] == str(daemon.folder / "cache")


def test_what_was_read_is_in_the_cache(daemon, attached, stream):
    before = checked("cache", daemon.get("/v1/cache"))
    read(daemon.kernel, 4096)
    after = checked("cache", daemon.get("/v1/cache"))
    assert after["used"] > before["used"] > 0
    assert after["fetched"]["bytes"]["read"] > before["fetched"]["bytes"]["read"]


def test_its_blobs(daemon, whole, stream):
    (one,) = checked("cache", daemon.get("/v1/cache"))["blobs"]
    size = len(stream)
    assert one == {"digest": whole, "size": size, "used": size, "pinned": False, "open": True}
    assert daemon.get(f"/v1/cache/{whole}") == checked("blob", one)


def test_a_blob_that_no_image_has_open_is_still_there(daemon, attached):
    daemon.service.ask("remove 0")
    assert not checked("blob", daemon.get(f"/v1/cache/{attached}"))["open"]


def test_pin_and_unpin(daemon, attached):
    path = f"/v1/cache/{attached}"
    for pinned in (True, True, False):
        status, answer = put(daemon, path, {"pinned": pinned})
        assert status == 200 and checked("blob", answer)["pinned"] is pinned
        assert daemon.get("/v1/cache")["pinned"] == int(pinned)


def test_what_is_pinned_is_not_evicted(daemon, whole):
    put(daemon, f"/v1/cache/{whole}", {"pinned": True})
    assert post(daemon, "/v1/cache/evict", {"bytes": 1 << 30}) == (200, {"freed": 0})


def test_evict(daemon, whole):
    used = daemon.get("/v1/cache")["used"]
    status, answer = post(daemon, "/v1/cache/evict", {"bytes": 1 << 30})
    assert (status, checked("evicted", answer)) == (200, {"freed": used})
    after = daemon.get("/v1/cache")
    assert (after["used"], after["evicted"]) == (0, used)
    assert read(daemon.kernel).status == 0, "it is fetched again"


def test_remove(daemon, whole):
    used = daemon.get("/v1/cache")["used"]
    status, answer = daemon.ask(f"/v1/cache/{whole}", "DELETE")
    assert (status, checked("removed", answer)) == (200, {"digest": whole, "freed": used})
    assert daemon.get("/v1/cache")["used"] == 0
    assert read(daemon.kernel).status == 0


# ---- devices


def test_a_map_fills_as_an_image_is_read(daemon, attached, stream):
    before = checked("map", daemon.get("/v1/map?device=uio0&parts=8"))
    (layer,) = before["layers"]
    assert (layer["digest"], layer["size"], len(layer["parts"])) == (attached, len(stream), 8)
    assert layer["parts"][4] == 0 and layer["parts"][0] > 0
    read(daemon.kernel, 8192 * 9 // 16)
    after = checked("map", daemon.get("/v1/map?device=id&parts=8"))
    assert after["layers"][0]["parts"][4] > 0
    assert len(daemon.get("/v1/map?device=id")["layers"][0]["parts"]) == 256


def test_a_map_of_an_image_whose_layers_are_local(daemon):
    daemon.start()
    daemon.add(daemon.image())
    found = checked("map", daemon.get("/v1/map?device=uio0"))
    assert (found["layers"], found["local_layers"]) == ([], 1)


def test_prefetch_brings_the_whole_image(daemon, server, attached, stream):
    status, answer = post(daemon, "/v1/prefetch", {"device": "id"})
    assert status == 202 and checked("prefetch", answer)["missing"] > len(stream) // 2
    until(lambda: daemon.get("/v1/devices/uio0")["present_bytes"] == len(stream))
    found = checked("device", daemon.get("/v1/devices/uio0"))
    assert found["remote"]["layers"][0]["present"] == found["remote_bytes"] == len(stream)
    server.down()
    for lba in range(0, 8192, 512):
        assert read(daemon.kernel, lba).status == 0
    assert post(daemon, "/v1/prefetch", {"device": "id"})[1]["missing"] == 0


def test_a_device_may_go_while_it_is_prefetched(daemon, server, attached):
    server.delay(0.05)
    assert post(daemon, "/v1/prefetch", {"device": "id"})[0] == 202
    assert daemon.service.ask("remove 0") == "0"
    until(lambda: not daemon.get("/v1/cache")["blobs"][0]["open"])
    assert daemon.service.stop() == 0


# ---- what is refused

REFUSED = [
    ("POST", "/v1/cache", b"", 405),
    ("GET", "/v1/cache/evict", b"", 405),
    ("POST", "/v1/cache/evict", b"", 400),
    ("POST", "/v1/cache/evict", b'{"bytes": 0}', 400),
    ("POST", "/v1/cache/evict", b'{"bytes": "1"}', 400),
    ("POST", "/v1/cache/evict", b'{"bytes": 1, "x": 1}', 400),
    ("POST", f"/v1/cache/{ABSENT}", b"", 405),
    ("GET", f"/v1/cache/{ABSENT}", b"", 404),
    ("DELETE", f"/v1/cache/{ABSENT}", b"", 404),
    ("PUT", f"/v1/cache/{ABSENT}", b'{"pinned": true}', 404),
    ("GET", "/v1/cache/", b"", 404),
    ("DELETE", "/v1/cache/..%2f..%2fetc", b"", 404),
    ("GET", "/v1/map", b"", 404),
    ("GET", "/v1/map?device=uio7", b"", 404),
    ("GET", "/v1/map?device=uio0&parts=0", b"", 400),
    ("GET", "/v1/map?device=uio0&parts=4097", b"", 400),
    ("GET", "/v1/map?device=uio0&parts=-1", b"", 400),
    ("GET", "/v1/map?device=uio0&parts=99999999999999999999", b"", 400),
    ("POST", "/v1/map?device=uio0", b"", 405),
    ("GET", "/v1/prefetch", b"", 405),
    ("POST", "/v1/prefetch", b"{}", 400),
    ("POST", "/v1/prefetch", b'{"device": ""}', 400),
    ("POST", "/v1/prefetch", b'{"device": "uio7"}', 404),
    ("POST", "/v1/prefetch", b'{"device": "uio0"}', 409),
]


def test_what_is_refused(daemon):
    daemon.start(cacheConfig=daemon.cache())
    daemon.add(daemon.image())  # all local
    for method, path, body, expected in REFUSED:
        status, answer = daemon.ask(path, method, body)
        assert status == expected, (method, path, body, answer)
        checked("refusal", answer)


def test_a_pin_that_says_nothing(daemon, attached):
    for document in ({}, {"pinned": 1}, {"pinned": True, "x": 0}):
        assert put(daemon, f"/v1/cache/{attached}", document)[0] == 400


def test_a_pin_without_a_disk(daemon, server, stream):
    daemon.start(cacheConfig=daemon.cache(cacheDir=str(daemon.service.config_path / "x")))
    config = daemon.lazy_image(server, stream)
    daemon.add(config)
    digest = json.loads(config.read_text())["lowers"][0]["digest"]
    status, answer = put(daemon, f"/v1/cache/{digest}", {"pinned": True})
    assert status == 409 and "nothing is kept on disk" in checked("refusal", answer)["error"]
