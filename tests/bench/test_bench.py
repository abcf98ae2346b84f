# SPDX-License-Identifier: Apache-2.0
"""The benchmark lives: every row runs for a moment, reads the right bytes, is in the table."""

import json

import pytest

from . import bench, probe, table


@pytest.fixture(scope="module")
def result():
    return bench.measure(probe.BRIEF)


def test_every_row_is_there(result):
    # A wrong byte ends the probe, and with it measure().
    assert len(result["reads"]) == len(list(bench.reads()))
    assert len(result["lookups"]) == len(list(bench.lookups()))
    assert all(row["ours"] > 0 and row["limit"] > 0 for row in result["reads"] + result["lookups"])


def test_result_survives_json(result):
    assert json.loads(json.dumps(result)) == result


def test_table_shows_what_was_measured(result):
    text = table.markdown(result)
    for name in probe.FORMATS:
        assert f"| 1 × {name} |" in text and f"| {probe.LAYERS_MAX} × {name} |" in text
    row = result["reads"][0]
    assert f"{row['ours'] / 1e3:.0f}k / {row['limit'] / 1e3:.0f}k **{row['ratio']:.2f}**" in text


def test_table_replaces_the_old_one_and_nothing_else(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.replace(readme, "new")
    assert readme.read_text() == f"before\n{table.BEGIN}\n\nnew\n\n{table.END}\nafter\n"


def test_table_without_a_place_is_an_error(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")
    with pytest.raises(ValueError, match="bench:start"):
        table.replace(readme, "new")


def test_probe_notices_a_wrong_byte(result, tmp_path):
    """The check of the check: a disk whose data is not what the layers hold."""
    disk = probe.Disk(probe.BRIEF.disk_size)
    wrong = bytearray(disk.data.read_bytes())
    wrong[:] = bytes(byte ^ 1 for byte in wrong)
    disk.data = tmp_path / "data"
    disk.data.write_bytes(wrong)
    row = probe.Read("lz4-4k", 1, "random", 4096, 1, 1)
    with pytest.raises(probe.ProbeError, match="wrong byte"):
        probe.run_read(row, disk, probe.BRIEF)
