# SPDX-License-Identifier: Apache-2.0
"""
Where bytes come from. A format reads one stream and is one itself, so that wrappings stack: the
LSMT reader does not know whether a ZFile, a tar member or a file stands behind it.
"""

import errno
import os
from types import TracebackType
from typing import List, Optional, Protocol, Type, Union

from .. import errors


class Stream(Protocol):
    """Bytes at offsets."""

    @property
    def size(self) -> int:
        """Bytes."""

    def pread(self, count: int, offset: int) -> bytes:
        """Exactly count bytes; FormatError (EIO) where the stream has fewer."""


def read(stream: Stream) -> bytes:
    """All of it."""
    return stream.pread(stream.size, 0)


def check_range(stream: Stream, count: int, offset: int) -> None:
    """FormatError unless [offset, offset + count) lies inside the stream."""
    if offset < 0 or count < 0 or offset + count > stream.size:
        reason = f"{count} bytes wanted of a stream of {stream.size}"
        raise errors.FormatError(errno.EIO, reason, offset)


class Memory:
    """A stream of bytes that are at hand."""

    def __init__(self, data: Union[bytes, bytearray, memoryview]) -> None:
        self._data = memoryview(data)
        self.size = len(data)

    def pread(self, count: int, offset: int) -> bytes:
        check_range(self, count, offset)
        return bytes(self._data[offset : offset + count])


class File:
    """A file as a stream. Close it, or leave its `with` block."""

    def __init__(self, path: Union[str, "os.PathLike[str]"]) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.lseek(self._fd, 0, os.SEEK_END)

    def pread(self, count: int, offset: int) -> bytes:
        check_range(self, count, offset)
        parts: List[bytes] = []
        while count:
            part = os.pread(self._fd, count, offset)
            if not part:
                raise errors.FormatError(errno.EIO, "the file has become shorter", offset)
            parts.append(part)
            offset += len(part)
            count -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "File":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


class Part:
    """[base, base + size) of another stream."""

    def __init__(self, stream: Stream, base: int, size: int) -> None:
        check_range(stream, size, base)
        self._stream = stream
        self.base = base
        self.size = size

    def pread(self, count: int, offset: int) -> bytes:
        check_range(self, count, offset)
        return self._stream.pread(count, self.base + offset)
