# SPDX-License-Identifier: Apache-2.0
"""
Finds and opens shared libraries.

$OVERLAYBD_NATIVE demands a build of the core (sanitizers, coverage) and never falls back; without
it the first of

    overlaybd_tcmu/ffi/libobd.so     what pip and the packages install
    build/native/libobd.so           what make leaves in a checkout
    /opt/overlaybd/lib/libobd.so

is taken. A library that belongs to the core, such as libobd_ext4.so, is looked for in the same
places, or beside the core that is demanded.
"""

import ctypes
import os
import pathlib
from typing import List

from .. import errors

NATIVE_VARIABLE = "OVERLAYBD_NATIVE"
NATIVE_NAME = "libobd.so"

_HERE = pathlib.Path(__file__).resolve().parent


def candidates(name: str = NATIVE_NAME) -> List[pathlib.Path]:
    """Where a library may be when nothing demands a build, best first."""
    return [
        _HERE / name,
        _HERE.parents[1] / "build" / "native" / name,
        pathlib.Path("/opt/overlaybd/lib") / name,
    ]


def find_library(name: str = NATIVE_NAME) -> str:
    """Path of the native core to use, or of a library that belongs to it."""
    demanded = os.environ.get(NATIVE_VARIABLE)
    if demanded:
        if name != NATIVE_NAME:
            demanded = os.path.join(os.path.dirname(demanded), name)
        if not os.path.isfile(demanded):
            raise errors.LibraryError(demanded, f"no such file (${NATIVE_VARIABLE} names it)")
        return os.path.abspath(demanded)
    for path in candidates(name):
        if path.is_file():
            return str(path)
    tried = ", ".join(str(path) for path in candidates(name))
    raise errors.LibraryError(name, f"not found; run 'make build' (tried {tried})")


def open_library(path: str) -> ctypes.CDLL:
    """CDLL, never PyDLL: the GIL is released in every call, so a device may stay in C for ever."""
    try:
        return ctypes.CDLL(path, use_errno=True)
    except OSError as error:
        raise errors.LibraryError(path, f"cannot be loaded: {error}") from error
