# SPDX-License-Identifier: Apache-2.0
"""
A file is complete under its name, or it is not there: killed at any moment, refused anything, on
file systems that can do less.
"""

import errno
import os
import random
import signal
import subprocess
import sys

import pytest

from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import writable, zfile
from overlaybd_tcmu.tools import commit
from overlaybd_tcmu.units import MiB

from ..support import codecs, engines, nth_call
from .conftest import ROOT

DATA = random.Random(3).randbytes(5 * MiB)
WHOLE = zfile.encode(DATA, final=False, compressor=codecs.compress)

# What a file system may be unable to do: a file without a name, writing past the page cache.
REFUSED = ["", "nameless", "direct", "nameless direct"]

LESS = pytest.mark.parametrize("refused", REFUSED)


@pytest.fixture
def folder(tmp_path):
    """Where programs work; the folder beside it is for logs and sources."""
    (tmp_path / "work").mkdir()
    (tmp_path / "source").write_bytes(DATA)
    return tmp_path / "work"


@pytest.fixture
def compress(tool, folder):
    """Runs overlaybd-zfile on the source with something happening to it."""

    def run(*options, **happens):
        environment = nth_call.environment(folder, **happens)
        return tool("zfile", *options, folder.parent / "source", folder / "out", env=environment)

    return run


def calls(log):
    return log.read_text().split()


def names(folder):
    return sorted(os.listdir(folder))


# ---- in order


@LESS
@pytest.mark.parametrize("options, name", [([], "linkat"), (["-f"], "rename")])
def test_everything_is_on_the_disk_before_there_is_a_name(
    compress, folder, tmp_path, refused, options, name
):
    assert compress(*options, refuse=refused, log=tmp_path / "log").returncode == 0
    made = calls(tmp_path / "log")
    synced, named = made.index("fsync"), made.index(name)
    assert synced < named
    # Then the folder: without that the name may be lost, and a file that was replaced is back.
    assert "fsync" in made[named:]
    assert not {"pwrite", "ftruncate"} & set(made[synced:])
    assert (folder / "out").read_bytes() == WHOLE
    assert names(folder) == ["out"]


@LESS
def test_bytes_do_not_depend_on_the_file_system(tool, folder, refused):
    environment = nth_call.environment(folder, refuse=refused)
    source = folder.parent / "source"
    done = tool("zfile", "-t", source, folder / "out", env=environment)
    assert done.returncode == 0
    done = tool("zfile", "-x", folder / "out", folder / "again", env=environment)
    assert done.returncode == 0
    assert (folder / "again").read_bytes() == DATA


# ---- killed


def kill_at_each_call(run, check):
    """Calls run(nth) for 1, 2, ... until the program lives; check() looks at what is left."""
    for nth in range(1, 100):
        done = run(nth)
        if done.returncode == 0:
            return nth - 1
        assert done.returncode == -signal.SIGKILL, done.stderr
        check()
    raise AssertionError("the program never gets through")


@pytest.mark.parametrize("refused", ["", "nameless"])
def test_kill_at_any_call_leaves_all_or_nothing(compress, folder, refused):
    def check():
        left = names(folder)
        if "out" in left:
            assert (folder / "out").read_bytes() == WHOLE
            os.unlink(folder / "out")
        elif not refused:
            assert left == []
        for name in names(folder):
            os.unlink(folder / name)

    assert kill_at_each_call(lambda nth: compress(nth=nth, refuse=refused), check) >= 5


@pytest.mark.parametrize("refused", ["", "nameless"])
def test_kill_at_any_call_never_loses_what_is_replaced(compress, folder, refused):
    (folder / "out").write_bytes(b"precious")

    def check():
        assert (folder / "out").read_bytes() in (b"precious", WHOLE)

    assert kill_at_each_call(lambda nth: compress("-f", nth=nth, refuse=refused), check) >= 5
    assert (folder / "out").read_bytes() == WHOLE


def test_kill_at_any_call_of_sealing_leaves_the_layer(tool, folder):
    model = writable.Pair(1 * MiB)
    model.write(DATA[:8192], 0)
    model.write(DATA[8192:16384], 65536)
    sealed = []

    def run(nth):
        (folder / "data").write_bytes(model.data)
        (folder / "index").write_bytes(model.index)
        environment = nth_call.environment(folder, nth=nth)
        return tool("commit", "--seal", folder / "data", folder / "index", env=environment)

    def check():
        # Whatever is left can be sealed, and shows what was written.
        data, index, out = (str(folder / name) for name in ("data", "index", "out"))
        assert commit.main(["--seal", data, index]) == 0
        assert commit.main(["-f", "--commit_sealed", data, out]) == 0
        sealed.append((folder / "out").read_bytes())

    assert kill_at_each_call(run, check) >= 3
    assert len(set(sealed)) == 1


