# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a machine.

VmError
    VmMissing       the host lacks a program; names it
    VmDied          the guest panicked or QEMU ended; carries the end of the console
    VmTimeout       the guest did not answer in time
    CommandFailed   a command in the guest ended with another status than 0
"""
from __future__ import annotations

from typing import Sequence


class VmError(Exception):
    """Something about a machine."""


class VmMissing(VmError):
    """The host lacks a program."""


class VmDied(VmError):
    """The machine ended, or never came up."""

    def __init__(self, what: str, console_tail: str) -> None:
        super().__init__(f"{what}; the console ends with\n{console_tail}")


class VmTimeout(VmError):
    """The guest did not answer in time."""


class CommandFailed(VmError):
    """A command ended with another status than 0."""

    def __init__(self, argv: Sequence[str], status: int, output: str, errors: str) -> None:
        self.status = status
        self.output = output
        self.errors = errors
        super().__init__(f"status {status} from {' '.join(argv)}\n{output}{errors}")
