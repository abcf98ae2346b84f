# SPDX-License-Identifier: Apache-2.0
"""
overlaybd-resize --config FILE --size GB: the ext4 on an image, and the image, grow or shrink.

resize2fs does it, on a copy of what the image shows. When the copy is right and on the disk it gets
a name beside the writable layer, and from then on what it differs in is written into the layer:
whoever is killed meanwhile starts again with that copy, and until then nobody opens the image. So
the image is the old one or the new one, never something in between.
"""

import argparse
import errno
import functools
import os
import re
import shutil
import subprocess
import sys
import time
from typing import Iterator, List, Optional, Tuple

from .. import errors, units
from ..ffi import native
from ..image import config as image_config
from ..image import opener, remote
from . import background, command_line, export, files, lowers

PROG = "overlaybd-resize"
EXIT_FAILED = 1

BLOCK = 4 * units.KiB  # compared, and written where it differs
CHUNK = units.MiB
_EXT_MAGIC, _EXT_MAGIC_OFFSET = b"\x53\xef", 1080
_I32_MAX = (1 << 31) - 1

EXIT_CODES = """\
exit status:
    0  done
    1  it failed
  105  an argument is not valid
  106  an argument is missing
  109  an argument is not known
  130  it was interrupted; run it again if the image says that it is being resized
"""


# ---- the file system


def run_program(name: str, *arguments: str, accepted: Tuple[int, ...] = (0,), fd: int) -> None:
    """One of e2fsprogs' on the open file fd; its last line of complaint is the error's."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise errors.Error(f"{name} is needed: install e2fsprogs")
    command = [path, *(argument.replace("@", f"/proc/self/fd/{fd}") for argument in arguments)]
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command, pass_fds=[fd], stdin=subprocess.DEVNULL, capture_output=True, env=environment
    )
    if done.returncode not in accepted:
        raise errors.Error(f"{name}: {_complaint(done, path) or f'status {done.returncode}'}")


def _complaint(done: "subprocess.CompletedProcess[bytes]", path: str) -> str:
    """The first line that is not the program's name and version; the file is called the image."""
    said = (done.stderr + done.stdout).decode("utf-8", "replace")
    lines = [line.replace(f"{path}: ", "") for line in said.splitlines() if line]
    lines = [line for line in lines if not line.startswith(os.path.basename(path))]
    return re.sub(r"/proc/self/fd/\d+", "the image", lines[0]) if lines else ""


def resize_filesystem(fd: int, size: int) -> None:
    """The ext4 in an open file, which becomes as long as it."""
    if os.pread(fd, 2, _EXT_MAGIC_OFFSET) != _EXT_MAGIC:
        raise errors.Error("there is no ext4 on the image")
    # 1: errors were corrected, on the copy; resize2fs wants a file system that was just checked.
    run_program("e2fsck", "-fp", "@", accepted=(0, 1), fd=fd)
    run_program("resize2fs", "@", f"{size // units.KiB}K", fd=fd)
    os.ftruncate(fd, size)


# ---- the copy


def copy_path(upper: image_config.UpperConfig) -> str:
    return upper.data + opener.RESIZING


def make_copy(image: native.Image, upper: image_config.UpperConfig, size: int) -> None:
    """The image as it will be, named when it is on the disk."""
    folder = os.path.dirname(os.path.abspath(upper.data))
    fd, temporary = _open_copy(folder, copy_path(upper))
    try:
        os.ftruncate(fd, max(size, image.info().virtual_size))
        export.copy(image, export.SparseFile(fd), lambda done: None)
        resize_filesystem(fd, size)
        os.fsync(fd)
        _name_copy(fd, temporary, copy_path(upper))
    except BaseException:
        if temporary:
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    files.sync_folder(folder)


