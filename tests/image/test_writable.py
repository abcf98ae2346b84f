# SPDX-License-Identifier: Apache-2.0
"""An image whose config names a writable layer: opened, written, refused, exported."""

import json
import os

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.image import config, opener
from overlaybd_tcmu.tools import export

from ..support import layers

CLUSTER = layers.CLUSTER


@pytest.fixture
def upper(tmp_path):
    """Makes the files of a writable layer; the config's words for them."""

    def make(size=0, sparse=False):
        words = {"data": str(tmp_path / "writable_data"), "index": str(tmp_path / "writable_index")}
        native.create_upper(words["data"], words["index"], size, sparse)
        return words

    return make


@pytest.fixture
def lower(tmp_path):
    layers.write_picture(tmp_path / "lower", "LLLL")
    return {"file": str(tmp_path / "lower")}


def opened(lowers, upper, **more):
    return opener.open_image(config.parse("c.json", {"lowers": lowers, "upper": upper}), **more)


def failure(lowers, upper):
    with pytest.raises(errors.ImageError) as caught:
        opened(lowers, upper)
    return str(caught.value)


@pytest.mark.parametrize("sparse", [False, True])
def test_written_and_opened_again(lower, upper, sparse):
    words = upper(sparse=sparse)
    with opened([lower], words) as image:
        assert image.info().writable == 1
        image.pwrite(b"U" * CLUSTER, CLUSTER)
    with opened([lower], words) as image:
        expected = bytearray(layers.view("LLLL"))
        expected[CLUSTER : 2 * CLUSTER] = b"U" * CLUSTER
        assert image.pread(len(expected), 0) == expected


def test_alone(upper):
    with opened([], upper(8 * CLUSTER)) as image:
        assert image.info().virtual_size == 8 * CLUSTER
        assert image.pread(8 * CLUSTER, 0) == bytes(8 * CLUSTER)


def test_half_named_is_none(lower, upper):
    words = upper()
    for missing in ("data", "index"):
        with opened([lower], {**words, missing: ""}) as image:
            assert image.info().writable == 0


def test_lost_file_is_named(lower, upper):
    words = upper()
    os.unlink(words["index"])
    text = f"failed to open upper: {words['index']}: No such file or directory"
    assert failure([lower], words).startswith(text)


def test_layer_in_use_is_told(lower, upper):
    words = upper()
    with opened([lower], words):
        assert "is in use by another process" in failure([lower], words)
    opened([lower], words).close()


def test_failure_of_a_lower_leaves_the_upper_alone(upper, tmp_path):
    words = upper(8 * CLUSTER)
    before = (tmp_path / "writable_index").read_bytes()
    (tmp_path / "bad").write_bytes(b"X" * 8192)
    assert failure([{"file": str(tmp_path / "bad")}], words).startswith("failed to open layer 0")
    assert (tmp_path / "writable_index").read_bytes() == before


def test_size_that_nobody_states(upper):
    assert "virtual_size: no layer of the image states one" in failure([], upper())


def test_what_was_dropped_is_in_the_log(lower, upper, caplog):
    words = upper(4 * CLUSTER)
    with opened([lower], words) as image:
        image.pwrite(b"U" * CLUSTER, 0)
    os.truncate(words["index"], os.stat(words["index"]).st_size + 100)
    with open(words["index"], "r+b") as file:
        file.seek(4096 + 16 + 16)
        file.write(bytes.fromhex("00000000000020000000010000000000"))  # data that never came
    with opened([lower], words):
        assert "entries no flush had confirmed were dropped" in caplog.text
        assert caplog.text.rstrip().endswith("count=1")


def test_export_shows_it_and_changes_nothing(lower, upper, tmp_path):
    words = upper()
    with opened([lower], words) as image:
        image.pwrite(b"U" * CLUSTER, CLUSTER)
        expected = image.pread(4 * CLUSTER, 0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "c.json").write_text(json.dumps({"lowers": [lower], "upper": words}))
    assert export.main([str(tmp_path / "c.json"), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_bytes() == expected
    assert {path: path.read_bytes() for path in before} == before
