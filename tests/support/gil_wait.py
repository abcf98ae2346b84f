# SPDX-License-Identifier: Apache-2.0
"""
How long the threads of a Python wait for its interpreter's lock.

    environment(library, path)     what to add to its environment
    read(path)                     Waits until now
"""

import dataclasses
import pathlib
import struct
import subprocess

SOURCE = pathlib.Path(__file__).resolve().with_suffix(".c")


@dataclasses.dataclass(frozen=True)
class Waits:
    """Since the process began."""

    count: int
    waited_ns: int
    cpu_ns: int  # of it, on a CPU


def build(path):
    """The library, compiled to a path."""
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(path), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)


def environment(library, path):
    return {"LD_PRELOAD": str(library), "GIL_WAIT": str(path)}


def read(path):
    with open(path, "rb") as file:
        return Waits(*struct.unpack("=3Q", file.read(24)))
