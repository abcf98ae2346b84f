# SPDX-License-Identifier: Apache-2.0
"""overlaybd-create: files as the original makes them, both or none."""

import json
import re

import pytest

from overlaybd_tcmu import units
from overlaybd_tcmu.formats import lsmt

DONE = "overlaybd-create has created files SUCCESSFULLY\n"
PARENT = "0123abcd-4567-89ab-cdef-0123456789ab"


def header_of(path):
    with open(path, "rb") as file:
        return lsmt.Record.parse(file.read(lsmt.RECORD_SIZE))


def size_of(path):
    return path.stat().st_size


def test_append_only_layer(succeeds, tmp_path):
    assert succeeds("create", "data", "index", "64", "-u", PARENT) == DONE
    data, index = header_of(tmp_path / "data"), header_of(tmp_path / "index")
    assert (size_of(tmp_path / "data"), size_of(tmp_path / "index")) == (4096, 4096)
    assert (data.flags, index.flags, index.index_offset) == (3, 1, 4096)
    assert data.virtual_size == index.virtual_size == 64 * units.GiB
    assert data.uuid == index.uuid != ""
    assert data.parent_uuid == index.parent_uuid == PARENT.upper()


def test_uuid_is_another_each_time(succeeds, tmp_path):
    succeeds("create", "data0", "index0", "0")
    succeeds("create", "data1", "index1", "0")
    assert header_of(tmp_path / "data0").uuid != header_of(tmp_path / "data1").uuid


def test_layer_that_inherits_its_size(succeeds, tmp_path):
    succeeds("create", "data", "index", "0")
    assert header_of(tmp_path / "data").virtual_size == 0


def test_sparse_layer(succeeds, tmp_path):
    assert succeeds("create", "data", "index", "2", "-s") == DONE
    assert (size_of(tmp_path / "data"), size_of(tmp_path / "index")) == (2 * units.GiB + 4096, 0)
    assert header_of(tmp_path / "data").flags == 0x13
    assert (tmp_path / "data").stat().st_blocks * 512 <= 64 * units.KiB


@pytest.mark.parametrize("name", ["--turboOCI", "--fastoci"])
def test_turbo_layer(succeeds, tmp_path, name):
    # As the convertor says it: the number is the third argument, not a value of -s.
    assert succeeds("create", "data", "index", "-s", "3", name) == DONE
    assert size_of(tmp_path / "data") == 3 * units.GiB
    assert (tmp_path / "data").stat().st_blocks == 0
    header = header_of(tmp_path / "index")
    assert (header.flags, header.index_offset, size_of(tmp_path / "index")) == (1, 4096, 4096)
    assert header.virtual_size == 3 * units.GiB


def test_plain_disk(succeeds, tmp_path):
    assert succeeds("create", "--raw", "data", "index", "1") == DONE
    assert (size_of(tmp_path / "data"), size_of(tmp_path / "index")) == (units.GiB, 0)
    assert (tmp_path / "data").stat().st_blocks == 0


@pytest.mark.parametrize("options", [[], ["-s"], ["--turboOCI"], ["--raw"], ["-s", "--mkfs"]])
@pytest.mark.parametrize("taken", ["data", "index"])
def test_nothing_is_replaced(fails, tmp_path, options, taken):
    (tmp_path / taken).write_text("precious")
    line = fails(255, "create", "data", "index", "1", *options)
    assert line == f"failed to open file '{taken}', 17: File exists"
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "precious"


@pytest.mark.parametrize("options", [[], ["--mkfs"], ["--mkfs", "--raw"]])
def test_folder_that_is_missing(fails, options):
    line = fails(255, "create", "none/data", "none/index", "1", *options)
    assert re.search(r"none/(data|index)\b(?!\.)", line) and "No such file or directory" in line


def test_size_that_no_disk_can_have(fails, tmp_path):
    for size in (1 << 29) + 1, 1 << 34, 1 << 70:
        line = fails(105, "create", "data", "index", size)
        assert line.startswith(f"vsize: {size} GB are more than 536870912")
    assert list(tmp_path.iterdir()) == []


def test_parent_that_is_no_uuid_is_ignored_aloud(tool, tmp_path):
    done = tool("create", "-u", "mother" * 20, "data", "index", "1")
    assert (done.returncode, done.stdout) == (0, DONE)
    assert done.stderr.startswith("WARNING -u 'mother")
    assert header_of(tmp_path / "data").parent_uuid == ""


def test_new_layer_is_written_over_others(succeeds, tmp_path):
    succeeds("create", "data", "index", "1")
    upper = {"data": str(tmp_path / "data"), "index": str(tmp_path / "index")}
    (tmp_path / "config.json").write_text(json.dumps({"lowers": [], "upper": upper}))
    succeeds("merge", "config.json", "out")
    succeeds("zfile", "-x", "out", "plain")
    assert size_of(tmp_path / "plain") == 2 * lsmt.RECORD_SIZE
