# SPDX-License-Identifier: Apache-2.0
"""
What is left of a writable layer when its writer, or the power, is gone: see support/disk_log.py and
support/disk_writer.py.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from overlaybd_tcmu.ffi import native

from ..support import disk_log, disk_writer, engines, native_test
from . import raw_layers

SIZE = disk_writer.SIZE
SECTOR = 512
STEPS = 30 if engines.SANITIZED else 100
FLUSHES = ("flush", "reopen", "snapshot")


def write_lower(path, rng):
    """A layer with data in every other 16 KiB; what it shows."""
    content, entries, data = bytearray(SIZE), b"", b""
    for offset in range(0, SIZE, 32 << 10):
        part = rng.randbytes(16 << 10)
        place = 8 + len(data) // SECTOR
        entries += raw_layers.entry(offset // SECTOR, len(part) // SECTOR, place)
        data += part
        content[offset : offset + len(part)] = part
    path.write_bytes(raw_layers.lsmt(data, entries, virtual_size=SIZE))
    return content


def models(lower, seed, steps):
    """The disk before each step, and after the last one."""
    content = bytearray(lower)
    yield bytes(content)
    for step, choice in enumerate(disk_writer.choices(seed, steps)):
        disk_writer.apply(content, seed, step, *choice)
        yield bytes(content)


def open_image(folder, config):
    layers = [native.Layer.open(str(folder / name)) for name in config["layers"]]
    pair = [str(folder / f"{name}{config['upper']}") for name in ("data", "index")]
    return native.Image(layers, upper=native.Upper(*pair))


class History:
    """What the log says was done before a cut."""

    def __init__(self, log, cut, choices):
        self.begun = self.ended = self.flushed = 0  # steps; flushed: those a flush has confirmed
        self.flushing = None  # steps that a flush under way may have confirmed
        self.configs = []  # either may be in force
        pending = None
        for record in log.records[:cut]:
            if record.op == disk_log.RENAME:
                if record.data == b"config":
                    self.configs.append(pending)
            elif record.op == disk_log.SYNC and self.configs:
                self.configs = self.configs[-1:]  # the folder's, or one behind it
            elif record.op == disk_log.MARK:
                word, rest = record.data.decode().split(" ", 1)
                if word == "config":
                    pending = json.loads(rest)
                    self.configs = self.configs or [pending]
                elif word == "begin":
                    self._begin(int(rest), choices)
                elif word == "end":
                    self._end(int(rest), choices)
        if self.ended == len(choices):  # it closes the image
            self.flushing = self.ended

    def _begin(self, step, choices):
        self.begun = step + 1
        self.flushing = step if choices[step][0] in FLUSHES else None

    def _end(self, step, choices):
        self.ended = step + 1
        if choices[step][0] in FLUSHES:
            self.flushed = step
        self.flushing = None


@pytest.fixture
def other_boot():
    """Each call: the machine has started again."""
    boots = iter(range(1, 1 << 30))
    yield lambda: native_test.upper_boot(next(boots).to_bytes(16, "big"))
    native_test.upper_boot(None)


@pytest.fixture(params=["alone", "over a lower"])
def lower(request, tmp_path, rng):
    """What is below the writable layer."""
    (tmp_path / "run").mkdir()
    if request.param == "alone":
        return bytes(SIZE)
    return bytes(write_lower(tmp_path / "run" / "lower", rng))


def recorded(tmp_path, seed, kind, steps=STEPS):
    return disk_log.run("tests.support.disk_writer", tmp_path / "run", seed, kind, steps)


@pytest.fixture
def after():
    """A folder for what a power cut leaves, in memory: opening it syncs, a thousand times."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield pathlib.Path(folder)


def after_power_cut(folder, tmp_path, log, history, cut, rng):
    """Puts there what the disk may hold; the config that is in force."""
    log.write_files(cut, folder, rng)
    below = tmp_path / "run" / "lower"
    if below.exists():
        (folder / "lower").write_bytes(below.read_bytes())
    return rng.choice(history.configs)


