# SPDX-License-Identifier: Apache-2.0
"""
The host's end of the wire: commands by channel, and the thread that hands each what it says.

One lock for writing whole frames. Commands are handed their bytes by the reader thread alone; when
the wire ends, every command still running is told so and its waiter raises.
"""
from __future__ import annotations

import itertools
import json
import signal
import socket
import threading
import time
from typing import BinaryIO, Callable, Dict, Mapping, Optional, Sequence

from . import errors, protocol


class Command:
    """A command running in the guest."""

    def __init__(self, connection: Connection, channel: int, argv: Sequence[str]) -> None:
        self.argv = list(argv)
        self.status: Optional[int] = None
        self.output = bytearray()
        self.errors = bytearray()
        self.output_sink: Optional[Callable[[bytes], object]] = None
        self.errors_sink: Optional[Callable[[bytes], object]] = None
        self._connection = connection
        self._channel = channel
        self._ended = threading.Event()

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), protocol.CHUNK_BYTES):
            part = data[start : start + protocol.CHUNK_BYTES]
            self._connection.send(self._channel, protocol.INPUT, part)

    def close_input(self) -> None:
        self._connection.send(self._channel, protocol.INPUT_END)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signals the command and all it started, unless they made sessions of their own."""
        self._connection.send(self._channel, protocol.SIGNAL, protocol.NUMBER.pack(number))

    def wait(self, timeout_s: float) -> int:
        """Its status; minus the signal's number when one ended it."""
        if not self._ended.wait(timeout_s):
            raise errors.VmTimeout(f"still running after {timeout_s:g} s: {' '.join(self.argv)}")
        if self.status is None:
            tail = self._connection.console_tail()
            raise errors.VmDied(f"the machine ended during: {' '.join(self.argv)}", tail)
        return self.status

    def check(self, timeout_s: float) -> str:
        """Waits for status 0 and returns what it said on stdout."""
        status = self.wait(timeout_s)
        text = self.output.decode(errors="replace")
        if status:
            said = self.errors.decode(errors="replace")
            raise errors.CommandFailed(self.argv, status, text, said)
        return text

    def take(self, kind: int, data: bytes) -> None:
        """For the reader thread."""
        if kind == protocol.EXIT:
            self.status = protocol.NUMBER.unpack(data)[0]
            self._ended.set()
        elif kind == protocol.OUTPUT:
            (self.output_sink or self.output.extend)(data)
        elif kind == protocol.ERRORS:
            (self.errors_sink or self.errors.extend)(data)

    def abandon(self) -> None:
        """For the reader thread: the wire is gone."""
        self._ended.set()


class Connection:
    """The wire of one machine."""

    def __init__(self, path: str, console_tail: Callable[[], str]) -> None:
        self.console_tail = console_tail
        self.ready = threading.Event()
        self.ended = threading.Event()
        self._channels = itertools.count(1)
        self._commands: Dict[int, Command] = {}
        self._commands_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._reader = threading.Thread(target=self._read, name="vm-reader", daemon=True)
        self._reader.start()

    def start(
        self,
        argv: Sequence[str],
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        output_sink: Optional[Callable[[bytes], object]] = None,
        errors_sink: Optional[Callable[[bytes], object]] = None,
    ) -> Command:
        with self._commands_lock:
            channel = next(self._channels)
            command = Command(self, channel, argv)
            command.output_sink, command.errors_sink = output_sink, errors_sink
            self._commands[channel] = command
        spec = {"argv": list(argv), "env": dict(env or {}), "cwd": cwd}
        self.send(channel, protocol.START, json.dumps(spec).encode())
        return command

    def send(self, channel: int, kind: int, data: bytes = b"") -> None:
        with self._write_lock:
            try:
                self._socket.sendall(protocol.pack(channel, kind, data))
            except OSError as error:
                raise errors.VmDied(f"the wire is gone ({error})", self.console_tail()) from error

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # QEMU went first
            pass
        self._reader.join()
        self._socket.close()

    def wait_ready(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not self.ready.wait(0.02):
            if self.ended.is_set() or time.monotonic() > deadline:
                return False
        return True

    def _read(self) -> None:
        with self._socket.makefile("rb") as stream:
            try:
                while True:
                    self._dispatch(*protocol.unpack(lambda count: _exactly(stream, count)))
            except (EOFError, OSError):
                pass
        self.ended.set()
        with self._commands_lock:
            for command in self._commands.values():
                command.abandon()

    def _dispatch(self, channel: int, kind: int, data: bytes) -> None:
        if kind == protocol.READY:
            self.ready.set()
            return
        with self._commands_lock:
            command = self._commands[channel]
            if kind == protocol.EXIT:
                del self._commands[channel]
        command.take(kind, data)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data
