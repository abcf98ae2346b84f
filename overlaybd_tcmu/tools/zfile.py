# SPDX-License-Identifier: Apache-2.0
"""
overlaybd-zfile [options] source [target]: compresses a file to a ZFile, and back.

With one argument alone it is the target, and standard input is compressed.
"""

import argparse
import errno
import os
import sys
from typing import List, Optional

from .. import errors
from ..ffi import native, writing
from . import command_line, files, progress, wrapping

PROG = "overlaybd-zfile"


def output_of(options: argparse.Namespace, path: str) -> writing.Output:
    if not options.f:
        files.must_not_exist(path)
    return writing.Output(
        path,
        replace=options.f,
        tar=options.t and not options.x,
        algorithm=writing.Algorithm.NONE if options.x else wrapping.algorithm(options.algorithm),
        block_size=wrapping.block_size(options.bs),
    )


def compress(options: argparse.Namespace) -> None:
    source, target = options.source, options.target
    if target is None:
        source, target = "-", source
    output = output_of(options, target)
    if source == "-":
        fd = os.dup(sys.stdin.fileno())
    else:
        files.must_open(source)
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        print(f"compress file {source} as {target}", flush=True)
        progress.watch(lambda task: writing.compress(fd, output, task))
    except errors.NativeError as error:
        raise errors.Error(f"compress failed, errno:{error.code}: {error}") from error
    finally:
        os.close(fd)
    print("compress file done.")


def extract(options: argparse.Namespace) -> None:
    if options.target is None:
        raise errors.Error("target is required: what is extracted cannot come from standard input")
    files.must_open(options.source)
    output = output_of(options, options.target)
    print(f"decompress file {options.source} as {options.target}", flush=True)
    try:
        with native.Blob(options.source) as blob:
            progress.watch(lambda task: writing.extract(blob, output, task))
    except errors.NativeError as error:
        raise errors.Error(f"decompress failed, errno:{error.code}: {error}") from error
    print("decompress file done.")


def verify(options: argparse.Namespace) -> None:
    path = options.source
    files.must_open(path)
    try:
        with native.Blob(path) as blob:
            progress.watch(lambda task: writing.verify(blob, task=task))
    except errors.NativeError as error:
        if error.code == errno.EMEDIUMTYPE:
            raise errors.Error(f"format error! {path} should be a zfile.") from error
        print(f"{path} is not a valid zfile blob or checksum can't be found.", flush=True)
        raise
    print(f"{path} is a valid zfile blob.")


def run(options: argparse.Namespace) -> None:
    wrapping.algorithm(options.algorithm)
    wrapping.block_size(options.bs)
    if options.verify:
        verify(options)
    elif options.x:
        extract(options)
    else:
        compress(options)


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = command_line.Parser(PROG, "Compresses a file to a ZFile, and back.")
    parser.flag("-t", help="the ZFile in a tar")
    parser.flag("-x", help="extract: source is a ZFile")
    parser.flag("--verify", help="check every block of source, a ZFile; nothing is written")
    parser.flag("-f", help="replace target if it exists")
    wrapping.add_compression(parser)
    parser.flag("--verbose", help="tell more")
    parser.positional("source", "what to compress; standard input if it is left out")
    parser.positional("target", "what to write", required=False)
    return parser.parse(arguments)


def main(arguments: Optional[List[str]] = None) -> int:
    """The program; returns its exit status."""
    options = parse_arguments(arguments)
    command_line.log_to_stderr(options.verbose)
    return command_line.main(PROG, lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
