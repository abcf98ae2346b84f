# SPDX-License-Identifier: Apache-2.0
"""The benchmark lives: every row runs for a moment, reads the right bytes, is in the table."""

import json
import math

import pytest

from . import applying, bench, lazy, probe, table


@pytest.fixture(scope="module")
def result():
    return bench.measure(probe.BRIEF)


def test_every_row_is_there(result):
    # A wrong byte ends the probe, and with it measure().
    assert len(result["reads"]) == len(list(bench.reads()))
    assert len(result["lookups"]) == len(list(bench.lookups()))
    assert len(result["appends"]) == len(list(bench.appends()))
    assert len(result["commits"]) == len(list(bench.commits()))
    for row in result["reads"] + result["lookups"] + result["appends"] + result["commits"]:
        numbers = [row["ours"], row["limit"], row["ratio"], row["cpu_ratio"], *row["ratios"]]
        assert all(math.isfinite(number) and number > 0 for number in numbers), row


def test_a_hit_allocates_nothing(result):
    assert [row for row in result["reads"] if row["allocations"]] == []


def test_rounds_with_a_busy_machine_are_left_out(tmp_path, monkeypatch):
    """Two bare threads did no more than one: somebody else had the other CPU."""
    free = {"limit": 10.0, "limit_threads": 20.0, "ours": 18.0}
    busy = {"limit": 10.0, "limit_threads": 10.0, "ours": 9.0}
    rounds = [{**one, "limit_cpu": 10.0, "ours_cpu": 9.0} for one in [free, busy, busy, free, free]]
    fake = tmp_path / "probe"
    lines = "\n".join(json.dumps(one) for one in rounds)
    fake.write_text(f"#!/bin/sh\ncat <<END\n{lines}\nEND\n")
    fake.chmod(0o755)
    monkeypatch.setattr(probe, "PROBE", fake)
    row = probe.Read("plain", 1, "random", 4096, 32, 2)
    outcome = probe.run_read(row, probe.Disk(probe.BRIEF.disk_size), probe.BRIEF)
    assert (outcome.undisturbed, outcome.ratio, outcome.cpu_ratio) == (3, 1.8, 0.9)


def test_applying_a_layer_is_measured_or_it_is_said_why(result):
    pace = probe.BRIEF
    try:
        outcome = applying.run(applying.rows(pace)[0], pace)
    except applying.Missing as error:
        pytest.skip(str(error))
    assert outcome.ours > 0 and outcome.limit >= outcome.extra["synced"] > 0
    assert len(result["applies"]) == 1
    assert "beside `tar -x`" in table.markdown(result)


def test_lazily_served_images_are_measured(result):
    rows = {(row["what"], row["delay_ms"]): row for row in result["lazy"]}
    assert {("first", delay) for delay in lazy.DELAYS_MS} < set(rows)
    assert all(math.isfinite(row["ratio"]) and row["ratio"] > 0 for row in rows.values())
    assert rows["random", 0]["ratio"] == 1  # nothing was fetched twice
    assert rows["open, 10 layers", 0]["ours"] > 0
    mount = {"what": "mount and 51 files", "delay_ms": 20, "ours": 20, "limit": 40, "ratio": 0.5}
    text = table.markdown({**result, "lazy": result["lazy"] + [mount]})
    assert "| in order, cold | 50 ms |" in text and "**1.00** times each" in text
    assert "| open, 10 layers, cached |" in text
    assert "| mount and 51 files | 20 ms | 20 requests | 40 at most | **0.50** |" in text


def test_result_survives_json(result):
    assert json.loads(json.dumps(result)) == result


def test_table_shows_what_was_measured(result):
    text = table.markdown(result)
    for name in probe.FORMATS:
        assert f"| 1 × {name} |" in text and f"| {probe.LAYERS_MAX} × {name} |" in text
    for row in result["appends"]:
        ours, limit = row["ours"] / 1e3, row["limit"] / 1e3
        assert f"| {ours:.1f} | {limit:.1f} | **{row['ratio']:.2f}**" in text
    row = result["reads"][0]
    cell = f"{row['ours'] / 1e3:.0f}k / {row['limit'] / 1e3:.0f}k **{row['ratio']:.2f}**"
    assert f" {cell}{table.DISTURBED} " in text  # two rounds are no median


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