def _open_copy(folder: str, path: str) -> Tuple[int, str]:
    """A file without a name, or with a temporary one where the file system cannot do that."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(folder, flags | os.O_TMPFILE, 0o600), ""
    except OSError:
        temporary = path + ".tmp"
        return os.open(temporary, flags | os.O_CREAT | os.O_TRUNC, 0o600), temporary


def _name_copy(fd: int, temporary: str, path: str) -> None:
    if temporary:
        os.rename(temporary, path)
    else:
        # The descriptor of a folder, any: without one Python does not follow the link.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def touched(image: native.Image, fd: int, size: int) -> Iterator[int]:
    """Offsets of the chunks in which the image or the copy has something."""
    offset = 0
    while offset < size:
        ours = image.next_data(offset)
        places = [ours[0]] if ours else []
        try:
            places.append(os.lseek(fd, offset, os.SEEK_DATA))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        if not places or min(places) >= size:
            return
        offset = max(offset, min(places) // CHUNK * CHUNK)
        yield offset
        offset += CHUNK


def write_differences(image: native.Image, fd: int, size: int) -> None:
    """What the copy has otherwise, from its beginning to size."""
    for offset in touched(image, fd, size):
        count = min(CHUNK, size - offset)
        wanted = os.pread(fd, count, offset)
        background.reading(image, functools.partial(_write_blocks, image, wanted, offset))
    image.flush()


def _write_blocks(image: native.Image, wanted: bytes, offset: int) -> None:
    there = image.pread(len(wanted), offset)
    for at in range(0, len(wanted), BLOCK) if wanted != there else ():
        part = wanted[at : at + BLOCK]
        if part != there[at : at + BLOCK]:
            image.pwrite(part, offset + at)


# ---- all of it


def set_size(upper: image_config.UpperConfig, size: int) -> None:
    with native.Upper(upper.data, upper.index) as opened:
        opened.resize(size)


def finish(image: image_config.ImageConfig, fetched: remote.Remote) -> None:
    """Makes the image what its copy is; may be begun as often as it takes."""
    upper = image.upper
    fd = os.open(copy_path(upper), os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        with opener.open_image(image, remote=fetched, resizing=True) as opened:
            grows = size > opened.info().virtual_size
        if grows:
            set_size(upper, size)
        with opener.open_image(image, remote=fetched, resizing=True) as opened:
            write_differences(opened, fd, size)
        set_size(upper, size)
    finally:
        os.close(fd)
    os.unlink(copy_path(upper))
    files.sync_folder(os.path.dirname(os.path.abspath(upper.data)))


def resize(image: image_config.ImageConfig, size: int, fetched: remote.Remote) -> None:
    if not image.upper.is_used:
        raise errors.Error("resize failed: the image is read-only, it has no upper")
    try:
        if os.path.exists(copy_path(image.upper)):
            finish(image, fetched)  # what was begun before, whatever its size
        with opener.open_image(image, remote=fetched) as opened:
            make_copy(opened, image.upper, size)
        finish(image, fetched)
    except errors.ImageError as error:
        raise errors.Error(f"failed to open overlaybd image: {error}") from error
    except (errors.Error, OSError) as error:
        raise errors.Error(f"resize failed: {error}") from error


def size_of(text: str) -> int:
    """The argument in bytes; the reasons are the original's."""
    try:
        gigabytes = int(text, 10)
    except ValueError:
        raise errors.Error(f"invalid size (expected integer in GB): {text}") from None
    if gigabytes < 0:
        raise errors.Error(f"size must be positive: {text}")
    if gigabytes == 0:
        raise errors.Error("size must be greater than 0")
    if gigabytes > _I32_MAX:
        raise errors.Error(f"size value out of range: {text}")
    if gigabytes > command_line.GIGABYTES_MAX:
        raise errors.Error(f"size overflow: {text} GB")
    return gigabytes * units.GiB


def run(options: argparse.Namespace) -> None:
    started = time.monotonic()
    size = size_of(options.size)
    image = image_config.load(options.config)
    with lowers.fetched(options.service_config_path) as fetched:
        resize(image, size, fetched)
    elapsed = time.monotonic() - started
    print(f"Success: filesystem resized to {size // units.GiB} GB ({elapsed:.3f} seconds)")


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    what = "Grows or shrinks the ext4 on an image that nobody uses, and the image with it."
    parser = command_line.Parser(PROG, what, EXIT_CODES)
    parser.option("--config", metavar="FILE", help="the image's config.v1.json")
    parser.option("--size", metavar="GB", help="the size it is to have")
    parser.option("--service_config_path", metavar="FILE", default="", help=lowers.HELP)
    parser.flag("--verbose", help="tell more")
    options = parser.parse(arguments)
    if options.config is None or options.size is None:
        parser.missing("--config and --size are required")
    return options


def main(arguments: Optional[List[str]] = None) -> int:
    """The program; returns its exit status."""
    options = parse_arguments(arguments)
    command_line.log_to_stderr(options.verbose)
    return command_line.main(PROG, lambda: run(options), EXIT_FAILED)


if __name__ == "__main__":
    sys.exit(main())
