# SPDX-License-Identifier: Apache-2.0
"""
overlaybd-commit [options] data_file [index_file] [commit_file]: a layer of a writable one.

    data_file index_file commit_file          compacted, as a new file
    --commit_sealed sealed_file commit_file   the same of a layer that was sealed, or committed
    --seal data_file [index_file]             in place
"""

import argparse
import sys
from typing import List, Optional

from .. import errors
from ..ffi import native, writing
from ..formats import lsmt, stream
from . import command_line, files, progress, wrapping

PROG = "overlaybd-commit"
MESSAGE_MAX = 256  # bytes
DONE = f"{PROG} has committed files SUCCESSFULLY"


def is_sealed(path: str) -> bool:
    """
    Whether sealing was done before: a trailer at the end that knows where its index lies and whose
    the data is. Data that happens to look like one does not.
    """
    with stream.File(path) as data:
        if data.size < 2 * lsmt.RECORD_SIZE:
            return False
        records = [data.pread(lsmt.RECORD_SIZE, at) for at in (0, data.size - lsmt.RECORD_SIZE)]
        if not all(lsmt.has_magic(record) for record in records):
            return False
        header, trailer = (lsmt.Record.parse(record) for record in records)
        index_end = trailer.index_offset + trailer.index_size * lsmt.ENTRY_SIZE
        return (
            header.flags & lsmt.SEALED == 0
            and trailer.flags | lsmt.SPARSE == lsmt.DATA | lsmt.SEALED | lsmt.SPARSE
            and (header.uuid, header.parent_uuid) == (trailer.uuid, trailer.parent_uuid)
            and -(-index_end // 512) * 512 == data.size - lsmt.RECORD_SIZE
        )


def seal(options: argparse.Namespace) -> None:
    """Doing it twice does it once: whoever was killed in between may try again."""
    files.must_open(options.data_file, writable=True)
    if is_sealed(options.data_file):
        return
    with native.Upper(options.data_file, options.index_file or "", exact=True) as upper:
        upper.seal()


def output_of(options: argparse.Namespace) -> writing.Output:
    """What to write, and where."""
    path = options.index_file if options.commit_sealed else options.commit_file
    return writing.Output(
        path,
        replace=options.f,
        tar=options.t and options.z,
        algorithm=wrapping.algorithm(options.algorithm) if options.z else writing.Algorithm.NONE,
        block_size=wrapping.block_size(options.bs),
        final_header=True,
        threads=options.compress_threads,
    )


def commit(options: argparse.Namespace) -> None:
    output = output_of(options)
    if not output.replace:
        files.must_not_exist(output.path)
    names = {
        "uuid": command_line.usable_uuid("--uuid", options.uuid),
        "parent_uuid": command_line.usable_uuid("--parent-uuid", options.parent_uuid),
        "message": options.m.encode("utf-8", "surrogateescape"),
    }
    files.must_open(options.data_file)
    try:
        if options.commit_sealed:
            with native.Layer.open(options.data_file, lean=native.Lean.TO_COMMIT) as layer:
                progress.watch(
                    lambda task: writing.commit([layer], None, output, task=task, **names)
                )
        else:
            with native.Upper(options.data_file, options.index_file, lean=True) as upper:
                progress.watch(lambda task: writing.commit([], upper, output, task=task, **names))
    except errors.NativeError as error:
        raise errors.Error(f"failed to perform commit(), {error.code}: {error}") from error


def warn_of_unused(options: argparse.Namespace) -> None:
    if not options.z and (options.bs is not None or options.algorithm is not None):
        command_line.warn("option '--bs' and '--algorithm' will be ignored without '-z'")
    if options.t and not options.z:
        command_line.warn("option '-t' will be ignored without '-z'")


def run(options: argparse.Namespace) -> None:
    if options.turboOCI:
        raise errors.Error("turboOCI layers are not supported yet")
    wrapping.refuse_upload(options)
    wrapping.algorithm(options.algorithm)
    wrapping.block_size(options.bs)
    warn_of_unused(options)
    if options.seal:
        seal(options)
    else:
        commit(options)
        wrapping.tell_digest()
    print(DONE)


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = command_line.Parser(PROG, "Makes a read-only layer of a writable one.")
    parser.option("-m", metavar="TEXT", default="", help=f"message, up to {MESSAGE_MAX} bytes")
    parser.option("--uuid", metavar="UUID", help="UUID of the new layer; none by default")
    parent = "UUID of the layer below; by default what the writable layer says"
    parser.option("-p", "--parent-uuid", metavar="UUID", help=parent)
    parser.flag("-z", help="compressed, as a ZFile")
    parser.flag("-t", help="in a tar; with -z only")
    parser.flag("-f", help="replace the output if it exists")
    wrapping.add_compression(parser)
    threads = "that compress; by default one for each CPU. The bytes are the same"
    parser.option("--compress_threads", type=thread_count, metavar="N", default=0, help=threads)
    parser.flag("--fastoci", "--turboOCI", help="not supported yet")
    parser.flag("--seal", help="in place: index and trailer are appended to data_file")
    parser.flag("--commit_sealed", help="data_file is a sealed layer, the output comes next")
    wrapping.add_upload(parser)
    parser.flag("--verbose", help="tell more")
    parser.positional("data_file", "the layer's data")
    parser.positional("index_file", "the layer's index", required=False)
    parser.positional("commit_file", "the new layer", required=False)
    options = parser.parse(arguments)
    if options.commit_sealed and not options.index_file:
        parser.missing("commit_file is required")
    if not (options.seal or options.commit_sealed) and not options.commit_file:
        parser.missing("index_file and commit_file are required")
    return options


def thread_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of threads")
    return min(int(text), 1 << 16)  # the core takes as many as make sense


def main(arguments: Optional[List[str]] = None) -> int:
    """The program; returns its exit status."""
    options = parse_arguments(arguments)
    command_line.log_to_stderr(options.verbose)
    return command_line.main(PROG, lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
