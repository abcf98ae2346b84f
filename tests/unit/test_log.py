# SPDX-License-Identifier: Apache-2.0
"""Log lines, files that rotate and are moved away, the audit log, and lines that are held back."""

import logging
import os
import re

import pytest

from overlaybd_tcmu import audit, errors, log, units

PREFIX = (
    r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6}"
    r"\|(DEBUG|INFO |WARN |ERROR|FATAL|AUDIT)"
    r"\|th=[0-9a-f]{16}\|[\w.]+:\d+\|[\w<>]+:"
)


@pytest.fixture
def root():
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    logger.handlers.clear()
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def file(tmp_path):
    handlers = []

    def make(name="x.log", size=units.MiB, files=3):
        handlers.append(log.RotatingFile(str(tmp_path / name), size, files))
        return handlers[-1]

    yield make
    for handler in handlers:
        handler.close()


def record(message, level=logging.INFO):
    return logging.LogRecord("t", level, "/x/file.py", 12, message, (), None, "func")


def test_line_has_all_fields(root, tmp_path):
    log.setup(0, str(tmp_path / "x.log"))
    logging.getLogger("any").info("hello %s", "you")
    line = (tmp_path / "x.log").read_text()
    assert re.fullmatch(PREFIX + r"hello you\n", line)
    assert "|INFO |" in line and "|test_log.py:" in line and "|test_line_has_all_fields:" in line


@pytest.mark.parametrize(
    "number, written",
    [
        (0, ["DEBUG", "INFO ", "WARN ", "ERROR", "FATAL"]),
        (1, ["INFO ", "WARN ", "ERROR", "FATAL"]),
        (2, ["WARN ", "ERROR", "FATAL"]),
        (3, ["ERROR", "FATAL"]),
        (4, ["FATAL"]),
    ],
)
def test_level_numbers(root, tmp_path, number, written):
    log.setup(number, str(tmp_path / "x.log"))
    for level in log.LEVELS:
        logging.getLogger("any").log(level, "x")
    lines = (tmp_path / "x.log").read_text().splitlines()
    assert [line.split("|")[1] for line in lines] == written


def test_seconds_and_microseconds_are_of_one_moment():
    one = record("x")
    one.created = 1700000000.9999996
    assert log.Formatter().format(one)[17:26] in ("20.999999", "21.000000")


def test_message_stays_on_one_line_whatever_a_path_contains():
    assert log.Formatter().format(record("a\nb")).endswith(":a\\nb")


def test_traceback_follows_its_line():
    try:
        raise ValueError("why")
    except ValueError as error:
        one = record("failed")
        one.exc_info = (ValueError, error, error.__traceback__)
    lines = log.Formatter().format(one).splitlines()
    assert lines[0].endswith(":failed")
    assert lines[-1] == "ValueError: why"


def test_empty_path_is_standard_output(root, capsys):
    log.setup(1, "")
    logging.getLogger("any").warning("seen")
    assert capsys.readouterr().out.endswith(":seen\n")


def test_log_that_cannot_be_opened_names_the_key(root, tmp_path):
    with pytest.raises(errors.ConfigError, match="logConfig.logPath: cannot be opened: No such"):
        log.setup(1, str(tmp_path / "none" / "x.log"))


def test_full_file_makes_room_and_the_total_is_kept(file, tmp_path):
    handler = file(size=0, files=3)
    for number in range(45):
        handler.emit(record(f"{number} " + "x" * 100000))
    assert sorted(os.listdir(tmp_path)) == ["x.log", "x.log.1", "x.log.2"]
    sizes = [os.stat(tmp_path / name).st_size for name in os.listdir(tmp_path)]
    assert max(sizes) <= units.MiB < max(sizes) + 100100
    assert ":44 x" in (tmp_path / "x.log").read_text()
    assert ":39 x" in (tmp_path / "x.log.1").read_text()


def test_one_file_in_all_starts_over(file, tmp_path):
    handler = file(files=1)
    for number in range(12):
        handler.emit(record(f"{number} " + "x" * 100000))
    assert os.listdir(tmp_path) == ["x.log"]
    assert (tmp_path / "x.log").read_text().count("\n") == 2


def test_number_of_files_is_capped(file, tmp_path):
    handler = file(files=1000)
    (tmp_path / "x.log.29").write_text("oldest")
    for _ in range(35):
        handler.emit(record("x" * units.MiB))
    assert len(os.listdir(tmp_path)) == 30


def test_earlier_content_is_kept_and_counts(file, tmp_path):
    (tmp_path / "x.log").write_text("y" * units.MiB)
    file().emit(record("new"))
    assert (tmp_path / "x.log.1").stat().st_size == units.MiB
    assert (tmp_path / "x.log").read_text().endswith(":new\n")


def test_file_moved_away_is_replaced_at_the_next_line(file, tmp_path):
    handler = file()
    handler.emit(record("before"))
    os.rename(tmp_path / "x.log", tmp_path / "moved")
    handler.emit(record("after"))
    assert (tmp_path / "moved").read_text().endswith(":before\n")
    assert (tmp_path / "x.log").read_text().endswith(":after\n")


def test_reopen_makes_the_file_at_once(root, tmp_path):
    log.setup(1, str(tmp_path / "x.log"))
    os.rename(tmp_path / "x.log", tmp_path / "moved")
    log.reopen()
    assert (tmp_path / "x.log").exists()


def test_trouble_loses_lines_and_heals(file, tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    handler = file("d/x.log")
    os.rename(folder, tmp_path / "away")
    handler.emit(record("lost"))
    assert handler.lost == 1
    os.rename(tmp_path / "away", folder)
    handler.emit(record("back"))
    assert (folder / "x.log").read_text().endswith(":back\n")


def test_bytes_that_are_no_text_are_written_escaped(file, tmp_path):
    file().emit(record(os.fsdecode(b"/p\xff")))
    assert (tmp_path / "x.log").read_text().endswith(":/p\\udcff\n")


def test_audit_line(tmp_path):
    audit.setup(str(tmp_path / "audit.log"))
    audit.record("file:pread", "/layer", 4096, 512, 12345)
    audit.close()
    line = (tmp_path / "audit.log").read_text()
    expected = r"file:pread\[pathname=/layer\]\[offset=4096\]\[size=512\]\[latency=12345\]\n"
    assert re.fullmatch(PREFIX + expected, line)
    assert "|AUDIT|" in line


@pytest.mark.parametrize("path", ["", "/none/audit.log"])
def test_audit_that_is_off_writes_nowhere(path, root, tmp_path, caplog):
    audit.setup(path)
    audit.record("file:pread", "/layer", 0, 512, 1)
    warnings = [one.getMessage() for one in caplog.records]
    assert warnings == (
        ["audit log is off path=/none/audit.log error=No such file or directory"] if path else []
    )


def test_repeated_lines_are_held_back_and_counted():
    limit = log.RateLimit(burst=2, period_s=10)
    assert [limit.allow("a", now) for now in (0, 1, 2, 3)] == [
        (True, 0),
        (True, 0),
        (False, 0),
        (False, 0),
    ]
    assert limit.allow("b", 3) == (True, 0)
    assert limit.allow("a", 10) == (True, 2)


def test_rate_limit_stays_small():
    limit = log.RateLimit(kinds=4)
    for number in range(100):
        assert limit.allow(str(number), 0) == (True, 0)
    assert len(limit._counts) <= 4
