# SPDX-License-Identifier: Apache-2.0
"""
A file system with one file whose reads are answered only when enough of them wait.

It speaks the kernel's FUSE protocol itself, in one thread, so what it counts is exact:
`pending_max` is how many reads the kernel had sent and not yet been answered. With `hold=n` no read
is answered before n of them wait, or before `patience_s` has passed without a new one, which
`given_up` counts. That turns "keeps n reads in flight" into a fact instead of a measurement.
"""

import errno
import os
import select
import stat
import struct
import subprocess
import threading

_IN = struct.Struct("=IIQQIIII")
_OUT = struct.Struct("=IiQ")
_ATTR = struct.Struct("=6Q10I")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 17, 18
_INIT, _OPENDIR, _READDIR, _RELEASEDIR = 26, 27, 28, 29
_ACCESS, _INTERRUPT, _DESTROY = 34, 36, 38
_BATCH_FORGET = 42
_ASYNC_READ, _ASYNC_DIO = 1, 1 << 15
_ROOT, _FILE = 1, 2


class SlowFile:
    """
    `with SlowFile(source, mountpoint, hold=16) as slow: open(slow.path, "rb")...`; needs root and
    /dev/fuse.
    """

    def __init__(self, source, mountpoint, hold=1, patience_s=5.0, error_at=None):
        self.mountpoint = str(mountpoint)
        self.path = os.path.join(self.mountpoint, "data")
        self.hold = hold
        self.patience_s = patience_s
        self.error_at = error_at  # a byte offset whose reads fail with EIO
        self.pending_max = 0
        self.reads = 0
        self.given_up = 0
        self.asked = threading.Event()  # by a read that has to wait
        self._source = os.open(source, os.O_RDONLY)
        self._size = os.fstat(self._source).st_size
        self._held = []
        self._wake_r, self._wake_w = os.pipe()
        self._device = os.open("/dev/fuse", os.O_RDWR)
        self._thread = threading.Thread(target=self._serve, name="slowfs")

    def __enter__(self):
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        command = ["mount", "-i", "-n", "-t", "fuse", "-o", options, "slowfs", self.mountpoint]
        subprocess.run(command, check=True, pass_fds=[self._device])
        self._thread.start()
        # A flush is not answered but refused, once for all: a test that is killed would else hang
        # in it for ever, as it is its own file system's server.
        os.close(os.open(self.path, os.O_RDONLY))
        return self

    def __exit__(self, *exc):
        self.release()
        subprocess.run(["umount", "-l", self.mountpoint], check=True)
        os.write(self._wake_w, b"x")
        self._thread.join()
        for fd in (self._source, self._wake_r, self._wake_w, self._device):
            os.close(fd)

    def release(self):
        """From now on every read is answered at once."""
        self.hold = 1
        os.write(self._wake_w, b".")

    # -- the server thread

    def _serve(self):
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        while True:
            ready = dict(poll.poll(self.patience_s * 1000 if self._held else None))
            if not ready:
                self.given_up += 1
            if not ready or len(self._held) >= self.hold:
                self._answer_held()
            if self._wake_r in ready:
                if b"x" in os.read(self._wake_r, 64):
                    return
                self._answer_held()
            if self._device in ready:
                try:
                    self._request(os.read(self._device, 1 << 20))
                except OSError as e:
                    if e.errno not in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                        return  # ENODEV: unmounted

    def _answer_held(self):
        held, self._held = self._held, []
        for unique, offset, size in held:
            if self.error_at is not None and offset <= self.error_at < offset + size:
                self._reply(unique, error=errno.EIO)
            else:
                self._reply(unique, os.pread(self._source, size, offset))

    def _reply(self, unique, data=b"", error=0):
        try:
            os.write(self._device, _OUT.pack(_OUT.size + len(data), -error, unique) + data)
        except OSError as e:
            if e.errno != errno.ENOENT:  # the request was interrupted
                raise

    def _attr(self, node):
        mode, size = (
            (stat.S_IFDIR | 0o755, 0) if node == _ROOT else (stat.S_IFREG | 0o444, self._size)
        )
        return _ATTR.pack(
            node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
        )

    def _request(self, message):
        _, opcode, unique, node, *_ = _IN.unpack_from(message)
        body = message[_IN.size :]
        if opcode == _INIT:
            major, minor = struct.unpack_from("=II", body)
            flags = _ASYNC_READ | _ASYNC_DIO
            head = struct.pack("=IIIIHHI", major, min(minor, 31), 0, flags, 256, 192, 1 << 17)
            self._reply(unique, head + struct.pack("=IHHI7I", 1, 0, 0, 0, *[0] * 7))
        elif opcode == _LOOKUP:
            if node == _ROOT and body.rstrip(b"\0") == b"data":
                self._reply(
                    unique, struct.pack("=QQQQII", _FILE, 0, 3600, 3600, 0, 0) + self._attr(_FILE)
                )
            else:
                self._reply(unique, error=errno.ENOENT)
        elif opcode == _GETATTR:
            self._reply(unique, struct.pack("=QII", 3600, 0, 0) + self._attr(node))
        elif opcode in (_OPEN, _OPENDIR):
            self._reply(unique, struct.pack("=QII", 0, 0, 0))
        elif opcode == _READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            self.reads += 1
            self.asked.set()
            self._held.append((unique, offset, size))
            self.pending_max = max(self.pending_max, len(self._held))
            if len(self._held) >= self.hold:
                self._answer_held()
        elif opcode == _STATFS:
            self._reply(unique, struct.pack("=5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0))
        elif opcode in (_RELEASE, _RELEASEDIR, _DESTROY):
            self._reply(unique)
        elif opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            pass
        elif opcode == _READDIR:
            self._reply(unique)
        else:
            self._reply(unique, error=errno.ENOSYS)
