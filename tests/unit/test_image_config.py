# SPDX-License-Identifier: Apache-2.0
"""config.v1.json: every shape the snapshotter writes, and complaints that name file and field."""

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.image import config

REMOTE = {
    "repoBlobUrl": "https://registry.example/v2/r/blobs",
    "lowers": [
        {"digest": "sha256:aa", "size": 46912000, "dir": "/R/1/fs"},
        {"digest": "sha256:bb", "size": 623616, "dir": "/R/2/fs"},
    ],
    "upper": {},
    "resultFile": "/R/2/block/init-debug.log",
}


def parsed(document):
    return config.parse("c.json", document)


def test_remote_layers_as_the_snapshotter_writes_them():
    image = parsed(REMOTE)
    assert image.path == "c.json"
    assert image.repo_blob_url == "https://registry.example/v2/r/blobs"
    assert image.result_file == "/R/2/block/init-debug.log"
    assert image.lowers[0] == config.LowerConfig(digest="sha256:aa", size=46912000, dir="/R/1/fs")
    assert [lower.digest for lower in image.data_lowers] == ["sha256:aa", "sha256:bb"]
    assert not image.upper.is_used


def test_writable_layer():
    upper = {"index": "/w/i", "data": "/w/d", "vsize": 64}
    image = parsed({"lowers": [], "upper": upper})
    assert image.upper == config.UpperConfig(index="/w/i", data="/w/d", vsize_gb=64)
    assert image.upper.is_used


def test_turbo_layer():
    lower = {
        "gzipIndex": "/f/gzip.meta",
        "file": "/f/ext4.fs.meta",
        "targetDigest": "sha256:cc",
        "targetFile": "/f/layer.tar",
    }
    (one,) = parsed({"lowers": [lower]}).lowers
    assert one.is_turbo
    assert (one.gzip_index, one.target_digest, one.target_file) == (
        "/f/gzip.meta",
        "sha256:cc",
        "/f/layer.tar",
    )


def test_acceleration_layer_holds_no_data():
    lowers = [{"file": "/a"}, {"dir": "/trace"}]
    image = parsed({"lowers": lowers, "accelerationLayer": True})
    assert [lower.file for lower in image.data_lowers] == ["/a"]


def test_unknown_keys_are_ignored():
    image = parsed({"lowers": [{"file": "/a", "new": 1}], "later": {"x": []}})
    assert image.lowers == (config.LowerConfig(file="/a"),)


def test_download_of_an_image():
    image = parsed({"lowers": [{"file": "/a"}], "download": {"enable": True, "delay": 5}})
    assert (image.download.enable, image.download.delay_s) == (True, 5)


def test_as_many_layers_as_the_format_has_numbers_for():
    assert len(parsed({"lowers": [{"file": "/a"}] * 255}).lowers) == 255
    with pytest.raises(errors.ConfigError, match="c.json: lowers: has 256 entries, at most 255"):
        parsed({"lowers": [{"file": "/a"}] * 256})


@pytest.mark.parametrize(
    "document, complaint",
    [
        ({}, "lowers: no layers"),
        ({"lowers": [], "upper": {}}, "lowers: no layers"),
        ({"lowers": [], "upper": {"index": "/i"}}, "lowers: no layers"),
        ({"lowers": [{"dir": "/t"}], "accelerationLayer": True}, "lowers: no layers"),
        ({"lowers": {}}, "lowers: must be an array, not {}"),
        ({"lowers": [1]}, "lowers[0]: must be an object, not 1"),
        ({"lowers": [{}, {"file": 1}]}, "lowers[1].file: must be a string, not 1"),
        ({"lowers": [{"dir": None}]}, "lowers[0].dir: must be a string, not null"),
        ({"lowers": [{"digest": []}]}, "lowers[0].digest: must be a string"),
        ({"lowers": [{"size": "1"}]}, 'lowers[0].size: must be an integer, not "1"'),
        ({"lowers": [{"size": -1}]}, "lowers[0].size: must be at least 0, not -1"),
        ({"lowers": [{"file": "a\0b"}]}, "lowers[0].file: has an impossible value"),
        ({"upper": {"index": 1}}, "upper.index: must be a string"),
        ({"upper": []}, "upper: must be an object"),
        ({"repoBlobUrl": 1}, "repoBlobUrl: must be a string"),
        ({"resultFile": 1}, "resultFile: must be a string"),
        ({"accelerationLayer": 1}, "accelerationLayer: must be a boolean"),
        ({"recordTracePath": 1}, "recordTracePath: must be a string"),
        ({"download": {"delay": "1"}}, "download.delay: must be an integer"),
        (
            {"lowers": [{}, {}], "accelerationLayer": True, "recordTracePath": "/t"},
            "recordTracePath: excludes accelerationLayer",
        ),
    ],
)
def test_wrong_document_names_file_and_field(document, complaint):
    with pytest.raises(errors.ConfigError) as caught:
        parsed(document)
    assert str(caught.value).startswith(f"c.json: {complaint}")


@pytest.mark.parametrize(
    "document, path",
    [
        ({"resultFile": "/r", "lowers": 1}, "/r"),
        ({"resultFile": 1}, ""),
        ({"resultFile": "a\0b"}, ""),
        ({}, ""),
    ],
)
def test_result_file_of_a_wrong_document(document, path):
    assert config.result_file_of(document) == path
