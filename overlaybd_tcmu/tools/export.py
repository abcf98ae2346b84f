# SPDX-License-Identifier: Apache-2.0
"""
overlaybd-export CONFIG OUT: the merged view of an image as a raw sparse file, or its digest.

The reader is the daemon's. Holes are never read: in a file they are skipped, in a pipe and in the
digest they are zeros.
"""

import argparse
import contextlib
import dataclasses
import errno
import functools
import hashlib
import os
import sys
from typing import Callable, List, Optional, Protocol

from .. import __version__, config, errors, units
from ..ffi import native
from ..image import config as image_config
from ..image import opener, remote
from . import background, command_line, progress

EXIT_OK, EXIT_FAILED, EXIT_CONFIG = range(3)

EXIT_CODES = """\
exit status:
  0  done
  1  the image cannot be opened or read, or the output cannot be written
  2  wrong arguments or configuration
  130  it was interrupted
"""

# One read: large enough for the helpers to share it, small enough to stay in the CPU's cache.
CHUNK = 4 * units.MiB
FORGET = 64 * units.MiB  # read: what they have mapped of the page cache is unmapped


class Sink(Protocol):
    """Where the view goes, from its beginning to its end without gaps."""

    def data(self, view: memoryview) -> None: ...

    def hole(self, count: int) -> None: ...


class SparseFile:
    """Skips holes; the caller has set the size."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._offset = 0

    def data(self, view: memoryview) -> None:
        while view:
            count = os.pwrite(self._fd, view, self._offset)
            self._offset += count
            view = view[count:]

    def hole(self, count: int) -> None:
        self._offset += count


class Pipe:
    """Standard output: holes have to be written out."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._zeros = memoryview(bytes(units.MiB))

    def data(self, view: memoryview) -> None:
        while view:
            view = view[os.write(self._fd, view) :]

    def hole(self, count: int) -> None:
        while count:
            part = min(count, len(self._zeros))
            self.data(self._zeros[:part])
            count -= part


