# SPDX-License-Identifier: Apache-2.0
"""The core's inside, as tests see it: the exports of native/obd_test.h, in its order."""

import ctypes
import os
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint, c_uint32, c_uint64, c_void_p

from overlaybd_tcmu.ffi import load

_library = load.open_library(load.find_library())


def _fn(name, result, *arguments):
    function = getattr(_library, f"obd_test_{name}")
    function.restype = result
    function.argtypes = arguments
    return function


_words = POINTER(c_uint64)

index_create = _fn(
    "index_create", c_int, _words, _words, POINTER(c_size_t), c_uint, POINTER(c_void_p)
)
index_destroy = _fn("index_destroy", None, c_void_p)
index_count = _fn("index_count", c_size_t, c_void_p)
index_memory = _fn("index_memory", c_uint64, c_void_p)
index_copy = _fn("index_copy", None, c_void_p, _words, _words)
index_find = _fn("index_find", None, c_void_p, _words, c_size_t, _words)
index_find_plain = _fn("index_find_plain", None, c_void_p, _words, c_size_t, _words)
index_version = _fn("index_version", c_char_p)

load_acquire = _fn("load_acquire", c_uint32, c_void_p)
store_release = _fn("store_release", None, c_void_p, c_uint32)

feed_budget = _fn("feed_budget", None, c_size_t)

upper_index_create = _fn("upper_index_create", c_int, c_int, POINTER(c_void_p))
upper_index_destroy = _fn("upper_index_destroy", None, c_void_p)
upper_index_set = _fn(
    "upper_index_set", c_int, c_void_p, c_uint64, c_uint64, c_uint64, _words, c_uint
)
upper_index_unset = _fn("upper_index_unset", c_int, c_void_p, c_uint64, c_uint64)
upper_index_find = _fn(
    "upper_index_find", c_uint, c_void_p, c_uint64, c_uint64, _words, _words, c_uint
)
upper_index_totals = _fn("upper_index_totals", None, c_void_p, _words, _words, _words)
_upper_boot = _fn("upper_boot", None, c_char_p)
upper_timer = _fn("upper_timer", None, c_uint)
upper_compact = _fn("upper_compact", None, c_uint64)

_crc32c = _fn("crc32c", c_int, c_uint, c_char_p, c_size_t, c_uint32, POINTER(c_uint32))
_layer_pread = _fn("layer_pread", c_int64, c_void_p, c_void_p, c_size_t, c_uint64)


def crc32c(version, data, seed):
    """Raw CRC-32C by the version of that number; OSError with ENOTSUP or ENOENT without it."""
    ret = c_uint32()
    code = _crc32c(version, data, len(data), seed, ctypes.byref(ret))
    if code < 0:
        raise OSError(-code, f"crc32c version {version}")
    return ret.value


def upper_boot(boot):
    """From now on this is another start of the kernel, 16 bytes of it; None: the real one again."""
    _upper_boot(boot)


def layer_pread(layer, count, offset):
    """Bytes of the unwrapped stream of a native.Layer."""
    buffer = ctypes.create_string_buffer(max(count, 1))
    code = _layer_pread(layer.address, buffer, count, offset)
    if code < 0:
        raise OSError(-code, os.strerror(-code))
    return buffer.raw[:code]


class Index:
    """A merged index. Layers are lists of (sector, length, msector, zeroed), lowest layer first."""

    def __init__(self, layers):
        segments = [segment for layer in layers for segment in layer]
        keys = _array([sector << 14 | length for sector, length, _, _ in segments])
        maps = _array([msector | zeroed << 55 for _, _, msector, zeroed in segments])
        counts = (c_size_t * len(layers))(*[len(layer) for layer in layers])
        self._handle = c_void_p()
        code = index_create(keys, maps, counts, len(layers), ctypes.byref(self._handle))
        if code < 0:
            raise OSError(-code, "obd_index_create")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        index_destroy(self._handle)

    def __len__(self):
        return index_count(self._handle)

    @property
    def memory(self):
        return index_memory(self._handle)

    def segments(self):
        """(sector, length, msector, zeroed, layer) in the order they are kept."""
        keys, maps = _array([0] * len(self)), _array([0] * len(self))
        index_copy(self._handle, keys, maps)
        return [
            (key >> 14, key & 0x3FFF, word & (1 << 55) - 1, word >> 55 & 1, word >> 56)
            for key, word in zip(keys, maps)
        ]

    def find(self, sectors, function=index_find):
        found = _array([0] * len(sectors))
        function(self._handle, _array(sectors), len(sectors), found)
        return list(found)

    def find_plain(self, sectors):
        return self.find(sectors, index_find_plain)


class UpperIndex:
    """A writable layer's index. Segments are (sector, length, msector, zeroed)."""

    LOST = 4096

    def __init__(self, exact=False):
        self._handle = c_void_p()
        self._lost = _array([0] * (2 * self.LOST))
        assert upper_index_create(int(exact), ctypes.byref(self._handle)) == 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        upper_index_destroy(self._handle)

    def set(self, sector, length, msector, zeroed=0):
        """The runs (msector, sectors) of data that can no longer be reached."""
        word = msector | zeroed << 55
        count = upper_index_set(self._handle, sector, length, word, self._lost, self.LOST)
        assert 0 <= count <= self.LOST
        return [(self._lost[2 * i], self._lost[2 * i + 1]) for i in range(count)]

    def unset(self, sector, end):
        assert upper_index_unset(self._handle, sector, end) == 0

    def find(self, sector, end, count):
        keys, maps = _array([0] * count), _array([0] * count)
        found = upper_index_find(self._handle, sector, end, keys, maps, count)
        return [
            (key >> 14, key & 0x3FFF, word & (1 << 55) - 1, word >> 55)
            for key, word in zip(keys[:found], maps[:found])
        ]

    def totals(self):
        """Segments, mapped sectors, bytes held."""
        words = _array([0]), _array([0]), _array([0])
        upper_index_totals(self._handle, *words)
        return tuple(word[0] for word in words)


def _array(values):
    return (c_uint64 * len(values))(*values)
