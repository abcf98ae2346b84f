# SPDX-License-Identifier: Apache-2.0
"""What is remembered of a blob on disk, and that a damaged memory is none."""

import json
import os
import zlib

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.cache import record

DIGEST = "sha256:" + "ab" * 32
GRANULE = record.GRANULE


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "one.sums")


@pytest.fixture
def made(path):
    one = record.Record.create(path, DIGEST, 100 * GRANULE + 1)
    yield one
    one.close()


def reopened(path):
    one = record.Record.open(path)
    try:
        return one.digest, one.size, set(one.sources), one.sums(0, 8 * GRANULE)
    finally:
        one.close()


def test_new_record_knows_nothing(made, path):
    assert reopened(path) == (DIGEST, 100 * GRANULE + 1, set(), [0] * 8)


def test_sums_come_back(made, path):
    made.write(2 * GRANULE, [7, 8, 9])
    made.write(6 * GRANULE, [0xFFFFFFFF])
    assert reopened(path)[3] == [0, 0, 7, 8, 9, 0, 0xFFFFFFFF, 0]


def test_cleared_sums_are_gone(made, path):
    made.write(0, range(1, 9))
    made.clear(2 * GRANULE, 3 * GRANULE)
    assert reopened(path)[3] == [1, 2, 0, 0, 0, 6, 7, 8]


def test_clearing_writes_nothing_where_nothing_is(made, path):
    made.write(0, [1])
    made.clear(0, 100 * GRANULE + 1)
    assert os.path.getsize(path) == record.HEAD + 4


def test_sources_are_remembered(made, path):
    made.add_source("https://r/v2/x/blobs")
    made.add_source("https://r/v2/y/blobs")
    assert reopened(path)[2] == {"https://r/v2/x/blobs", "https://r/v2/y/blobs"}


def test_more_sources_than_fit_are_not_remembered(made, path):
    made.add_source("a")
    made.add_source("b" * 5000)
    assert reopened(path)[2] == {"a"}


def test_nothing_is_left_of_a_creation_that_failed(tmp_path):
    with pytest.raises(OSError):
        record.Record.create(str(tmp_path / "none" / "one.sums"), DIGEST, 1)
    (tmp_path / "one.sums").mkdir()
    with pytest.raises(OSError):
        record.Record.create(str(tmp_path / "one.sums"), DIGEST, 1)
    assert os.listdir(tmp_path) == ["one.sums"]


def packed(text):
    head = b"OBDCACHE" + len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little")
    return (head + text).ljust(record.HEAD, b"\0")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"OBDCACHE",
        bytes(record.HEAD),
        packed(b"{}"),
        packed(b"[]"),
        packed(json.dumps({"digest": DIGEST, "size": -1, "sources": []}).encode()),
        packed(json.dumps({"digest": DIGEST, "size": 1 << 63, "sources": []}).encode()),
        packed(b'{"digest": "x", "size": 1, "sources": []}')[:-1],
        packed(b'{"digest": "x", "size": 1, "sources": []}').replace(b'"x"', b'"y"'),
        packed(b"x").replace((1).to_bytes(4, "little"), (5000).to_bytes(4, "little"), 1),
        packed(b'{"digest": "x", "size": 1, "sources": 5}'),
        packed(b'{"digest": "x", "size": 1, "sources": [5]}'),
        packed(b"not json"),
    ],
)
def test_damaged_head_is_refused(path, content):
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(errors.FormatError, match="one.sums"):
        record.Record.open(path)


def test_link_and_fifo_are_refused(tmp_path):
    (tmp_path / "link").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError):
        record.Record.open(str(tmp_path / "link"))
    with pytest.raises((OSError, errors.FormatError)):
        record.Record.open(str(tmp_path / "fifo"))
