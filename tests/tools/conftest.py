# SPDX-License-Identifier: Apache-2.0
"""The programs as programs, and the golden writable layer."""

import contextlib
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from overlaybd_tcmu.formats import lsmt

from ..support import golden

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMEOUT_S = 60
SECTOR = 512


@pytest.fixture
def tool(tmp_path):
    """Runs a program in tmp_path; text comes back as text."""

    def run(name, *arguments, **options):
        command = [sys.executable, "-m", f"overlaybd_tcmu.tools.{name}", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
        options = {"capture_output": True, "text": True, "timeout": TIMEOUT_S, **options}
        return subprocess.run(command, check=False, cwd=tmp_path, env=environment, **options)

    return run


@pytest.fixture
def succeeds(tool):
    """
    Runs a program that has nothing to complain about; what it says on standard output. On stderr
    those that could upload have a line for the digest.
    """

    def run(name, *arguments, **options):
        done = tool(name, *arguments, **options)
        could_upload = name == "merge" or (name == "commit" and "--seal" not in arguments)
        said = "\n" if could_upload else ""
        if options.get("text") is False:
            said = said.encode()
        assert (done.returncode, done.stderr) == (0, said)
        return done.stdout

    return run


@pytest.fixture
def fails(tool):
    """Runs a program that fails with one line on stderr; that line, without the program's name."""

    def run(status, name, *arguments, **options):
        done = tool(name, *arguments, **options)
        assert done.returncode == status
        prefix, _, line = done.stderr.partition(": ")
        assert prefix == f"overlaybd-{name}"
        assert line.count("\n") == 1 and line.endswith("\n")
        return line[:-1]

    return run


@contextlib.contextmanager
def piped(data, step):
    """A pipe that data comes out of, step bytes at a time."""

    def write():
        with open(writer, "wb", buffering=0) as pipe, contextlib.suppress(BrokenPipeError):
            for at in range(0, len(data), step):
                pipe.write(data[at : at + step])

    reader, writer = os.pipe()
    thread = threading.Thread(target=write)
    thread.start()
    try:
        with open(reader, "rb") as pipe:
            yield pipe
    finally:
        thread.join()


@pytest.fixture
def rw(tmp_path):
    """The golden layer1 as it was written to: append-only, sealed and sparse."""
    archive = golden.folder() / "rw" / "layer1.rw.tar.gz"
    subprocess.run(["tar", "-C", tmp_path, "-xSzf", archive], check=True)
    restore_zeros(tmp_path / "layer1.sparse.data", golden.folder() / "plain" / "layer1.lsmt")
    return tmp_path


def restore_zeros(sparse, committed):
    """tar has made holes of zeros that were written; the committed layer knows where they were."""
    data = committed.read_bytes()
    trailer = lsmt.Record.parse(data[-lsmt.RECORD_SIZE :])
    size = trailer.index_size * lsmt.ENTRY_SIZE
    entries = lsmt.parse_index(data[trailer.index_offset : trailer.index_offset + size])
    with open(sparse, "r+b") as file:
        for entry in filter(lsmt.covers, entries):
            at, count = entry.msector * SECTOR, entry.length * SECTOR
            file.seek(lsmt.RECORD_SIZE + entry.sector * SECTOR)
            file.write(data[at : at + count])
