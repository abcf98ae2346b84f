# SPDX-License-Identifier: Apache-2.0
"""overlaybd-merge beside the golden files: layers that only a registry has, and what it refuses."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import commit, lsmt, zfile

from ..native import lazy
from ..support import fault_registry, layers
from .conftest import ROOT


@pytest.fixture
def server():
    with fault_registry.FaultRegistry() as one:
        yield one


@pytest.fixture
def image(tmp_path):
    """Writes an image's configuration; its path."""

    def write(*lowers, **more):
        path = tmp_path / "config.v1.json"
        path.write_text(json.dumps({"lowers": list(lowers), **more}))
        return path

    return write


@pytest.fixture
def service(tmp_path):
    """A service configuration with a cache of this test's."""
    path = tmp_path / "overlaybd.json"
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache"), "refillSize": 65536}
    document = {"cacheConfig": cache, "credentialConfig": {"mode": "file"}}
    path.write_text(json.dumps(document))
    return path


def view_of(path):
    with native.Image([native.Layer.open(str(path))]) as merged:
        return merged.pread(merged.info().virtual_size, 0)


@pytest.mark.parametrize("kind", ["raw", "lz4"])
def test_layers_of_a_registry_are_fetched(succeeds, server, image, service, tmp_path, rng, kind):
    disk, stream = lazy.stream_of(rng, lazy.SECTORS)
    digest = server.put(lazy.wrapped(kind, stream))
    layers.write_picture(tmp_path / "top", "A-B".ljust(len(disk) // layers.CLUSTER, "-"))
    config = image(
        {"digest": digest}, {"file": str(tmp_path / "top")}, repoBlobUrl=server.repo_url()
    )
    # There need be no bundle of certificates.
    without = {"SSL_CERT_FILE": "/none", "SSL_CERT_DIR": "/none"}
    succeeds("merge", "--service_config_path", service, config, "out", env=without)
    expected = bytearray(disk)
    for letter, number in ("A", 0), ("B", 2):
        at = number * layers.CLUSTER
        expected[at : at + layers.CLUSTER] = layers.cluster(letter, number)
    assert (view_of(tmp_path / "out") == expected) is True


def test_registry_that_falls_silent_can_be_given_up(server, image, service, tmp_path):
    stream = lazy.stream_of(random.Random(1), lazy.SECTORS)[1]
    digest = server.put(lazy.wrapped("lz4", stream))
    config = image({"digest": digest}, repoBlobUrl=server.repo_url())
    command = [sys.executable, "-m", "overlaybd_tcmu.tools.merge"]
    command += ["--service_config_path", service, config, tmp_path / "out"]
    server.fault(times=None, skip=6, status=503)
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        while len(server.requests()) <= 6:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)[1]
    assert process.returncode == 130
    assert b"answered 503" in said and said.endswith(b"\noverlaybd-merge: stopped\n")
    assert not (tmp_path / "out").exists()


def test_existing_output_is_replaced(succeeds, image, tmp_path):
    layers.write_picture(tmp_path / "layer", "AB")
    (tmp_path / "out").write_text("an older one")
    succeeds("merge", image({"file": str(tmp_path / "layer")}), "out")
    assert view_of(tmp_path / "out") == layers.view("AB")


def test_merged_layer_in_a_tar(succeeds, image, tmp_path):
    layers.write_picture(tmp_path / "layer", "AB")
    succeeds("merge", "-t", image({"file": str(tmp_path / "layer")}), "out")
    with native.Layer.open(str(tmp_path / "out")) as merged:
        assert (merged.info().tar, merged.info().zfile) == (1, zfile.LZ4)
    assert view_of(tmp_path / "out") == layers.view("AB")


def test_size_is_that_of_the_topmost_layer_that_has_one(succeeds, image, tmp_path):
    layers.write_picture(tmp_path / "sized", "AB")
    plain = commit.assemble(b"", b"", lsmt.Record(0))
    (tmp_path / "unsized").write_bytes(plain)
    lowers = [{"file": str(tmp_path / name)} for name in ("sized", "unsized")]
    succeeds("merge", image(*lowers), "out")
    assert view_of(tmp_path / "out") == layers.view("AB")


def test_output_is_needed(fails, image, tmp_path):
    layers.write_picture(tmp_path / "layer", "AB")
    line = fails(255, "merge", image({"file": str(tmp_path / "layer")}))
    assert line.startswith("failed to create output file")


@pytest.mark.parametrize(
    "lowers, complaint",
    [
        ([{"file": "/none"}], "empty repoBlobUrl: layer 0: no such file: /none"),
        ([{"file": "/dev/null"}], "failed to open"),
        ([], "no layers"),
    ],
)
def test_image_that_cannot_be_opened(fails, image, tmp_path, lowers, complaint):
    assert complaint in fails(255, "merge", image(*lowers), "out")
    assert not (tmp_path / "out").exists()


def test_named_service_configuration_must_be_there(fails, image, tmp_path):
    layers.write_picture(tmp_path / "layer", "AB")
    config = image({"file": str(tmp_path / "layer")})
    line = fails(255, "merge", "--service_config_path", "none.json", config, "out")
    assert "none.json: cannot be read" in line
