# SPDX-License-Identifier: Apache-2.0
"""
A registry, a cache, images that are only in the registry; and nothing left at the end. A disk that
is soon full.
"""

import os
import subprocess

import pytest

from ..support.lazy_service import disk, lazily, make, nothing_left, server  # noqa: F401


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB; needs root."""
    if os.geteuid():
        pytest.skip("mounting a file system needs root")
    path = tmp_path / "disk"
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "none", str(path)]
    if subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)
