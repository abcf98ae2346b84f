# SPDX-License-Identifier: Apache-2.0
"""The frames between host and guest, on one virtio-serial port.

    frame = channel u32 | kind u8 | length u32 | length bytes

A channel is one command, numbered by the host; channel 0 is the machine itself. Both ends import
this file (the guest has a copy in its initrd), so it uses nothing but the standard library.
"""
from __future__ import annotations

import struct
from typing import Callable, Tuple

PORT_NAME = "overlaybd.agent"

# host to guest
START = 0  # JSON: argv, env, cwd
INPUT = 1  # bytes for its stdin
INPUT_END = 2
SIGNAL = 3  # i32, to its whole process group
POWER_OFF = 4
# guest to host
READY = 5  # channel 0: the machine can take commands
OUTPUT = 6
ERRORS = 7
EXIT = 8  # i32: status, or minus the signal that ended it

HEADER = struct.Struct("<IBI")
NUMBER = struct.Struct("<i")
CHUNK_BYTES = 64 * 1024

Frame = Tuple[int, int, bytes]


def pack(channel: int, kind: int, data: bytes = b"") -> bytes:
    return HEADER.pack(channel, kind, len(data)) + data


def unpack(read: Callable[[int], bytes]) -> Frame:
    """Takes one frame from read, which returns exactly the count asked for or raises EOFError."""
    channel, kind, length = HEADER.unpack(read(HEADER.size))
    return channel, kind, read(length) if length else b""
