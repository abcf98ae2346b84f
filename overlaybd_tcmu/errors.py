# SPDX-License-Identifier: Apache-2.0
"""
Every failure a caller can act on, as one tree:

    Error
    |-- ConfigError         a configuration file is wrong: which file, which key, why
    |-- ImageError          an image cannot be opened; resultFile says its reason after "failed:"
    |-- FormatError         bytes on disk are not what they claim to be: where, why, which errno
    |-- LibraryError        a shared library is missing or not the one we were written for
    |-- RegistryError       a blob cannot be had from its registry: what kind of failure it is
    |-- TcmuError           the kernel's side of TCMU is missing or refuses
    |   `-- AlreadyRunning  another daemon serves this host
    `-- NativeError         the native core failed; also an OSError, with errno and one line

What the kernel refused to Python itself stays the OSError it is. The text is made from the
fields, never parsed back.
"""

import enum
import errno
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


class RegistryFailure(enum.Enum):
    """
    Kinds of RegistryError: the words users know, the errno of the original, and whether the same
    request may succeed later although nobody mends anything.
    """

    AUTH = ("auth", "Authentication failed", errno.EPERM, False)  # 401, 403, or no token to be had
    NOT_FOUND = ("not_found", "No such file or directory", errno.ENOENT, False)  # 404
    THROTTLED = ("throttled", "Too many requests", errno.EBUSY, True)  # 429
    SERVER = ("server", "Unexpected response", errno.EIO, True)  # 5xx, 408
    TIMEOUT = (
        "timeout",
        "Get meta timedout",
        errno.ETIMEDOUT,
        True,
    )  # no answer, or one that does not end
    CONNECT = ("connect", "Connection failed", errno.ENOTCONN, True)  # refused, reset, no route
    DNS = ("dns", "Connection failed", errno.ENOTCONN, True)  # no address for the host's name
    TLS = ("tls", "Connection failed", errno.ENOTCONN, False)  # a certificate that is not trusted
    # An answer that is not what was asked for: the range ignored, another length, a short body.
    PROTOCOL = ("protocol", "Unexpected response", errno.EIO, False)
    CONFIG = (
        "config",
        "Invalid argument",
        errno.EINVAL,
        False,
    )  # an impossible URL, a wrong hosts.toml
    CLOSED = (
        "closed",
        "Operation canceled",
        errno.ECANCELED,
        False,
    )  # the blob was closed meanwhile

    def __init__(self, label: str, text: str, code: int, temporary: bool) -> None:
        self.label = label
        self.text = text
        self.code = code
        self.temporary = temporary


class RegistryError(Error):
    """A blob, or a range of it, cannot be had from its registry."""

    def __init__(
        self,
        kind: RegistryFailure,
        cause: str,
        temporary: Optional[bool] = None,
        retry_after_s: Optional[float] = None,
    ) -> None:
        super().__init__(kind, cause, temporary, retry_after_s)
        self.kind = kind
        self.cause = cause  # who answered what; no query of an URL, no secret
        self.temporary = kind.temporary if temporary is None else temporary
        self.retry_after_s = retry_after_s  # what the server asked for, None when it did not
        self.errno = kind.code

    def __str__(self) -> str:
        return f"{self.kind.text}: {self.cause}"

    def copy(self) -> "RegistryError":
        """For another thread: one that is raised twice collects both tracebacks."""
        return RegistryError(self.kind, self.cause, self.temporary, self.retry_after_s)


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
