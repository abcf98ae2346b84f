# SPDX-License-Identifier: Apache-2.0
"""
Work in the machine by hand: python3 -m tests.vm build | time | run 'COMMAND' [--put
FOLDER:/PLACE]...
"""
from __future__ import annotations

import argparse
import sys
import time
from typing import List, Optional

from .harness import errors, machine, rootfs


def main(arguments: Optional[List[str]] = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.action(options)
    except errors.VmError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 125


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm", description=__doc__)
    actions = parser.add_subparsers(required=True)
    build = actions.add_parser("build", help="make the guest's disk if it is not there")
    build.set_defaults(action=_build)
    timing = actions.add_parser("time", help="say how long a boot takes")
    timing.set_defaults(action=_time)
    run = actions.add_parser("run", help="run one command line in a fresh machine")
    run.add_argument("command")
    run.add_argument("--put", action="append", default=[], metavar="FOLDER:/PLACE")
    run.add_argument("--get", action="append", default=[], metavar="/PLACE:FOLDER")
    run.add_argument("--timeout", type=float, default=300, metavar="SECONDS")
    run.set_defaults(action=_run)
    return parser


def _build(options: argparse.Namespace) -> int:
    print(rootfs.build().folder)
    return 0


def _time(options: argparse.Namespace) -> int:
    started = time.monotonic()
    with machine.Machine() as vm:
        kernel = vm.run("uname -r").strip()
        print(f"{kernel} by {vm.accelerator}: agent after {vm.boot_s:.2f} s")
    print(f"boot, one command and power off: {time.monotonic() - started:.2f} s")
    return 0


def _run(options: argparse.Namespace) -> int:
    with machine.Machine() as vm:
        for pair in options.put:
            source, _, target = pair.partition(":")
            vm.put(source, target)
        command = vm.popen(
            options.command,
            output_sink=_writer(sys.stdout.buffer),
            errors_sink=_writer(sys.stderr.buffer),
        )
        command.close_input()
        status = command.wait(options.timeout)
        for pair in options.get:
            source, _, target = pair.partition(":")
            vm.get(source, target)
    return status if status >= 0 else 128 - status


def _writer(stream):
    def write(data: bytes) -> None:
        stream.write(data)
        stream.flush()

    return write


if __name__ == "__main__":
    sys.exit(main())
