# SPDX-License-Identifier: Apache-2.0
"""Long work, watched: a line on a terminal that is written over, nothing anywhere else."""

import sys
import time
from typing import Callable

from .. import units
from ..ffi import writing
from . import background


class Progress:
    """How much of total bytes is done; 0 when nobody knows how many there are."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._done = 0
        self._shown = sys.stderr.isatty()
        self._next_s = time.monotonic() + background.PERIOD_S

    def update(self, done: int) -> None:
        self._done = done
        if self._shown and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + background.PERIOD_S
            self._write()

    def end(self) -> None:
        """Leaves the terminal at the start of a line, for whatever comes next."""
        if self._shown:
            self._write()
            print(file=sys.stderr)

    def _write(self) -> None:
        done = units.human_size(self._done)
        if self.total:
            percent = 100 * self._done // self.total
            done = f"{percent:3d}%  {done} of {units.human_size(self.total)}"
        print(f"\r{done}    ", end="", file=sys.stderr, flush=True)


def watch(call: Callable[[writing.Task], None]) -> None:
    """
    Runs a long call of the core, which knows no signals, in a thread of its own, and shows how far
    it is. Ctrl-C ends it soon, and whatever it was writing.
    """
    with writing.Task() as task:
        progress = Progress(0)

        def look() -> None:
            done, progress.total = task.progress()
            progress.update(done)

        try:
            background.run(lambda: call(task), task.stop, look)
        finally:
            progress.update(task.progress()[0])
            progress.end()