@pytest.mark.parametrize("options", [[], ["-s"], ["--raw"], ["--turboOCI"]])
def test_kill_at_any_call_of_creating_leaves_no_half_layer(tool, folder, options):
    def run(nth):
        environment = nth_call.environment(folder, nth=nth)
        return tool("create", folder / "data", folder / "index", 1, *options, env=environment)

    def check():
        # The data file is what says that there is a layer.
        if (folder / "data").exists():
            assert (folder / "index").exists()
        for name in names(folder):
            os.unlink(folder / name)

    assert kill_at_each_call(run, check) >= 3


@pytest.mark.skipif(engines.SANITIZED, reason="a minute of programs that start")
@pytest.mark.parametrize("options", [[], ["-s"], ["--raw"]])
def test_kill_while_a_file_system_is_made_leaves_none_or_all_of_it(tool, folder, options):
    """Whatever is left, the next one makes what nobody disturbed would have made."""

    def run(nth=0):
        environment = nth_call.environment(folder, nth=nth, log=folder.parent / "log")
        files = folder / "data", folder / "index"
        return tool("create", *files, 1, "--mkfs", *options, env=environment)

    assert run().returncode == 0
    whole = file_system_of(folder, options)
    calls = len((folder.parent / "log").read_text().splitlines())
    # The making of the files, some of the writes between, and all that gives them their names.
    for nth in [1, 3, 5, *range(7, calls - 6, calls // 4), *range(calls - 6, calls + 1)]:
        for name in names(folder):
            os.unlink(folder / name)
        assert run(nth).returncode == -signal.SIGKILL
        if not (folder / "data").exists():
            assert run().returncode == 0
        assert file_system_of(folder, options) == whole


def file_system_of(folder, options):
    """The first megabytes of the disk, which have all there is of it."""
    if options == ["--raw"]:
        with open(folder / "data", "rb") as file:
            return file.read(8 * MiB)
    with native.Upper(str(folder / "data"), str(folder / "index")) as upper:
        with native.Image([], upper=upper) as image:
            return image.pread(8 * MiB, 0)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_work_ends_soon_and_leaves_nothing(folder, how):
    os.mkfifo(folder.parent / "pipe")
    command = [sys.executable, "-m", "overlaybd_tcmu.tools.zfile", folder / "out"]
    # It never ends: we are its writer as well.
    with open(folder.parent / "pipe", "r+b", buffering=0) as pipe:
        process = subprocess.Popen(command, stdin=pipe, cwd=ROOT, stderr=-1, stdout=-1)
        process.stdout.readline()  # it has begun
        process.send_signal(how)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, b"overlaybd-zfile: stopped\n")
    assert names(folder) == []


# ---- refused


@LESS
@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "fsync", "linkat"])
def test_what_cannot_be_written_is_said_and_leaves_nothing(compress, folder, call, refused):
    done = compress("-t", nth=1, error=errno.ENOSPC, only=call, refuse=refused)
    assert done.returncode == 255
    assert done.stderr.startswith(f"overlaybd-zfile: compress failed, errno:28: {folder}/out: ")
    assert done.stderr.count("\n") == 1
    assert names(folder) == []


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_any_write_may_fail(compress, folder, nth):
    done = compress(nth=nth, error=errno.EIO, only="pwrite")
    assert done.returncode in (0, 255)
    assert names(folder) == (["out"] if done.returncode == 0 else [])


def test_failing_write_ends_the_reading(tool, folder):
    # Half a terabyte of nothing behind it: only giving up at the first failure ends in time.
    os.truncate(folder.parent / "source", 1 << 39)
    environment = nth_call.environment(folder, nth=1, error=errno.ENOSPC, only="pwrite")
    done = tool("zfile", folder.parent / "source", folder / "out", env=environment)
    assert done.returncode == 255 and "No space left on device" in done.stderr
    assert names(folder) == []


def test_folder_that_is_missing(tool, folder):
    done = tool("zfile", folder.parent / "source", folder / "none" / "out")
    assert done.returncode == 255
    assert "none/out: No such file or directory" in done.stderr


def test_output_is_for_whom_the_umask_says(tool, folder):
    for mask, mode in (0o022, 0o644), (0o077, 0o600):
        done = tool("zfile", "-f", folder.parent / "source", folder / "out", umask=mask)
        assert done.returncode == 0
        assert (folder / "out").stat().st_mode & 0o777 == mode
