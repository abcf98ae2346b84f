# SPDX-License-Identifier: Apache-2.0
"""What may be a layer file and what may not: no path makes opening wait or crash."""

import errno
import os
import socket

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native

from . import raw_layers as raw


def refusal(path, direct=False):
    with pytest.raises(errors.NativeError, match=f"^{path}: ") as caught:
        native.Blob(str(path), direct).close()
    return caught.value.code


def test_what_is_not_there(tmp_path):
    assert refusal(tmp_path / "none") == errno.ENOENT
    assert refusal(tmp_path / "none", direct=True) == errno.ENOENT


def test_folder(tmp_path):
    assert refusal(tmp_path) == errno.EISDIR


def test_fifo_without_writer(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert refusal(tmp_path / "fifo") == errno.EINVAL


def test_socket(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        assert refusal(tmp_path / "socket") == errno.ENXIO


def test_character_device():
    assert refusal("/dev/zero") == errno.EINVAL


def test_loop_of_links(tmp_path):
    (tmp_path / "link").symlink_to("link")
    assert refusal(tmp_path / "link") == errno.ELOOP


def test_direct_descriptor_is_what_the_file_system_has(tmp_path):
    path = tmp_path / "layer"
    path.write_bytes(raw.lsmt(bytes(512), raw.entry(0, 1, 8)))
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
        possible = 1
    except OSError:
        possible = 0
    for direct, expected in ((False, 0), (True, possible)):
        with native.Layer(native.Blob(str(path), direct)) as layer:
            assert layer.info().direct == expected


def test_file_that_shrinks_while_open_is_an_error(tmp_path):
    path = tmp_path / "layer"
    path.write_bytes(raw.lsmt(bytes(512), raw.entry(0, 1, 8)))
    with native.Blob(str(path)) as blob:
        os.truncate(path, 4096)
        with pytest.raises(errors.NativeError, match="reading the LSMT trailer") as caught:
            native.Layer(blob)
    assert caught.value.code == errno.EIO
