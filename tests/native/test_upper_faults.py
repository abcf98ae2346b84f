# SPDX-License-Identifier: Apache-2.0
"""Disks that refuse: the cases are in support/disk_faults.py, each runs in a process of its own."""

import inspect
import subprocess

import pytest

from ..support import disk_faults, disk_log

CASES = [
    name
    for name, function in vars(disk_faults).items()
    if inspect.isfunction(function) and list(inspect.signature(function).parameters) == ["folder"]
]


@pytest.mark.parametrize("case", CASES)
def test_refusal(tmp_path, case):
    process = disk_log.start(
        "tests.support.disk_faults",
        tmp_path,
        case,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