class Digest:
    """SHA-256 of the whole view; hashing zeros is all a hole costs."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._zeros = memoryview(bytes(units.MiB))

    def data(self, view: memoryview) -> None:
        self._hash.update(view)

    def hole(self, count: int) -> None:
        while count:
            part = min(count, len(self._zeros))
            self._hash.update(self._zeros[:part])
            count -= part

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class Both:
    """A file and its digest in one pass."""

    def __init__(self, first: Sink, second: Sink) -> None:
        self._sinks = (first, second)

    def data(self, view: memoryview) -> None:
        for sink in self._sinks:
            sink.data(view)

    def hole(self, count: int) -> None:
        for sink in self._sinks:
            sink.hole(count)


def copy(image: native.Image, sink: Sink, report: Callable[[int], None]) -> None:
    """The whole view, in order."""
    copy_part(image, sink, report, 0, image.info().virtual_size)


def copy_in_order(image: native.Image, sink: Sink, report: Callable[[int], None]) -> None:
    """As copy(), of an image that knows a part at a time."""
    size, offset = image.info().virtual_size, 0
    while offset < size:
        end = background.reading(image, image.advance)
        copy_part(image, sink, report, offset, end)
        offset = end


def copy_part(
    image: native.Image, sink: Sink, report: Callable[[int], None], offset: int, size: int
) -> None:
    """From offset to size."""
    buffer = bytearray(min(CHUNK, max(size - offset, 1)))
    view = memoryview(buffer)
    forgotten = offset
    while offset < size:
        start, end = image.next_data(offset) or (size, size)
        start, end = min(start, size), min(end, size)
        if start > offset:
            sink.hole(start - offset)
        offset = start
        while offset < end:
            part = view[: min(len(view), end - offset)]
            count = background.reading(image, functools.partial(image.pread_into, part, offset))
            if count == 0:
                raise errors.FormatError(errno.EIO, "image ends before its size", offset)
            sink.data(part[:count])
            offset += count
            report(offset)
            if offset - forgotten >= FORGET:
                image.forget()
                forgotten = offset
    report(size)


def export_file(
    image: native.Image, path: str, digest: Optional[Digest], report: Callable[[int], None]
) -> None:
    """The file appears complete or not at all."""
    temporary = f"{path}.tmp.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            os.ftruncate(fd, image.info().virtual_size)
            file = SparseFile(fd)
            copy_in_order(image, Both(file, digest) if digest else file, report)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(os.path.abspath(path)))


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def service_of(options: argparse.Namespace) -> config.ServiceConfig:
    """The service configuration, with --engine in it; its absence is no reason to fail."""
    path = options.service_config or config.DEFAULT_PATH
    service = config.parse(path, {})[0]
    if options.service_config or os.path.exists(path):
        service = config.load(path)[0]
    if options.engine is not None:
        service = dataclasses.replace(service, io_engine=options.engine)
    return service


def run(options: argparse.Namespace) -> None:
    """Does what the arguments say; raises when it cannot."""
    to_file = options.output not in (None, "-")
    if to_file:
        check_output(options.output, options.force)
    service = service_of(options)
    digest = Digest() if options.sha256 else None
    image = image_config.load(options.config)
    with contextlib.ExitStack() as stack:
        remote_layers = remote.Remote(service, short_lived=True)
        stack.callback(remote_layers.stop)
        events = stack.enter_context(native.Events())
        reader = stack.enter_context(
            opener.open_image(image, service.io_engine, events, remote_layers, in_order=True)
        )
        line = progress.Progress(reader.info().virtual_size)
        try:
            if to_file:
                export_file(reader, options.output, digest, line.update)
            else:
                copy_in_order(reader, digest or Pipe(sys.stdout.fileno()), line.update)
        except errors.NativeError as error:
            raise errors.ImageError("read failed", cause_of(events) or str(error)) from error
        finally:
            line.end()
    if digest:
        print(digest.hexdigest())


def cause_of(events: native.Events) -> str:
    """What the core said about the first failed read: the errno alone names no file."""
    event = events.next(timeout_ms=0)
    while event is not None and event.kind != native.EventKind.READ_ERROR:
        event = events.next(timeout_ms=0)
    return f"offset {event.offset}: {event.text}" if event is not None else ""


def check_output(path: str, force: bool) -> None:
    """Refuses what a user would not want replaced."""
    if not os.path.lexists(path):
        return
    if not os.path.isfile(path):
        raise errors.ConfigError(path, "", "is not a regular file; write it through - instead")
    if not force:
        raise errors.ConfigError(path, "", "exists; --force replaces it")


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="overlaybd-export",
        description="Writes the merged view of an image as a raw sparse file.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="the image's config.v1.json")
    output = "raw file; - is standard output; not needed with --sha256"
    parser.add_argument("output", metavar="OUT", nargs="?", help=output)
    digest = "print the digest of the whole view; with -, instead of the view"
    parser.add_argument("--sha256", action="store_true", help=digest)
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument(
        "--engine",
        type=int,
        choices=[engine.value for engine in native.Engine],
        help="how layer files are read: 0 psync, 1 libaio, 2 POSIX aio",
    )
    parser.add_argument(
        "--service-config",
        metavar="FILE",
        help=f"for ioEngine; {config.DEFAULT_PATH} if it exists",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    if not options.output and not options.sha256:
        parser.error("OUT or --sha256 is needed")
    return options


def main(arguments: Optional[List[str]] = None) -> int:
    """The program; returns its exit status."""
    options = parse_arguments(arguments)
    command_line.end_in_order()
    try:
        run(options)
        return EXIT_OK
    except KeyboardInterrupt:
        return _fail("stopped", command_line.EXIT_INTERRUPTED)
    except errors.ConfigError as error:
        return _fail(error, EXIT_CONFIG)
    except BrokenPipeError:
        return EXIT_FAILED  # whoever read the output knows
    except (errors.Error, OSError) as error:
        return _fail(error, EXIT_FAILED)


def _fail(error: object, status: int) -> int:
    print(f"overlaybd-export: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
