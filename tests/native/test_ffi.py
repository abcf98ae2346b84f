# SPDX-License-Identifier: Apache-2.0
"""Handles: closed once, useless afterwards, handed on, missed when lost."""

import gc
import warnings

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import core, native

from ..support import layers


@pytest.fixture
def path(tmp_path):
    layers.write_picture(tmp_path / "layer", "AB-C")
    return str(tmp_path / "layer")


def test_blob_that_cannot_be_opened_names_path_and_errno(tmp_path):
    with pytest.raises(errors.NativeError, match="none.*No such file") as caught:
        native.Blob(str(tmp_path / "none"))
    assert caught.value.errno == 2


def test_closing_twice_is_harmless(path):
    blob = native.Blob(path)
    blob.close()
    blob.close()
    assert blob.closed


def test_use_after_close_is_refused(path):
    with native.Image([native.Layer.open(path)]) as image:
        pass
    for use in (image.info, image.stats, lambda: image.pread(1, 0), lambda: image.next_data(0)):
        with pytest.raises(ValueError, match="Image is closed"):
            use()


def test_layer_takes_its_blob_over(path):
    blob = native.Blob(path)
    with native.Layer(blob) as layer:
        assert blob.closed and not layer.closed


def test_layer_that_cannot_be_opened_closes_its_blob(tmp_path):
    (tmp_path / "bad").write_bytes(b"X" * 8192)
    blob = native.Blob(str(tmp_path / "bad"))
    with pytest.raises(errors.NativeError):
        native.Layer(blob)
    assert blob.closed


def test_image_takes_its_layers_over(path):
    layer = native.Layer.open(path)
    with native.Image([layer]):
        assert layer.closed


def test_image_of_no_layers_is_refused():
    with pytest.raises(errors.NativeError):
        native.Image([])


def test_closed_layer_makes_no_image(path):
    good, closed = native.Layer.open(path), native.Layer.open(path)
    closed.close()
    with good, pytest.raises(ValueError, match="Layer is closed"):
        native.Image([good, closed])


def test_lost_handle_is_missed(path):
    with pytest.warns(ResourceWarning, match="Blob was never closed"):
        blob = native.Blob(path)
        address = blob.address
        del blob
        gc.collect()
    core.library().blob_close(address)


def test_closed_handle_is_not_missed(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        native.Blob(path).close()
        gc.collect()


def test_reading_into_a_buffer_fills_exactly_it(path):
    with native.Image([native.Layer.open(path)]) as image:
        expected = image.pread(512, 0)
        buffer = bytearray(b"x" * 600)
        assert image.pread_into(memoryview(buffer)[40:552], 0) == 512
    assert buffer == b"x" * 40 + expected + b"x" * 48


def test_reading_into_what_cannot_be_written_is_refused(path):
    with native.Image([native.Layer.open(path)]) as image:
        with pytest.raises(TypeError):
            image.pread_into(b"constant", 0)
        with pytest.raises(ValueError, match="negative offset"):
            image.pread(1, -1)


def test_events_end_when_stopped():
    with native.Events() as events:
        assert events.next(timeout_ms=0) is None
        events.stop()
        with pytest.raises(EOFError):
            events.next()


def test_build_says_what_it_chose():
    assert "=" in native.build_info()
