# SPDX-License-Identifier: Apache-2.0
"""
The compressors that the original was built with, from the system's liblz4 and libzstd.

Python's packages bring their own: lz4 goes through the streaming interface, whose payloads are
other ones, and zstandard has a release of its own. So bytes are held against these.
"""

import ctypes
import ctypes.util
import functools

import pytest

from overlaybd_tcmu.formats import zfile

# Of the library that the golden data was written with; another release may compress better.
ZSTD_VERSION = 10504


def compress(algo, block):
    """Like zfile.compress."""
    return _lz4(block) if algo == zfile.LZ4 else _zstd(block)


@functools.lru_cache(maxsize=None)
def _library(name):
    path = ctypes.util.find_library(name)
    if path is None:
        pytest.skip(f"lib{name} is not here")
    return ctypes.CDLL(path)


def _lz4(block):
    library = _library("lz4")
    room = library.LZ4_compressBound(len(block))
    payload = ctypes.create_string_buffer(room)
    size = library.LZ4_compress_default(block, payload, len(block), room)
    return payload.raw[:size]


def _zstd(block):
    library = _library("zstd")
    if library.ZSTD_versionNumber() != ZSTD_VERSION:
        pytest.skip(f"libzstd {library.ZSTD_versionNumber()} is not {ZSTD_VERSION}")
    room = ctypes.c_size_t(2 * len(block) + 1024)
    payload = ctypes.create_string_buffer(room.value)
    library.ZSTD_compress.restype = ctypes.c_size_t
    count = ctypes.c_size_t(len(block))
    size = library.ZSTD_compress(payload, room, block, count, zfile.ZSTD_LEVEL)
    return payload.raw[:size]
