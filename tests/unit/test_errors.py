# SPDX-License-Identifier: Apache-2.0
"""Every error is one line made from its fields, and keeps them."""

import errno

import pytest

from overlaybd_tcmu import errors


@pytest.mark.parametrize(
    "error, text",
    [
        (errors.ConfigError("f.json", "a.b", "must be"), "f.json: a.b: must be"),
        (errors.ConfigError("f.json", "", "is not JSON"), "f.json: is not JSON"),
        (errors.ImageError("failed to open layer 0"), "failed to open layer 0"),
        (errors.ImageError("failed to open layer 0", "why"), "failed to open layer 0: why"),
        (
            errors.FormatError(errno.EIO, "bad magic", 8),
            "bad magic at offset 8 (Input/output error)",
        ),
        (errors.FormatError(errno.EINVAL, "too many"), "too many (Invalid argument)"),
        (errors.LibraryError("/l.so", "not found"), "/l.so: not found"),
        (errors.TcmuError("no module", "load it"), "no module (load it)"),
        (errors.TcmuError("no module"), "no module"),
        (errors.NativeError(errno.EIO, "/f: crc at 8"), "/f: crc at 8 (Input/output error)"),
        (errors.NativeError(errno.EIO, "x: Input/output error"), "x: Input/output error"),
        (errors.NativeError(errno.ENODEV), "No such device"),
        (
            errors.RegistryError(errors.RegistryFailure.THROTTLED, "http://h answered 429"),
            "Too many requests: http://h answered 429",
        ),
    ],
)
def test_text(error, text):
    assert str(error) == text
    assert isinstance(error, errors.Error)


def test_native_error_is_an_os_error_with_its_number():
    error = errors.NativeError(errno.ENODEV, "gone")
    assert isinstance(error, OSError)
    assert (error.errno, error.code, error.text) == (errno.ENODEV, errno.ENODEV, "gone")


def test_second_daemon_is_a_tcmu_error():
    assert issubclass(errors.AlreadyRunning, errors.TcmuError)


def test_registry_errors_of_different_kinds_are_told_apart():
    """Some share words and errno with another, as the original's did; the kind does not."""
    assert len(errors.RegistryFailure) == len(errors.RegistryFailure.__members__) == 11


def test_registry_error_is_temporary_as_its_kind_is_unless_said_otherwise():
    kind = errors.RegistryFailure.PROTOCOL
    assert not errors.RegistryError(kind, "ignores Range").temporary
    assert errors.RegistryError(kind, "short body", temporary=True).temporary
    assert errors.RegistryError(errors.RegistryFailure.DNS, "no name").temporary
