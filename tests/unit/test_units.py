# SPDX-License-Identifier: Apache-2.0
"""Sizes for people."""

import pytest

from overlaybd_tcmu import units


@pytest.mark.parametrize(
    "count, text",
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * units.KiB, "1.5 MiB"),
        (64 * units.GiB, "64.0 GiB"),
        (5 * units.TiB, "5.0 TiB"),
        (5000 * units.TiB, "5000.0 TiB"),
    ],
)
def test_human_size(count, text):
    assert units.human_size(count) == text
