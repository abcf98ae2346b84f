# SPDX-License-Identifier: Apache-2.0
"""
overlaybd-create [options] data_file index_file vsize: a new, empty writable layer.

Both files appear or none does, and neither takes the place of another.
"""

import argparse
import contextlib
import errno
import glob
import os
import sys
import uuid
from typing import List, Optional

from .. import errors
from ..ffi import ext4, native
from ..formats import lsmt
from . import command_line, files

PROG = "overlaybd-create"


# ---- the two files


def create_files(data: str, index: str, options: argparse.Namespace) -> None:
    """The two files of the kind that was asked for."""
    if options.raw:
        _create_plain(data, index, options.vsize, index_header=b"")
    elif options.turboOCI:
        header = lsmt.Record(
            lsmt.HEADER,
            lsmt.RECORD_SIZE,
            virtual_size=options.vsize,
            uuid=str(uuid.uuid4()),
            parent_uuid=options.u or "",
        )
        _create_plain(data, index, options.vsize, header.pack())
    else:
        _create_upper(data, index, options)


def _create_upper(data: str, index: str, options: argparse.Namespace) -> None:
    try:
        native.create_upper(data, index, options.vsize, options.s, None, options.u)
    except errors.NativeError as error:
        if error.code != errno.EEXIST:
            raise
        taken = data if os.path.lexists(data) else index
        raise files.OpenFailed(taken, error.code) from error


def _create_plain(data: str, index: str, size: int, index_header: bytes) -> None:
    """A data file without a header: the disk itself, or what a turboOCI layer has of it."""
    with files.created((index, index_header, len(index_header)), (data, b"", size)):
        pass


# ---- with a file system


def make_filesystem(data: str, index: str, options: argparse.Namespace) -> None:
    """Puts an ext4 on the new, empty layer, or on the plain disk with --raw; it is on the disk."""
    if options.raw:
        with ext4.file_disk(data) as disk:
            ext4.mkfs(disk)
        files.sync(data)
        return
    with native.Upper(data, index) as upper, native.Image([], upper=upper) as image:
        ext4.mkfs(ext4.image_disk(image))
        image.flush()


def create_with_filesystem(options: argparse.Namespace) -> None:
    """
    Under other names until the file system is whole. Then the index gets its name, and the data,
    whose presence says that there is a layer.
    """
    data, index = options.data_file, options.index_file
    suffix = f".mkfs.{os.getpid()}"
    remove_unfinished(data, index)
    files.must_not_exist(data)
    files.must_not_exist(index)
    made = data + suffix, index + suffix
    failed = ""
    try:
        create_files(*made, options)
        failed = "mkfs failed, "
        make_filesystem(*made, options)
        files.publish(made[1], index)
        try:
            files.publish(made[0], data)
        except BaseException:
            os.unlink(index)
            raise
    except files.OpenFailed as error:
        raise files.OpenFailed(error.path.replace(suffix, ""), error.errno) from error
    except errors.NativeError as error:
        raise errors.Error(failed + str(error).replace(suffix, "")) from error
    finally:
        for path in made:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    for path in (data, index):
        files.sync_folder(os.path.dirname(os.path.abspath(path)))


def remove_unfinished(data: str, index: str) -> None:
    """An index without data is empty, or has both its names still: its maker was killed between."""
    if os.path.lexists(data) or not os.path.isfile(index):
        return
    others = glob.glob(glob.escape(index) + ".mkfs.*")
    if not os.path.getsize(index) or any(os.path.samefile(path, index) for path in others):
        os.unlink(index)


def run(options: argparse.Namespace) -> None:
    options.u = command_line.usable_uuid("-u", options.u)
    if options.mkfs and options.turboOCI:
        raise errors.Error("mkfs failed, turboOCI layers are not supported yet")
    if options.mkfs:
        create_with_filesystem(options)
    else:
        create_files(options.data_file, options.index_file, options)
    print(f"{PROG} has created files SUCCESSFULLY")


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = command_line.Parser(PROG, "Creates the two files of an empty writable layer.")
    parser.option("-u", metavar="UUID", help="UUID of the layer below")
    parser.flag("-s", help="sparse: the data file is laid out as the disk")
    parser.flag("--fastoci", "--turboOCI", help="the data file is for a turboOCI layer's metadata")
    parser.flag("--raw", help="the data file is a plain disk, the index file stays empty")
    parser.flag("--mkfs", help="put an ext4 on it")
    parser.flag("--verbose", help="tell more")
    parser.positional("data_file", "the layer's data")
    parser.positional("index_file", "the layer's index")
    parser.positional("vsize", "size of the disk in GB; 0: that of the layer below")
    options = parser.parse(arguments)
    options.vsize = parser.checked("vsize", options.vsize, command_line.gigabytes)
    return options


def main(arguments: Optional[List[str]] = None) -> int:
    """The program; returns its exit status."""
    options = parse_arguments(arguments)
    command_line.log_to_stderr(options.verbose)
    return command_line.main(PROG, lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
