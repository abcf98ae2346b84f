# SPDX-License-Identifier: Apache-2.0
"""
native/obd.h restated: its structs and its functions, in its order, and nothing else.

native.py makes handles of them. The library is loaded and checked at the first use of library(),
so that --help works without it: its ABI number and the size of every struct must be what this file
says, else it is refused with both files named.
"""

import ctypes
import functools
import os
from ctypes import (
    POINTER,
    c_char,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

from .. import errors
from . import load

ABI_VERSION = 6

LATENCY_BUCKETS = 28

# ---- the structs of obd.h


class Error(ctypes.Structure):
    _fields_ = [("code", c_int32), ("text", c_char * 508)]


class Latency(ctypes.Structure):
    _fields_ = [("total_ns", c_uint64), ("buckets", c_uint64 * LATENCY_BUCKETS)]


class Event(ctypes.Structure):
    _fields_ = [
        ("kind", c_uint32),
        ("code", c_int32),
        ("offset", c_uint64),
        ("count", c_uint64),
        ("latency_us", c_uint64),
        ("dropped", c_uint64),
        ("image", c_char * 256),
        ("text", c_char * 512),
    ]


class Miss(ctypes.Structure):
    _fields_ = [
        ("file", c_uint64),
        ("reader", c_uint64),
        ("offset", c_uint64),
        ("count", c_uint64),
        ("kind", c_uint32),
        ("reserved", c_uint32),
    ]


class Receive(ctypes.Structure):
    _fields_ = [
        ("buf", c_void_p),
        ("size", c_uint64),
        ("count", c_uint64),
        ("offset", c_uint64),
        ("sums", POINTER(c_uint32)),
        ("fill", c_uint32),
        ("timeout_ms", c_uint32),
        ("received", c_uint64),
        ("filled", c_uint64),
        ("waited_ns", c_uint64),
        ("refused", c_int32),
        ("reserved", c_uint32),
    ]


class Ask(ctypes.Structure):
    _fields_ = [
        ("request", c_char_p),
        ("request_size", c_uint64),
        ("digest", c_char_p),
        ("etag", c_char_p),
        ("blob_size", c_uint64),
        ("head", c_uint64),
        ("odd", c_uint64),
    ]


class LayerInfo(ctypes.Structure):
    _fields_ = [
        ("virtual_size", c_uint64),
        ("stream_size", c_uint64),
        ("segments", c_uint64),
        ("memory", c_uint64),
        ("tar", c_uint32),
        ("zfile", c_uint32),
        ("block_size", c_uint32),
        ("verify", c_uint32),
        ("direct", c_uint32),
        ("sparse", c_uint32),
        ("uuid", c_char * 40),
        ("parent_uuid", c_char * 40),
        ("message", c_char * 260),
    ]


class UpperOptions(ctypes.Structure):
    _fields_ = [
        ("virtual_size", c_uint64),
        ("sparse", c_uint32),
        ("reserved", c_uint32),
        ("uuid", c_char_p),
        ("parent_uuid", c_char_p),
    ]


class UpperInfo(ctypes.Structure):
    _fields_ = [
        ("virtual_size", c_uint64),
        ("segments", c_uint64),
        ("mapped", c_uint64),
        ("memory", c_uint64),
        ("data_size", c_uint64),
        ("dropped", c_uint64),
        ("sparse", c_uint32),
        ("read_only", c_uint32),
        ("uuid", c_char * 40),
        ("parent_uuid", c_char * 40),
    ]


class ImageOptions(ctypes.Structure):
    _fields_ = [
        ("engine", c_uint32),
        ("helpers", c_uint32),
        ("depth", c_uint32),
        ("slow_read_us", c_uint32),
    ]


class ImageInfo(ctypes.Structure):
    _fields_ = [
        ("virtual_size", c_uint64),
        ("segments", c_uint64),
        ("mapped", c_uint64),
        ("memory", c_uint64),
        ("layers", c_uint32),
        ("engine", c_uint32),
        ("writable", c_uint32),
        ("discard", c_uint32),
    ]


class ImageStats(ctypes.Structure):
    _fields_ = [
        ("reads", c_uint64),
        ("read_bytes", c_uint64),
        ("zero_bytes", c_uint64),
        ("errors", c_uint64),
        ("inline_reads", c_uint64),
        ("disk_reads", c_uint64),
        ("disk_bytes", c_uint64),
        ("hits", c_uint64),
        ("blocked", c_uint64),
        ("inflight_max", c_uint64),
        ("blocks_decoded", c_uint64),
        ("block_hits", c_uint64),
        ("slow_reads", c_uint64),
        ("in_place", c_uint64),
        ("threads", c_uint64),
        ("writes", c_uint64),
        ("write_bytes", c_uint64),
        ("discards", c_uint64),
        ("flushes", c_uint64),
        ("in_place_bytes", c_uint64),
        ("cache_reads", c_uint64),
        ("cache_bytes", c_uint64),
        ("misses", c_uint64),
    ]


class TcmuOptions(ctypes.Structure):
    _fields_ = [
        ("uio_fd", c_int32),
        ("block_size", c_uint32),
        ("map", c_uint64),
        ("map_size", c_uint64),
        ("max_transfer", c_uint32),
        ("read_only", c_uint32),
        ("serial_path", c_char_p),
        ("cfgstring", c_char_p),
    ]


class TcmuStats(ctypes.Structure):
    _fields_ = [
        ("wakeups", c_uint64),
        ("commands", c_uint64),
        ("reads", c_uint64),
        ("others", c_uint64),
        ("rejected", c_uint64),
        ("notifies", c_uint64),
        ("inflight", c_uint64),
        ("writes", c_uint64),
        ("read_errors", c_uint64),
        ("change_errors", c_uint64),
    ]


class TcmuPending(ctypes.Structure):
    _fields_ = [
        ("age_ns", c_uint64),
        ("offset", c_uint64),
        ("count", c_uint64),
        ("kind", c_uint32),
        ("reserved", c_uint32),
    ]


class OutputOptions(ctypes.Structure):
    _fields_ = [
        ("path", c_char_p),
        ("mode", c_uint32),
        ("replace", c_uint32),
        ("tar", c_uint32),
        ("algo", c_uint32),
        ("block_size", c_uint32),
        ("final_header", c_uint32),
        ("threads", c_uint32),
    ]


class CommitOptions(ctypes.Structure):
    _fields_ = [
        ("uuid", c_char_p),
        ("parent_uuid", c_char_p),
        ("message", c_char_p),
        ("message_size", c_uint32),
        ("reserved", c_uint32),
    ]


STRUCTS: Dict[str, Type[ctypes.Structure]] = {
    "obd_error": Error,
    "obd_latency": Latency,
    "obd_event": Event,
    "obd_miss": Miss,
    "obd_receive": Receive,
    "obd_ask": Ask,
    "obd_layer_info": LayerInfo,
    "obd_upper_options": UpperOptions,
    "obd_upper_info": UpperInfo,
    "obd_image_options": ImageOptions,
    "obd_image_info": ImageInfo,
    "obd_image_stats": ImageStats,
    "obd_tcmu_options": TcmuOptions,
    "obd_tcmu_stats": TcmuStats,
    "obd_tcmu_pending": TcmuPending,
    "obd_output_options": OutputOptions,
    "obd_commit_options": CommitOptions,
}


# ---- the functions of obd.h


def _check(result: int, function: Any, _arguments: Tuple[Any, ...]) -> int:
    """errcheck of a function that only returns -errno."""
    if result < 0:
        raise errors.NativeError(-result, f"{function.__name__}: {os.strerror(-result)}")
    return result


def _check_text(result: int, function: Any, arguments: Tuple[Any, ...]) -> int:
    """errcheck of a function whose last argument is a struct obd_error."""
    if result < 0:
        error: Error = arguments[-1]._obj  # pylint: disable=protected-access
        text = error.text.decode("utf-8", "replace")
        raise errors.NativeError(-result, text or f"{function.__name__}: {os.strerror(-result)}")
    return result


# Arguments that most of them have: a handle, where a new one goes, why it failed.
_HANDLE = c_void_p
_RET = POINTER(c_void_p)
_ERROR = POINTER(Error)


class Library:
    """The loaded core: one attribute a function, so that grep and mypy see every name."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._dll = load.open_library(path)
        # Of functions that take moments, and are called where the interpreter's lock is wanted by
        # others: who lets go of it for so little may wait long until it has it back.
        self._held = ctypes.PyDLL(path, handle=self._dll._handle)
        fn = self._bind
        self.abi = fn("abi", c_uint32, [])
        self.sizeof = fn("sizeof", c_size_t, [c_char_p])
        self.build_info = fn("build_info", c_char_p, [])
        self._check_abi()
        self._bind_blobs(fn)
        self._bind_cache(fn)
        self._bind_layers(fn)
        self._bind_images(fn)
        self._bind_tcmu(fn)
        self._bind_writing(fn)

    def _bind_blobs(self, fn: Callable[..., Any]) -> None:
        self.events_create = fn("events_create", c_int, [_RET], _check)
        self.events_destroy = fn("events_destroy", None, [_HANDLE])
        self.events_next = fn("events_next", c_int, [_HANDLE, c_int, POINTER(Event)])
        self.events_stop = fn("events_stop", None, [_HANDLE])

        self.blob_open = fn("blob_open", c_int, [c_char_p, c_uint32, _RET, _ERROR], _check_text)
        self.blob_close = fn("blob_close", None, [_HANDLE])

    def _bind_cache(self, fn: Callable[..., Any]) -> None:
        self.misses_create = fn("misses_create", c_int, [c_uint32, _RET], _check)
        self.misses_destroy = fn("misses_destroy", None, [_HANDLE])
        self.misses_next = fn("misses_next", c_int, [_HANDLE, c_int, POINTER(Miss), c_uint32])
        self.misses_takers = fn("misses_takers", c_uint32, [_HANDLE], held=True)
        self.misses_call = fn("misses_call", c_int, [_HANDLE], held=True)
        self.misses_stop = fn("misses_stop", None, [_HANDLE])
        self.misses_set_epoch = fn("misses_set_epoch", None, [_HANDLE, c_uint32], held=True)
        self.misses_parked = fn("misses_parked", c_uint32, [_HANDLE])

        words = POINTER(c_uint32)
        self.cachefile_open = fn(
            "cachefile_open",
            c_int,
            [_HANDLE, c_char_p, c_uint64, c_uint64, _RET, _ERROR],
            _check_text,
        )
        self.cachefile_close = fn("cachefile_close", None, [_HANDLE])
        self.blob_cached = fn("blob_cached", c_int, [_HANDLE, c_int, _RET, _ERROR], _check_text)
        self.blob_cancel = fn("blob_cancel", None, [_HANDLE])
        self.cachefile_fill = fn(
            "cachefile_fill", c_int, [_HANDLE, c_void_p, c_size_t, c_uint64, words], _check
        )
        self.cachefile_receive = fn(
            "cachefile_receive", c_int64, [_HANDLE, c_int, POINTER(Receive)]
        )
        self.cachefile_ready = fn(
            "cachefile_ready", c_uint64, [_HANDLE, POINTER(Receive)], held=True
        )
        self.cachefile_ask = fn(
            "cachefile_ask", c_int64, [_HANDLE, c_int, POINTER(Receive), POINTER(Ask)]
        )
        self.cachefile_unexpect = fn("cachefile_unexpect", None, [_HANDLE, c_uint64, c_uint64])
        self.punch = fn("punch", None, [c_int, c_uint64, c_uint64])
        self.cachefile_spill = fn(
            "cachefile_spill", c_int, [_HANDLE, c_void_p, c_size_t, c_uint64], _check
        )
        self.cachefile_recover = fn(
            "cachefile_recover", c_int64, [_HANDLE, c_uint64, c_uint64, words], _check
        )
        self.cachefile_settle = fn(
            "cachefile_settle", None, [_HANDLE, c_uint64, c_uint64], held=True
        )
        self.cachefile_fail = fn("cachefile_fail", None, [_HANDLE, c_uint64, c_uint64, c_int])
        self.cachefile_refuse = fn("cachefile_refuse", None, [_HANDLE, c_uint64, c_uint64, c_int])
        self.cachefile_evict = fn("cachefile_evict", c_int, [_HANDLE, c_uint64, c_uint64], _check)
        self.cachefile_unspill = fn(
            "cachefile_unspill", c_int, [_HANDLE, c_uint64, c_uint64], _check
        )
        self.cachefile_switch = fn(
            "cachefile_switch", c_int, [_HANDLE, c_char_p, _ERROR], _check_text
        )
        self.cachefile_next_gap = fn(
            "cachefile_next_gap",
            c_int,
            [_HANDLE, c_uint64, POINTER(c_uint64), POINTER(c_uint64)],
            _check,
            held=True,
        )
        self.cachefile_present = fn(
            "cachefile_present", c_int64, [_HANDLE, c_uint32, words], _check
        )
        self.cachefile_copy = fn(
            "cachefile_copy", c_int64, [_HANDLE, c_void_p, c_size_t, c_uint64], _check
        )
        self.cachefile_heat = fn(
            "cachefile_heat", c_int, [_HANDLE, c_uint64, c_uint32, words], _check
        )
        self.cachefile_mark = fn("cachefile_mark", c_int, [_HANDLE, c_uint64], _check, held=True)

    def _bind_layers(self, fn: Callable[..., Any]) -> None:
        self.layer_open = fn("layer_open", c_int, [_HANDLE, _RET, _ERROR], _check_text)
        self.layer_open_lean = fn(
            "layer_open_lean", c_int, [_HANDLE, c_uint32, _RET, _ERROR], _check_text
        )
        self.layer_close = fn("layer_close", None, [_HANDLE])
        self.layer_info = fn("layer_info", None, [_HANDLE, POINTER(LayerInfo)])

        self.upper_create = fn(
            "upper_create",
            c_int,
            [c_char_p, c_char_p, POINTER(UpperOptions), _ERROR],
            _check_text,
        )
        self.upper_open = fn(
            "upper_open", c_int, [c_char_p, c_char_p, c_uint32, _RET, _ERROR], _check_text
        )
        self.upper_close = fn("upper_close", c_int, [_HANDLE, _ERROR], _check_text)
        self.upper_info = fn("upper_info", None, [_HANDLE, POINTER(UpperInfo)])
        self.upper_seal = fn("upper_seal", c_int, [_HANDLE, _ERROR], _check_text)
        self.upper_resize = fn("upper_resize", c_int, [_HANDLE, c_uint64, _ERROR], _check_text)

    def _bind_images(self, fn: Callable[..., Any]) -> None:
        self.image_create = fn(
            "image_create",
            c_int,
            [_RET, c_uint32, _HANDLE, POINTER(ImageOptions), _HANDLE, c_char_p, _RET, _ERROR],
            _check_text,
        )
        self.image_destroy = fn("image_destroy", None, [_HANDLE])
        self.image_info = fn("image_info", None, [_HANDLE, POINTER(ImageInfo)])
        self.image_stats = fn("image_stats", None, [_HANDLE, POINTER(ImageStats)])
        self.image_latency = fn(
            "image_latency", c_int, [_HANDLE, c_uint32, POINTER(Latency)], _check
        )
        self.image_pread = fn(
            "image_pread", c_int64, [_HANDLE, c_void_p, c_size_t, c_uint64], _check
        )
        self.image_pwrite = fn(
            "image_pwrite", c_int64, [_HANDLE, c_void_p, c_size_t, c_uint64], _check
        )
        self.image_discard = fn("image_discard", c_int, [_HANDLE, c_uint64, c_uint64], _check)
        self.image_flush = fn("image_flush", c_int, [_HANDLE], _check)
        self.image_snapshot = fn(
            "image_snapshot", c_int, [_HANDLE, _HANDLE, c_char_p, c_char_p, _ERROR], _check_text
        )
        self.image_grow = fn("image_grow", c_int, [_HANDLE, c_uint64, _ERROR], _check_text)
        self.image_next_data = fn(
            "image_next_data",
            c_int,
            [_HANDLE, c_uint64, POINTER(c_uint64), POINTER(c_uint64)],
            _check,
        )
        self.image_advance = fn(
            "image_advance", c_int, [_HANDLE, POINTER(c_uint64), _ERROR], _check_text
        )
        self.image_forget = fn("image_forget", None, [_HANDLE])
        self.image_cancel = fn("image_cancel", None, [_HANDLE, c_int])
        self.image_expire = fn("image_expire", c_uint32, [_HANDLE, c_uint32, c_int])
        self.image_parked = fn("image_parked", c_uint32, [_HANDLE, POINTER(c_uint64)])

    def _bind_tcmu(self, fn: Callable[..., Any]) -> None:
        self.tcmu_create = fn(
            "tcmu_create",
            c_int,
            [_HANDLE, POINTER(TcmuOptions), _RET, _ERROR],
            _check_text,
        )
        self.tcmu_run = fn("tcmu_run", c_int, [_HANDLE], _check)
        self.tcmu_stop = fn("tcmu_stop", None, [_HANDLE])
        self.tcmu_stats = fn("tcmu_stats", None, [_HANDLE, POINTER(TcmuStats)])
        self.tcmu_latency = fn("tcmu_latency", c_int, [_HANDLE, c_uint32, POINTER(Latency)], _check)
        self.tcmu_pending = fn("tcmu_pending", c_uint32, [_HANDLE, POINTER(TcmuPending), c_uint32])
        self.tcmu_destroy = fn("tcmu_destroy", None, [_HANDLE])

    def _bind_writing(self, fn: Callable[..., Any]) -> None:
        self.task_create = fn("task_create", c_int, [_RET], _check)
        self.task_destroy = fn("task_destroy", None, [_HANDLE])
        self.task_stop = fn("task_stop", None, [_HANDLE])
        self.task_progress = fn(
            "task_progress", None, [_HANDLE, POINTER(c_uint64), POINTER(c_uint64)]
        )

        output = POINTER(OutputOptions)
        self.commit = fn(
            "commit",
            c_int,
            [_RET, c_uint32, _HANDLE, POINTER(CommitOptions), output, _HANDLE, _ERROR],
            _check_text,
        )
        self.zfile_compress = fn(
            "zfile_compress", c_int, [c_int, output, _HANDLE, _ERROR], _check_text
        )
        self.zfile_extract = fn(
            "zfile_extract", c_int, [_HANDLE, output, _HANDLE, _ERROR], _check_text
        )
        self.zfile_verify = fn(
            "zfile_verify", c_int, [_HANDLE, c_uint32, _HANDLE, _ERROR], _check_text
        )

    def _bind(
        self,
        name: str,
        result: Any,
        arguments: List[Any],
        check: Optional[Callable[[int, Any, Tuple[Any, ...]], int]] = None,
        held: bool = False,
    ) -> Callable[..., Any]:
        try:
            function = getattr(self._held if held else self._dll, "obd_" + name)
        except AttributeError:
            reason = f"has no obd_{name}, which {__file__} needs; rebuild it"
            raise errors.LibraryError(self.path, reason) from None
        function.restype = result
        function.argtypes = arguments
        if check is not None:
            function.errcheck = check
        bound: Callable[..., Any] = function
        return bound

    def _check_abi(self) -> None:
        abi = self.abi()
        if abi != ABI_VERSION:
            reason = f"has ABI {abi}, but {__file__} was written for ABI {ABI_VERSION}"
            raise errors.LibraryError(self.path, reason)
        for name, struct in STRUCTS.items():
            theirs = self.sizeof(name.encode())
            ours = ctypes.sizeof(struct)
            if theirs != ours:
                reason = f"has a struct {name} of {theirs} bytes, but {__file__} one of {ours}"
                raise errors.LibraryError(self.path, reason)


@functools.lru_cache(maxsize=None)
def library() -> Library:
    """The core, loaded and checked at the first use: --help works without it."""
    return Library(load.find_library())
