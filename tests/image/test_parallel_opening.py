# SPDX-License-Identifier: Apache-2.0
"""Layers are opened side by side: one slow file does not add to the next one's time."""

import os
import threading

import pytest

from overlaybd_tcmu.image import config, opener

from ..support import layers, slowfs

LAYERS = 3
PATIENCE_S = 10.0  # passes only when the test fails


@pytest.fixture
def slow(tmp_path):
    """Layers on file systems that answer no read until they are released."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse here")
    files = []
    for number in range(LAYERS):
        (tmp_path / f"slow{number}").mkdir()
        layers.write_picture(tmp_path / f"layer{number}", "-" * number + "A")
        paths = tmp_path / f"layer{number}", tmp_path / f"slow{number}"
        files.append(slowfs.SlowFile(*paths, hold=1000, patience_s=PATIENCE_S))
        files[-1].__enter__()
    yield files
    for file in files:
        file.__exit__()


def test_every_layer_is_read_before_any_read_is_answered(slow):
    image_config = config.parse("c.json", {"lowers": [{"file": file.path} for file in slow]})
    opened = []
    thread = threading.Thread(target=lambda: opened.append(opener.open_image(image_config)))
    thread.start()
    for file in slow:
        file.asked.wait(PATIENCE_S)
    asked = [file.pending_max for file in slow]
    for file in slow:
        file.release()
    thread.join()
    with opened[0] as image:
        assert image.pread(image.info().virtual_size, 0) == layers.view("A" * LAYERS)
    assert all(asked)
    assert [file.given_up for file in slow] == [0] * LAYERS
