# SPDX-License-Identifier: Apache-2.0
"""
The kernel's side of a TCMU device in this process: the shared memory and the event descriptor, with
no module, root or virtual machine. The layout is linux/target_core_user.h's, restated here so that
a mistake in native/ring.c does not hide itself.

    with Kernel() as kernel:
        tcmu = native.Tcmu(image, kernel.options())
        ...                                     # run() in a thread
        read = kernel.queue(READ_10..., 4096)
        kernel.kick()
        answer = kernel.answers(1)[read]        # status, sense, data
"""

import contextlib
import ctypes
import dataclasses
import mmap
import os
import select
import socket
import struct

from overlaybd_tcmu.ffi import native

from . import native_test

RING_OFFSET = 128
HEAD, TAIL = 12, 64
ENTRY_END = 112
PAD, COMMAND, TMR = 0, 1, 2
OUT_OF_ORDER, READ_LENGTH = 1, 2
PAGE = 4096
TIMEOUT_S = 60.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command was answered."""

    status: int
    key: int
    asc: int  # additional code and qualifier, as in 0x2400
    sense: bytes
    data: bytes  # the whole buffer, whatever was written of it
    read_count: int  # bytes the device says it has put there


class Kernel:
    """ring and data are bytes of the two areas; flags those of the mailbox."""

    def __init__(self, ring=64 << 10, data=4 << 20, flags=OUT_OF_ORDER | READ_LENGTH, version=2):
        assert ring % 8 == 0
        self._uio, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._uio.setblocking(False)
        self._begin(mmap.mmap(-1, ring + data), ring, ours)
        struct.pack_into("=HHII", self._memory, 0, version, flags, RING_OFFSET, self.ring)

    @classmethod
    def attached(cls, memory_fd, events_fd, ring):
        """The kernel's side of a device whose other side is in another process; takes both fds."""
        self = cls.__new__(cls)
        self._uio = None
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=events_fd)
        ours.setblocking(True)
        self._begin(mmap.mmap(memory_fd, 0), ring, ours)
        os.close(memory_fd)
        return self

    def _begin(self, memory, ring, ours):
        self.ring, self.data_size = ring - RING_OFFSET, len(memory) - ring
        self._memory, self._ours = memory, ours
        self._pin = (ctypes.c_char * len(self._memory)).from_buffer(self._memory)
        self._head = self._cleaned = 0
        self._data_at = ring  # where the next command's buffers begin
        self._commands = {}  # id: (data-in buffers, bytes)
        self._ids = 0
        self._in_use = 0  # bytes of the data area
        self.notified = 0

    def options(self, **more):
        return native.TcmuOptions(
            uio_fd=self._uio.fileno(),
            map=ctypes.addressof(self._pin),
            map_size=len(self._memory),
            **{"block_size": 512, **more},
        )

    # ---- commands in

    def queue(self, cdb, count=0, pieces=1, data=b"", cdb_length=None):
        """Puts a command into the ring; count bytes of buffers in that many pieces. Its id."""
        count = max(count, len(data))
        buffers = self._buffers(count, pieces)
        for offset, length in buffers:
            self._memory[offset : offset + length] = data[:length].ljust(length, b"\xee")
            data = data[length:]
        self._ids = (self._ids + 1) % 65536
        self._commands[self._ids] = buffers
        self.put_command(self._ids, bytes(cdb), buffers, cdb_length)
        return self._ids

    def put_command(self, number, cdb, buffers, cdb_length=None):
        base = max(ENTRY_END, 48 + 16 * len(buffers))
        length = base + -(-(cdb_length or len(cdb)) // 8) * 8
        at = self._room_for(length)
        entry = struct.pack("=IHBBIIIIQQQ", length | COMMAND, number, 0, 0, len(buffers), 0, 0, 0,
                            at + base, 0, 0)  # fmt: skip
        entry += b"".join(struct.pack("=QQ", *buffer) for buffer in buffers)
        self._memory[at : at + len(entry)] = entry
        self._memory[at + base : at + base + len(cdb)] = bytes(cdb)
        self._advance(length)

    def put_other(self, kind, length=ENTRY_END):
        """An entry that is no command."""
        at = self._room_for(length)
        self._memory[at : at + length] = struct.pack("=I", length | kind).ljust(length, b"\0")
        self._advance(length)

    def put_raw(self, entry, advance):
        """Whatever a broken kernel might write."""
        at = RING_OFFSET + self._head
        self._memory[at : at + len(entry)] = entry
        self._advance(advance)

    def expect(self, number):
        """An answer to a command that put_raw() made is no surprise."""
        self._commands[number] = []

    def patch(self, offset, value):
        """A field of the mailbox; struct.pack_into() would let the device see it half written."""
        native_test.store_release(ctypes.addressof(self._pin) + offset, value)

    def set_head(self, value):
        self.patch(HEAD, value)

    def kick(self):
        """Tells the device that there are commands."""
        self._ours.send(b"\0\0\0\0")

    def unplug(self):
        """The device is unregistered."""
        self._ours.close()

    def free(self):
        """Bytes of the ring no entry lies in."""
        return (self._cleaned - self._head - 1) % self.ring

    def _buffers(self, count, pieces):
        """Apart by a page, so that no two are one."""
        sizes = [count // pieces] * (pieces - 1)
        sizes.append(count - sum(sizes))
        found = []
        for size in sizes if count else []:
            span = -(-size // PAGE) * PAGE + PAGE
            if self._data_at + span > len(self._memory):
                self._data_at = RING_OFFSET + self.ring
            found.append((self._data_at, size))
            self._data_at += span
            self._in_use += span
        assert self._in_use <= self.data_size // 2, "the data area is too small for this test"
        return found

    def _room_for(self, length):
        """Where an entry of that length may begin: entries do not wrap, a pad fills the end."""
        left = self.ring - self._head
        if left < length:
            struct.pack_into("=I", self._memory, RING_OFFSET + self._head, left | PAD)
            self._advance(left)
        assert self.free() >= length
        return RING_OFFSET + self._head

    def _advance(self, length):
        self._head = (self._head + length) % self.ring
        self.set_head(self._head)

    # ---- answers out

    def tail(self):
        return native_test.load_acquire(ctypes.addressof(self._pin) + TAIL)

    def drained(self):
        return self.tail() == self._head

    def reap(self):
        """[(id, Answer)] of what is answered and not yet seen, in the order of the ring."""
        found = []
        tail = self.tail()
        while self._cleaned != tail:
            at = RING_OFFSET + self._cleaned
            length, number, _, flags = struct.unpack_from("=IHBB", self._memory, at)
            if length & 7 == COMMAND:
                found.append((number, self._answer(at, number, flags)))
            self._cleaned = (self._cleaned + (length & ~7)) % self.ring
        return found

    def answers(self, count):
        """{id: Answer} of the next count answers; waits to be told of each."""
        found = []
        while len(found) < count:
            self.wait_notified()
            found += self.reap()
        assert len(found) == count, "more answers than were waited for"
        return dict(found)

    def wait_notified(self, timeout_s=TIMEOUT_S):
        ready, _, _ = select.select([self._ours], [], [], timeout_s)
        assert ready, f"not told of an answer within {timeout_s:g} s"
        self.notified += len(self._ours.recv(1 << 16)) // 4

    def _answer(self, at, number, flags):
        buffers = self._commands.pop(number)
        status, read_count = (
            self._memory[at + 8],
            struct.unpack_from("=I", self._memory, at + 12)[0],
        )
        sense = bytes(self._memory[at + 16 : at + 34]) if status == 2 else bytes(18)
        self._in_use -= sum(-(-size // PAGE) * PAGE + PAGE for _, size in buffers)
        data = b"".join(self._memory[offset : offset + size] for offset, size in buffers)
        if not flags & READ_LENGTH:
            read_count = len(data)
        asc = sense[12] << 8 | sense[13]
        return Answer(status, sense[2] & 15, asc, sense, data, read_count)

    # ---- life

    def close(self):
        with contextlib.suppress(OSError):
            self._ours.close()
        if self._uio:
            self._uio.close()
        del self._pin
        self._memory.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
