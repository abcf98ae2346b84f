# SPDX-License-Identifier: Apache-2.0
"""What the tests of lazily fetched layers start from."""

import random

import pytest

from . import lazy
from .asking import ends, file  # noqa: F401


@pytest.fixture
def origin(tmp_path):
    with lazy.Origin(tmp_path) as one:
        yield one


@pytest.fixture(scope="session")
def disk(seed):
    """(virtual disk, LSMT stream)"""
    return lazy.stream_of(random.Random(seed), lazy.SECTORS)
