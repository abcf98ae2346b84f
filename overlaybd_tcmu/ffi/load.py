# SPDX-License-Identifier: Apache-2.0
"""
Finds and opens shared libraries.

$OVERLAYBD_NATIVE demands a build of the core (sanitizers, coverage) and never falls back; without
it the first of

    overlaybd_tcmu/ffi/libobd.so     what pip and the packages install
    build/native/libobd.so           what make leaves in a checkout
    /opt/overlaybd/lib/libobd.so

is taken.
"""

import ctypes
import os
import pathlib
from typing import List

from .. import errors

NATIVE_VARIABLE = "OVERLAYBD_NATIVE"
NATIVE_NAME = "libobd.so"

_HERE = pathlib.Path(__file__).resolve().parent


def candidates() -> List[pathlib.Path]:
    """Where the core may be when nothing demands a build, best first."""
    return [
        _HERE / NATIVE_NAME,
        _HERE.parents[1] / "build" / "native" / NATIVE_NAME,
        pathlib.Path("/opt/overlaybd/lib") / NATIVE_NAME,
    ]


def find_library() -> str:
    """Path of the native core to use."""
    demanded = os.environ.get(NATIVE_VARIABLE)
    if demanded:
        if not os.path.isfile(demanded):
            raise errors.LibraryError(demanded, f"no such file (${NATIVE_VARIABLE} names it)")
        return os.path.abspath(demanded)
    for path in candidates():
        if path.is_file():
            return str(path)
    tried = ", ".join(str(path) for path in candidates())
    raise errors.LibraryError(NATIVE_NAME, f"not found; run 'make build' (tried {tried})")


def open_library(path: str) -> ctypes.CDLL:
    """CDLL, never PyDLL: the GIL is released in every call, so a device may stay in C for ever."""
    try:
        return ctypes.CDLL(path, use_errno=True)
    except OSError as error:
        raise errors.LibraryError(path, f"cannot be loaded: {error}") from error
