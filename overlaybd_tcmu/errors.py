# SPDX-License-Identifier: Apache-2.0
"""
Every failure a caller can act on, as one tree:

    Error
    |-- ConfigError         a configuration file is wrong: which file, which key, why
    |-- ImageError          an image cannot be opened; resultFile says its reason after "failed:"
    |-- FormatError         bytes on disk are not what they claim to be: where, why, which errno
    |-- LibraryError        a shared library is missing or not the one we were written for
    |-- TcmuError           the kernel's side of TCMU is missing or refuses
    |   `-- AlreadyRunning  another daemon serves this host
    `-- NativeError         the native core failed; also an OSError, with errno and one line

What the kernel refused to Python itself stays the OSError it is. The text is made from the
fields, never parsed back.
"""

import os
from typing import Optional


class Error(Exception):
    """Base of all of ours: one line, fit for a user."""


class ConfigError(Error):
    """A configuration file is wrong."""

    def __init__(self, path: str, key: str, reason: str) -> None:
        super().__init__(path, key, reason)
        self.path = path
        self.key = key  # dotted, as in "logConfig.logLevel"; "" when the whole file is meant
        self.reason = reason

    def __str__(self) -> str:
        return ": ".join(part for part in (self.path, self.key, self.reason) if part)


class ImageError(Error):
    """An image cannot be opened."""

    def __init__(self, reason: str, cause: str = "") -> None:
        super().__init__(reason, cause)
        self.reason = reason  # the contract's wording where it has one
        self.cause = cause  # the precise cause, ours

    def __str__(self) -> str:
        return f"{self.reason}: {self.cause}" if self.cause else self.reason


class FormatError(Error):
    """Bytes on disk are not what they claim to be."""

    def __init__(self, code: int, reason: str, offset: Optional[int] = None) -> None:
        super().__init__(code, reason, offset)
        self.errno = code  # what the native core returns for the same bytes
        self.reason = reason
        self.offset = offset  # bytes, None when no single place is to blame

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at offset {self.offset}"
        return f"{self.reason}{where} ({os.strerror(self.errno)})"


class LibraryError(Error):
    """A shared library is missing or is not the one this package was written for."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class TcmuError(Error):
    """The kernel's side of TCMU is missing or refuses."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.reason = reason
        self.hint = hint  # what the user can do about it

    def __str__(self) -> str:
        return f"{self.reason} ({self.hint})" if self.hint else self.reason


class AlreadyRunning(TcmuError):
    """Another daemon serves this host: two would reset each other's live rings."""


class NativeError(Error, OSError):
    """The native core failed: errno, and its one line naming file, field and offset."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(code, text or os.strerror(code))
        self.code = code  # errno, never None as OSError's may be
        self.text = text or os.strerror(code)

    def __str__(self) -> str:
        name = os.strerror(self.code)
        return self.text if name in self.text else f"{self.text} ({name})"
