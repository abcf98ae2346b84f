# SPDX-License-Identifier: Apache-2.0
"""
overlaybd-apply [options] input image_config: unpacks an OCI layer into the ext4 on an image.

The image is written through its upper layer, in place; nothing is mounted, and no root is needed.
What fails leaves a file system that is whole, with the entries up to the one that failed.
"""

import argparse
import contextlib
import dataclasses
import errno
import os
import re
import stat
import sys
from typing import Callable, Iterator, List, Optional, TypeVar

from .. import errors
from ..ffi import ext4
from ..image import config as image_config
from ..image import opener
from . import background, command_line, lowers, progress

PROG = "overlaybd-apply"

EXIT_CODES = command_line.EXIT_CODES.replace(
    "it failed, and left nothing half done", "it failed; entries before the one it names stay"
)

_CHECKSUM = re.compile(r"sha256:([0-9A-Fa-f]{64})")

_Result = TypeVar("_Result")


@contextlib.contextmanager
def opened_input(path: str) -> Iterator[int]:
    """Its descriptor; - is standard input."""
    if path == "-":
        yield sys.stdin.fileno()
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@dataclasses.dataclass(frozen=True)
class Target:
    """What is written to, and how to end its waiting for a registry."""

    disk: ext4.Disk
    cancel: Callable[[], None] = lambda: None


@contextlib.contextmanager
def opened_disk(options: argparse.Namespace) -> Iterator[Target]:
    """The image's disk, or with --raw the file itself."""
    if options.raw:
        with ext4.file_disk(options.image_config) as disk:
            yield Target(disk)
        return
    image = image_config.load(options.image_config)
    if not image.upper.is_used:
        raise errors.ConfigError(image.path, "upper", "there is no writable layer to apply to")
    with contextlib.ExitStack() as stack:
        remote_layers = stack.enter_context(lowers.fetched(options.service_config_path))
        reader = stack.enter_context(opener.open_image(image, remote=remote_layers))
        yield Target(ext4.image_disk(reader), lambda: reader.cancel(errno.ECANCELED))


def watched(
    call: Callable[[ext4.Progress], _Result], total: int, cancel: Callable[[], None]
) -> _Result:
    """
    Shows how much of its input a long call has read, of total bytes or 0; Ctrl-C ends it, and
    calls cancel.
    """
    counters = ext4.Progress()
    line = progress.Progress(total)

    def stop() -> None:
        counters.stop = 1
        cancel()

    try:
        return background.run(lambda: call(counters), stop, lambda: line.update(counters.input))
    finally:
        line.end()


def extract(target: Target, fd: int, sha256: Optional[str]) -> ext4.Applied:
    """A file's checksum is known before anything is written, a pipe's when all of it is."""
    disk, cancel = target.disk, target.cancel
    status = os.fstat(fd)
    is_file = stat.S_ISREG(status.st_mode)
    total = status.st_size if is_file else 0
    if is_file and sha256:
        start = os.lseek(fd, 0, os.SEEK_CUR)
        watched(lambda counters: ext4.digest(fd, sha256, counters), total, cancel)
        os.lseek(fd, start, os.SEEK_SET)
        return watched(lambda counters: ext4.apply(disk, fd, None, counters), total, cancel)
    return watched(lambda counters: ext4.apply(disk, fd, sha256, counters), total, cancel)


def run(options: argparse.Namespace) -> None:
    refuse_unsupported(options)
    with opened_input(options.input) as fd, opened_disk(options) as target:
        if options.mkfs:
            try:
                background.run(lambda: ext4.mkfs(target.disk), target.cancel)
            except errors.NativeError as error:
                raise errors.Error(f"mkfs failed, {options.image_config}: {error}") from error
        try:
            applied = extract(target, fd, options.sha256)
        except errors.NativeError as error:
            raise errors.Error(f"failed to extract {options.input}: {error}") from error
    if applied.warnings:
        more = f" (and {applied.warnings - 1} more)" if applied.warnings > 1 else ""
        command_line.warn(applied.warning + more)
    print(f"{PROG} done")
    print(options.checksum, file=sys.stderr)


def refuse_unsupported(options: argparse.Namespace) -> None:
    """What the original can do and we cannot yet, so that nobody gets something else instead."""
    if options.from_qcow2:
        raise errors.Error("--from_qcow2 is not supported: convert the image to a raw disk first")
    if options.gz_index_path:
        raise errors.Error("--gz_index_path is not supported yet: it makes a turboOCI layer")
    if options.fstype != "ext4":
        raise errors.Error(f"--fstype {options.fstype} is not supported yet, only ext4 is")


def sha256_of(text: str) -> Optional[str]:
    """The digest in sha256:HEX; None for no text."""
    if not text:
        return None
    match = _CHECKSUM.fullmatch(text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not sha256: and 64 hexadecimal digits")
    return match.group(1)


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    purpose = "Unpacks an OCI layer into the ext4 on an image."
    parser = command_line.Parser(PROG, purpose, EXIT_CODES)
    parser.flag("--raw", help="image_config is a plain disk, not an image's configuration")
    parser.flag("--mkfs", help="make the ext4 first; what was on the disk is lost")
    checksum = "sha256:HEX, what the uncompressed layer must have"
    parser.option("--checksum", metavar="DIGEST", default="", help=checksum)
    parser.option("--fstype", metavar="TYPE", default="ext4", help="ext4")
    parser.option("--service_config_path", metavar="FILE", default="", help=lowers.HELP)
    parser.option("--gz_index_path", metavar="FILE", default="", help="not supported yet")
    parser.flag("--from_qcow2", help="not supported")
    parser.flag("--extract-rootfs", help="of a qcow2 image", default=True)
    parser.flag("--no-extract-rootfs", help="of a qcow2 image")
    parser.flag("--verbose", help="tell more")
    parser.positional("input", "the layer: tar, tar.gz or tar.zst, by content; - is standard input")
    parser.positional("image_config", "the image's config.v1.json, which names an upper layer")
    options = parser.parse(arguments)
    options.sha256 = parser.checked("--checksum", options.checksum, sha256_of)
    return options


def main(arguments: Optional[List[str]] = None) -> int:
    """The program; returns its exit status."""
    options = parse_arguments(arguments)
    command_line.log_to_stderr(options.verbose)
    return command_line.main(PROG, lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
