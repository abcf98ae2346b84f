# SPDX-License-Identifier: Apache-2.0
"""
The log and the audit log: line format, levels, files that rotate.

    2026/11/24 08:30:00.123456|INFO |th=00007f1fd0a4c740|device.py:88|_serve:device ready name=...

Levels in files are 0 debug, 1 info, 2 warn, 3 error, 4 fatal. A file is looked up by its name
before each line: whoever moved it away (logrotate) gets a new one, and nothing has to be told.

One lock, logging's own per handler, guards a file; nothing else is taken while it is held.
"""

import logging
import os
import sys
import time
from typing import Dict, Optional, TextIO, Tuple

from . import errors, units

LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
AUDIT = logging.CRITICAL + 10  # no level silences it; its logger has a file of its own

MIN_SIZE = units.MiB
MAX_FILES = 30

_NAMES = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO ",
    logging.WARNING: "WARN ",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "FATAL",
    AUDIT: "AUDIT",
}


class Formatter(logging.Formatter):
    """One record, one line; only a traceback adds lines."""

    def format(self, record: logging.LogRecord) -> str:
        # Both fields come from the same reading of the clock.
        stamp = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(int(record.created)))
        micros = int(record.created * 1_000_000) % 1_000_000
        level = _NAMES.get(record.levelno, record.levelname)
        thread = f"th={record.thread or 0:016x}"
        place = f"{record.filename}:{record.lineno}|{record.funcName}"
        message = record.getMessage().replace("\n", "\\n")
        line = f"{stamp}.{micros:06d}|{level}|{thread}|{place}:{message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class RotatingFile(logging.Handler):
    """
    A file of at most `size` bytes and its predecessors path.1, path.2 ...: `files` in all.

    The first opening raises OSError; later trouble loses lines and is counted, never raised: a full
    disk must not stop a device.
    """

    def __init__(self, path: str, size: int, files: int) -> None:
        super().__init__()
        self.path = path
        self.lost = 0
        self.resize(size, files)
        self._file: Optional[TextIO] = None
        self._identity: Tuple[int, int] = (0, 0)
        self._size = 0
        self.setFormatter(Formatter())
        self._open()

    def resize(self, size: int, files: int) -> None:
        """Counts when the next line is written."""
        self._limit = max(size, MIN_SIZE)
        self._files = min(max(files, 1), MAX_FILES)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            count = len(line.encode("utf-8", "backslashreplace"))
            if self._moved():
                self._open()
            if self._size and self._size + count > self._limit:
                self._rotate()
            if self._file is None:
                self._open()
            assert self._file is not None
            self._file.write(line)
            self._file.flush()
            self._size += count
        except OSError:
            self.lost += 1

    def reopen(self) -> None:
        """Starts the file anew if it is gone; for whoever wants it before the next line."""
        self.acquire()
        try:
            self._open()
        except OSError:
            self.lost += 1
        finally:
            self.release()

    def close(self) -> None:
        self.acquire()
        try:
            self._close_file()
        finally:
            self.release()
        super().close()

    def _open(self) -> None:
        self._close_file()
        file = open(self.path, "a", encoding="utf-8", errors="backslashreplace")
        status = os.fstat(file.fileno())
        self._file, self._size = file, status.st_size
        self._identity = status.st_dev, status.st_ino

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError:  # what was buffered cannot be written: as lost as any other line
                self.lost += 1

    def _moved(self) -> bool:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    def _rotate(self) -> None:
        self._close_file()
        for number in range(self._files - 1, 0, -1):
            older = f"{self.path}.{number - 1}" if number > 1 else self.path
            try:
                os.replace(older, f"{self.path}.{number}")
            except FileNotFoundError:
                pass
        if self._files == 1:
            os.truncate(self.path, 0)
        self._open()


class RateLimit:
    """
    At most `burst` lines of one kind in `period_s` seconds; the rest are counted and told later.

    Used by one thread. Forgets everything when a period of more than `kinds` kinds ends, so that it
    stays small whatever the input.
    """

    def __init__(self, burst: int = 10, period_s: float = 10.0, kinds: int = 256) -> None:
        self._burst = burst
        self._period_s = period_s
        self._kinds = kinds
        self._counts: Dict[str, Tuple[float, int]] = {}

    def allow(self, kind: str, now: Optional[float] = None) -> Tuple[bool, int]:
        """Whether to write this line, and how many of its kind were left out before it."""
        now = time.monotonic() if now is None else now
        if kind not in self._counts and len(self._counts) >= self._kinds:
            self._counts.clear()
        since, count = self._counts.get(kind, (now, 0))
        skipped = 0
        if now - since >= self._period_s:
            skipped = max(0, count - self._burst)
            since, count = now, 0
        self._counts[kind] = since, count + 1
        return count < self._burst, skipped


def setup(level: int, path: str, size_mb: int = 10, files: int = 3) -> None:
    """Sends the log to a file, or to standard output when path is empty, and nowhere else."""
    handler: logging.Handler
    if path:
        try:
            handler = RotatingFile(path, size_mb * units.MiB, files)
        except OSError as error:
            reason = f"cannot be opened: {error.strerror}"
            raise errors.ConfigError(path, "logConfig.logPath", reason) from error
    else:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(Formatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    logging.captureWarnings(True)


def set_level(number: int) -> None:
    """From now on, until the next start; 0 to 4, as in LEVELS."""
    logging.getLogger().setLevel(LEVELS[number])


def resize(size_mb: int, files: int) -> None:
    """Of the log's file from now on, as in setup()."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RotatingFile):
            handler.resize(size_mb * units.MiB, files)


def level() -> int:
    """What set_level() or setup() said last."""
    return LEVELS.index(logging.getLogger().level)


def reopen() -> None:
    """Opens every log file by its name again (SIGHUP)."""
    for name in (None, "audit"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, RotatingFile):
                handler.reopen()
