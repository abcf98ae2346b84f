# SPDX-License-Identifier: Apache-2.0
"""
The process whose files survive: writes to an image and marks in the log what it has done.

    python -m tests.support.disk_writer FOLDER SEED KIND STEPS [endless]

Its choices follow from SEED: whoever reads the log can repeat them. KIND is append or sparse.
`lower`, if FOLDER has it, is the layer below. With `endless` it goes on until it is killed and
prints the number of each step that is complete.
"""

import json
import os
import random
import sys

from overlaybd_tcmu.ffi import native

from . import disk_log, native_test

SIZE = 512 << 10
COMPACTED = 20  # entries that are enough to write an index file anew


def data_of(seed, step, count):
    return random.Random(f"{seed} data {step}").randbytes(count)


def choices(seed, steps, endless=False):
    """What each step does: (operation, offset, count)."""
    rng = random.Random(f"{seed} steps")
    step = 0
    while endless or step < steps:
        roll = rng.random()
        unit = rng.choice([512, 4096, 4096])
        offset = rng.randrange(SIZE // unit) * unit
        count = min(unit * rng.choice([1, 1, 1, 1, 2, 2, 5, 5, 16, 50]), SIZE - offset)
        if roll < 0.60:
            yield "write", offset, count
        elif roll < 0.75:
            yield "discard", offset, min(count * rng.choice([1, 4, 16]), SIZE - offset)
        elif roll < 0.92:
            yield "flush", 0, 0
        elif roll < 0.96:
            yield "reopen", 0, 0
        else:
            yield "snapshot", 0, 0
        step += 1


def apply(content, seed, step, operation, offset, count):
    """One step to a model of the disk, a bytearray."""
    if operation == "write":
        content[offset : offset + count] = data_of(seed, step, count)
    elif operation == "discard":
        content[offset : offset + count] = bytes(count)


class Writer:
    """The image and its files: layers, lowest first, and the number of the upper one."""

    def __init__(self, folder, kind):
        self.folder, self.kind = folder, kind
        self.config = {
            "layers": ["lower"] if os.path.exists(self._path("lower")) else [],
            "upper": 0,
        }
        self._create(0, 0 if self.config["layers"] else SIZE)
        self._write_config("config")
        disk_log.mark("config " + json.dumps(self.config))
        self._open()

    def _path(self, name):
        return os.path.join(self.folder, name)

    def _pair(self, number):
        return self._path(f"data{number}"), self._path(f"index{number}")

    def _create(self, number, size):
        native.create_upper(*self._pair(number), size, self.kind == "sparse")
        for path in self._pair(number):
            disk_log.mark_file(path)

    def _write_config(self, name):
        with open(self._path(name), "w", encoding="ascii") as file:
            json.dump(self.config, file)

    def _open(self):
        layers = [native.Layer.open(self._path(name)) for name in self.config["layers"]]
        upper = native.Upper(*self._pair(self.config["upper"]))
        self.image = native.Image(layers, upper=upper)

    def step(self, seed, step, operation, offset, count):
        if operation == "write":
            self.image.pwrite(data_of(seed, step, count), offset)
        elif operation == "discard":
            self.image.discard(offset, count)
        elif operation == "flush":
            self.image.flush()
        elif operation == "reopen":
            self.image.close()
            self._open()
        elif operation == "snapshot":
            self._snapshot()

    def _snapshot(self):
        number = self.config["upper"] + 1
        self._create(number, 0)
        layers = self.config["layers"] + [f"data{number - 1}"]
        self.config = {"layers": layers, "upper": number}
        self._write_config("config.new")
        disk_log.mark("config " + json.dumps(self.config))
        self.image.snapshot(
            native.Upper(*self._pair(number)), self._path("config.new"), self._path("config")
        )


def main(folder, seed, kind, steps, endless=""):
    native_test.upper_compact(COMPACTED)
    writer = Writer(folder, kind)
    for step, choice in enumerate(choices(seed, int(steps), bool(endless))):
        disk_log.mark(f"begin {step}")
        writer.step(seed, step, *choice)
        disk_log.mark(f"end {step}")
        if endless:
            print(step, flush=True)
    writer.image.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
