# SPDX-License-Identifier: Apache-2.0
"""overlaybd-ctl about what is fetched and kept, as its users run it."""

import json

import pytest

from overlaybd_tcmu.tools import ctl, reports

from ..native import lazy
from .conftest import read, until
from .test_ctl import machine, run  # noqa: F401  fixtures


@pytest.fixture
def digest(daemon, server, rng):
    """Of the one layer of the device "id", which is in a registry."""
    daemon.start(cacheConfig=daemon.cache())
    config = daemon.lazy_image(server, lazy.stream_of(rng, 4096)[1])
    daemon.kernel = daemon.add(config, "id")
    return json.loads(config.read_text())["lowers"][0]["digest"]


def test_cache(daemon, digest, run, machine):  # noqa: F811
    status, lines = run("cache")
    assert status == ctl.EXIT_OK
    assert lines[0] == f"folder    {daemon.folder / 'cache'}"
    assert "failures  none" in lines
    assert lines[-1].endswith(f"open  {digest}")
    assert machine("cache")[1]["blobs"][0]["digest"] == digest


def test_map_and_prefetch(daemon, digest, run):  # noqa: F811
    status, lines = run("map", "id")
    assert status == ctl.EXIT_OK
    assert lines[1].endswith(digest) and "#" in lines[1] and " " * 40 in lines[1]
    assert lines[2] == "0 more layers are local files"
    status, (line,) = run("prefetch", "id")
    assert status == ctl.EXIT_OK and line.endswith("are being fetched")
    full = f"|{'#' * reports.MAP_WIDTH}|"
    assert until(lambda: run("map", "uio0")[1][1].startswith(full))


def test_evict_pin_unpin_and_remove(digest, run):  # noqa: F811
    assert "pinned" in run("pin", digest)[1][0]
    assert run("evict", "1T") == (ctl.EXIT_OK, ["0 B given back"])
    assert "pinned" not in run("unpin", digest)[1][0]
    status, (line,) = run("evict", "1000000")
    assert status == ctl.EXIT_OK and not line.startswith("0 B")
    assert run("remove", digest)[0] == ctl.EXIT_OK


def test_explain_says_what_waits_for_a_registry(daemon, digest, run):  # noqa: F811
    read(daemon.kernel, 2048)
    status, lines = run("explain", "id")
    assert status == ctl.EXIT_OK
    assert any(line.split()[:2] == ["wait", "1"] for line in lines)
    assert any("1 times a read waited for the registry." in line for line in lines)


def test_a_blob_there_is_not(daemon, run):  # noqa: F811
    daemon.start(cacheConfig=daemon.cache())
    for command in ("pin", "unpin", "remove"):
        status, (line,) = run(command, "sha256:0")
        assert (status, line) == (1, "overlaybd-ctl: sha256:0: nothing of such a blob is here")


@pytest.mark.parametrize("size", ["", "0", "-1", "1X", "G", "1.5G"])
def test_a_size_that_is_none(daemon, run, size):  # noqa: F811
    with pytest.raises(SystemExit) as ended:
        run("evict", size)
    assert ended.value.code == ctl.EXIT_CONFIG


@pytest.mark.parametrize(
    "part, shade", [(0, " "), (0.001, "."), (0.5, ":"), (0.999, "*"), (1, "#")]
)
def test_shades(part, shade):
    document = {"layers": [{"parts": [part], "size": 1, "digest": "d"}], "local_layers": 0}
    assert reports.image_map(document)[1].startswith(f"|{shade}|")
