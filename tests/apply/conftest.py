# SPDX-License-Identifier: Apache-2.0
import os
import pathlib
import tempfile

import pytest

from . import disk

MEMORY = "/dev/shm"


@pytest.fixture
def tmp_path():
    """In memory where there is such a place: each apply waits until its bytes are on the disk."""
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="apply-", dir=place) as folder:
        yield pathlib.Path(folder)


@pytest.fixture
def image(tmp_path):
    """A fresh file system of 32 MiB; e2fsck looks at it when the test is done."""
    made = disk.Image(tmp_path / "disk").mkfs()
    yield made
    made.check()
