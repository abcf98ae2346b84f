# SPDX-License-Identifier: Apache-2.0
"""From config.v1.json to an image: what is taken for a layer, what is told when that fails."""

import errno
import json
import os

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.image import config, opener

from ..support import layers

CLUSTER = layers.CLUSTER


@pytest.fixture
def layer(tmp_path):
    """Writes a layer given as a picture; its path."""

    def write(picture, name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        layers.write_picture(path, picture)
        return str(path)

    return write


def image_of(*lowers, **more):
    return config.parse("c.json", {"lowers": list(lowers), **more})


def opened(*lowers, **more):
    return opener.open_image(image_of(*lowers, **more))


def failure(*lowers, **more):
    with pytest.raises(errors.ImageError) as caught:
        opened(*lowers, **more)
    return str(caught.value)


def picture_of(image):
    """What the image shows, a character a cluster: its first byte, '0' for zeros."""
    count = image.info().virtual_size // CLUSTER
    first = [image.pread(1, number * CLUSTER) for number in range(count)]
    return "".join("0" if byte == b"\0" else byte.decode() for byte in first)


def test_layers_are_stacked_in_their_order(layer):
    lower, upper = layer("AAA-", "lower"), layer("-B--", "upper")
    with opened({"file": lower}, {"file": upper}) as image:
        assert picture_of(image) == "ABA0"
        assert image.info().layers == 2


@pytest.mark.parametrize("names", [opener.LAYER_NAMES[start:] for start in range(3)])
def test_folder_is_searched_in_order(layer, tmp_path, names):
    for letter, name in zip("ABC", names):
        layer(letter, f"fs/{name}")
    with opened({"dir": str(tmp_path / "fs")}) as image:
        assert picture_of(image) == "A"


def test_file_comes_before_folder(layer, tmp_path):
    layer("B", "fs/overlaybd.commit")
    with opened({"file": layer("A", "one"), "dir": str(tmp_path / "fs")}) as image:
        assert picture_of(image) == "A"


def test_lost_file_is_looked_for_in_the_folder(layer, tmp_path):
    layer("B", "fs/.commit")
    with opened({"file": "/none", "dir": str(tmp_path / "fs")}) as image:
        assert picture_of(image) == "B"


def test_local_file_of_a_remote_layer_needs_no_registry(layer, tmp_path):
    layer("A", "fs/overlaybd.commit")
    lower = {"digest": "sha256:aa", "size": 1, "dir": str(tmp_path / "fs")}
    with opened(lower, repoBlobUrl="https://registry.example/v2/r/blobs") as image:
        assert picture_of(image) == "A"


def test_relative_path_is_relative_to_the_process(layer, tmp_path, monkeypatch):
    layer("A", "one")
    monkeypatch.chdir(tmp_path)
    with opened({"file": "one"}) as image:
        assert picture_of(image) == "A"


def test_acceleration_layer_is_left_out(layer):
    with opened({"file": layer("A", "one")}, {"dir": "/none"}, accelerationLayer=True) as image:
        assert picture_of(image) == "A"


def test_hundred_layers(layer):
    lowers = [{"file": layer("-" * number + "A", f"l{number}")} for number in range(100)]
    with opened(*lowers) as image:
        assert picture_of(image) == "A" * 100


@pytest.mark.parametrize(
    "lower, more, reason",
    [
        ({"digest": "sha256:aa"}, {}, "empty repoBlobUrl"),
        ({"digest": "sha256:aa", "dir": "/none"}, {}, "empty repoBlobUrl"),
        ({"file": "/none"}, {}, "empty repoBlobUrl: layer 0: no such file: /none"),
        ({}, {}, "empty repoBlobUrl: layer 0: neither file nor dir nor digest"),
        (
            {"digest": "sha256:aa"},
            {"repoBlobUrl": "https://r"},
            "failed to open remote file /https://r/sha256:aa: Invalid argument: there is nothing",
        ),
        ({}, {"repoBlobUrl": "https://r"}, "failed to open layer 0: neither a local file nor"),
        ({"targetFile": "/t"}, {}, "turboOCI layers are not supported yet: layer 0"),
        ({"targetDigest": "sha256:aa"}, {}, "turboOCI layers are not supported yet: layer 0"),
        (
            {"file": "/none"},
            {"upper": {"index": "/i", "data": "/d", "target": "/t"}},
            "turboOCI layers are not supported yet: upper",
        ),
    ],
)
def test_layer_that_cannot_be_had(lower, more, reason):
    assert failure(lower, **more).startswith(reason)


def test_folder_in_place_of_a_layer_is_named(tmp_path):
    assert failure({"file": str(tmp_path)}).startswith(f"failed to open local file {tmp_path}: ")


def test_layer_that_is_none_is_numbered(layer, tmp_path):
    bad = tmp_path / "bad"
    bad.write_bytes(b"X" * 8192)
    reason = failure({"file": layer("A", "good")}, {"file": str(bad)})
    assert reason.startswith("failed to open layer 1: ")
    assert str(bad) in reason


def test_lowest_of_several_failing_layers_is_told(layer, tmp_path):
    lowers = [{"file": layer("A", f"l{number}")} for number in range(60)]
    for number in (20, 21, 40, 59):
        (tmp_path / f"l{number}").write_bytes(b"X" * 8192)
    assert failure(*lowers).startswith("failed to open layer 20: ")


def test_failure_leaves_nothing_open(layer, tmp_path):
    lowers = [{"file": layer("A", f"l{number}")} for number in range(20)]
    (tmp_path / "l10").write_bytes(b"X" * 8192)
    before = len(os.listdir("/proc/self/fd"))
    failure(*lowers)
    assert len(os.listdir("/proc/self/fd")) == before


# ---- resultFile


@pytest.fixture
def result(tmp_path):
    return tmp_path / "result"


def open_with_result(tmp_path, document):
    path = tmp_path / "config.v1.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    opener.open_with_result(str(path), opener.open_image).close()


def test_result_of_success(tmp_path, layer, result):
    result.write_text("something longer that was there before")
    document = {"lowers": [{"file": layer("A", "one")}], "resultFile": str(result)}
    open_with_result(tmp_path, document)
    assert result.read_bytes() == b"success"


def test_result_of_failure(tmp_path, result):
    document = {"lowers": [{"digest": "sha256:aa"}], "resultFile": str(result)}
    with pytest.raises(errors.ImageError):
        open_with_result(tmp_path, document)
    assert result.read_bytes() == b"failed:empty repoBlobUrl"


def test_result_of_a_wrong_document(tmp_path, result):
    with pytest.raises(errors.ConfigError):
        open_with_result(tmp_path, {"lowers": [{"file": 1}], "resultFile": str(result)})
    assert result.read_text() == "failed:lowers[0].file: must be a string, not 1"


def test_result_is_one_line(tmp_path, result):
    document = {"lowers": [{"file": "/none/a\nb"}], "resultFile": str(result)}
    with pytest.raises(errors.ImageError):
        open_with_result(tmp_path, document)
    assert "\n" not in result.read_text()


def test_result_of_no_document_is_written_nowhere(tmp_path):
    with pytest.raises(errors.ConfigError):
        open_with_result(tmp_path, "{")
    assert os.listdir(tmp_path) == ["config.v1.json"]


@pytest.mark.parametrize("path", ["", "/none/folder/result"])
def test_result_that_cannot_be_written_does_not_fail_the_image(tmp_path, layer, path, caplog):
    document = {"lowers": [{"file": layer("A", "one")}], "resultFile": path}
    open_with_result(tmp_path, document)
    (record,) = [one for one in caplog.records if one.name == "image.result"]
    assert ("no resultFile configured" in record.message) == (path == "")
    assert not os.path.exists("/none")


def test_failure_told_for_a_configuration(tmp_path, result):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"resultFile": str(result)}))
    opener.tell_failure(str(path), errors.ImageError("duplicated dev id: 7"))
    assert result.read_text() == "failed:duplicated dev id: 7"


def test_failure_told_for_no_configuration_is_silent():
    opener.tell_failure("/none/c.json", errors.ImageError("duplicated dev id: 7"))


def test_missing_document_is_a_configuration_error(tmp_path):
    with pytest.raises(errors.ConfigError) as caught:
        opener.open_with_result(str(tmp_path / "none"), opener.open_image)
    assert os.strerror(errno.ENOENT) in str(caught.value)
