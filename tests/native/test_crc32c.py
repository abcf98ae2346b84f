# SPDX-License-Identifier: Apache-2.0
"""
Every version gives the same bits as a few lines of Python. A version the environment demands is
used, or the process ends.
"""

import errno
import os
import signal
import subprocess
import sys

import pytest

from ..support import native_test
from . import raw_layers as raw


def versions():
    for version in range(9):
        try:
            native_test.crc32c(version, b"", 0)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
        else:
            yield version


VERSIONS = list(versions())


@pytest.mark.parametrize("version", VERSIONS)
def test_check_values(version):
    assert native_test.crc32c(version, b"123456789", 0) == 0x58E3FA20
    assert native_test.crc32c(version, b"123456789", 100007) == 0x3C9BD4E0


def test_plain_version_is_right(rng):
    for count in list(range(20)) + [1000, 4096]:
        data, seed = rng.randbytes(count), rng.getrandbits(32)
        assert native_test.crc32c(0, data, seed) == raw.crc32c(data, seed)


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_fast_version_equals_the_plain_one(version, rng):
    counts = list(range(700)) + [rng.randrange(100_000) for _ in range(50)]
    counts += [6144 + around for around in range(-30, 200)]  # where stripes are longest
    for count in counts:
        data, seed = rng.randbytes(count), rng.getrandbits(32)
        assert native_test.crc32c(version, data, seed) == native_test.crc32c(0, data, seed)


def chosen(demand):
    code = "from overlaybd_tcmu.ffi import native; print(native.build_info())"
    environment = {**os.environ, "OVERLAYBD_CRC32C": demand}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_plain_version_can_be_demanded():
    assert "crc32c=plain" in chosen("plain").stdout


def test_version_that_does_not_exist_is_not_replaced_by_another():
    result = chosen("abacus")
    assert result.returncode == -signal.SIGABRT
    assert "OVERLAYBD_CRC32C demands 'abacus'" in result.stderr
