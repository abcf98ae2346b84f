# SPDX-License-Identifier: Apache-2.0
"""Small new files, each complete and on the disk when it gets its name."""

import contextlib
import errno
import os
from typing import Iterator, List, Tuple

from .. import errors


class OpenFailed(errors.Error):
    """In the words of the original."""

    def __init__(self, path: str, code: int) -> None:
        super().__init__(path, code)
        self.path = path
        self.errno = code

    def __str__(self) -> str:
        return f"failed to open file '{self.path}', {self.errno}: {os.strerror(self.errno)}"


def must_open(path: str, writable: bool = False) -> None:
    """Raises OpenFailed when an input cannot be opened."""
    try:
        os.close(os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NONBLOCK))
    except OSError as error:
        raise OpenFailed(path, error.errno or 0) from error


def must_not_exist(path: str) -> None:
    """Raises OpenFailed when an output would take the place of something."""
    if os.path.lexists(path):
        raise OpenFailed(path, 17)


@contextlib.contextmanager
def created(*files: Tuple[str, bytes, int]) -> Iterator[None]:
    """
    Makes new files, all or none: each a path, what it begins with, and its size. They have their
    names while the block runs, and lose them again if it fails.
    """
    for path, _, _ in files:
        must_not_exist(path)
    named: List[str] = []
    try:
        for path, content, size in files:
            _create(path, content, size)
            named.append(path)
        yield
    except BaseException:
        for path in named:
            os.unlink(path)
        raise


def _create(path: str, content: bytes, size: int) -> None:
    temporary = f"{path}.tmp.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o644)
    except OSError as error:
        raise OpenFailed(path, error.errno or 0) from error
    try:
        try:
            os.ftruncate(fd, size)
            os.pwrite(fd, content, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
    sync_folder(os.path.dirname(os.path.abspath(path)))


def publish(temporary: str, path: str) -> None:
    """Gives a file its name, as a second one where that can be; OpenFailed when it is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise OpenFailed(path, errno.EEXIST) from error
    except OSError:  # the file system knows no second name
        must_not_exist(path)
        os.rename(temporary, path)


def sync_folder(path: str) -> None:
    sync(path, os.O_DIRECTORY)


def sync(path: str, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