def goes_on(folder, config, content, rng):
    """What was recovered is a layer like any other: written, its writer killed, opened again."""
    copy = folder / "copy"
    with open_image(folder, config) as image:
        assert image.pread(SIZE, 0) == content
        offset = rng.randrange(SIZE // SECTOR) * SECTOR
        image.pwrite(b"n" * SECTOR, offset)
        content = content[:offset] + b"n" * SECTOR + content[offset + SECTOR :]
        # whoever kills the writer now finds these files
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("copy"))
    for place in (copy, folder):
        with open_image(place, config) as image:
            assert image.pread(SIZE, 0) == content
    shutil.rmtree(copy)


def test_power_cut_leaves_what_a_flush_has_confirmed(tmp_path, after, rng, lower, other_boot):
    """Whenever it comes: the disk is as it was when a flush was asked for, the last or a later."""
    seed = rng.random()
    choices = list(disk_writer.choices(seed, STEPS))
    states = list(models(lower, seed, STEPS))
    log = recorded(tmp_path, seed, "append")
    first = next(i for i, r in enumerate(log.records) if r.data.startswith(b"begin"))
    for cut in range(first, len(log) + 1):
        history = History(log, cut, choices)
        config = after_power_cut(after, tmp_path, log, history, cut, rng)
        other_boot()
        with open_image(after, config) as image:
            content = image.pread(SIZE, 0)
        allowed = [states[history.flushed]]
        if history.flushing is not None:
            allowed.append(states[history.flushing])
        assert content in allowed, f"cut behind record {cut}, step {history.begun}"
        if cut % 16 == 0:
            goes_on(after, config, content, rng)


def test_power_cut_of_a_sparse_layer_mixes_no_sector(tmp_path, after, rng, lower, other_boot):
    """Each sector is what a flush has confirmed, or what was written to it since."""
    seed = rng.random()
    choices = list(disk_writer.choices(seed, STEPS))
    states = list(models(lower, seed, STEPS))
    log = recorded(tmp_path, seed, "sparse")
    first = next(i for i, r in enumerate(log.records) if r.data.startswith(b"begin"))
    for cut in range(first, len(log) + 1, 2):
        history = History(log, cut, choices)
        config = after_power_cut(after, tmp_path, log, history, cut, rng)
        other_boot()
        with open_image(after, config) as image:
            content = image.pread(SIZE, 0)
        for at in range(0, SIZE, SECTOR):
            sector = content[at : at + SECTOR]
            if sector != states[history.flushed][at : at + SECTOR]:
                since = states[history.flushed : history.begun + 1]
                assert sector in {state[at : at + SECTOR] for state in since}, (cut, at)


@pytest.mark.parametrize("kind", ["append", "sparse"])
def test_killed_writer_loses_nothing(tmp_path, rng, lower, kind):
    """No flush, no close: what was complete is there, for the kernel has it."""
    seed, enough = rng.random(), rng.randrange(30, 400)
    arguments = ("tests.support.disk_writer", tmp_path / "run", seed, kind, 0, "endless")
    with disk_log.start(*arguments, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) >= enough:
                process.kill()
                break
        done = enough + 1 + len(process.stdout.readlines())
    config = json.loads((tmp_path / "run" / "config").read_text())
    with open_image(tmp_path / "run", config) as image:
        content = image.pread(SIZE, 0)
    states = list(models(lower, seed, done + 1))
    under_way = list(disk_writer.choices(seed, done + 1))[done]
    if content != states[done]:
        assert_partly(content, states[done], states[done + 1], under_way)


def assert_partly(content, before, after, under_way):
    """A step that was killed is done in some of its sectors."""
    assert under_way[0] in ("write", "discard")
    for at in range(0, SIZE, SECTOR):
        assert content[at : at + SECTOR] in (before[at : at + SECTOR], after[at : at + SECTOR])
