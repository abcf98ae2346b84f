# SPDX-License-Identifier: Apache-2.0
"""
One range over a plain connection of a pool, without urllib3 and http.client: the sink sends the
request and takes the usual answer, so that a miss costs the interpreter one call.

    usual     a whole 206 of exactly the range, of the same object, on a connection that stays open
    anything else, or what came of it, is read by http.client after all, and means what it always
    means; nothing is asked for twice

Only of a place that has answered before in the ordinary way. What the usual answer is, native/
answer.c says; it has no say in anything else.
"""

import http.client
import io
import socket
from typing import Any, Mapping, NamedTuple, Optional, Protocol, cast

import urllib3
from urllib3._collections import HTTPHeaderDict

from . import operation


class Taken(NamedTuple):
    """What came: of a usual answer, bytes of the range from its beginning on; else its bytes."""

    usual: bool
    received: int = 0
    waited_s: float = 0.0  # for those
    odd: bytes = b""


class Asker(Protocol):
    """A sink that can ask."""

    def ask(self, fd: int, request: bytes, wanted: "Wanted", timeout_s: float) -> Taken:
        """
        Sends a request over a stream socket, and takes the answer. socket.timeout when no answer
        began in time, OSError.
        """


class Wanted(NamedTuple):
    """A range that may be taken directly: for whom, and what its usual answer says of the blob."""

    into: Asker
    digest: str
    etag: str  # "": none
    size: int  # of the blob
    length: int  # of the range


def request(target: str, host: str, headers: Mapping[str, str]) -> Optional[bytes]:
    """As it is sent; None for what http.client had better look at: it has opinions on headers."""
    texts = [part for pair in headers.items() for part in pair]
    if not all(text.isascii() and text.isprintable() for text in (target, host, *texts)):
        return None
    lines = [f"GET {target} HTTP/1.1"]
    if not any(name.lower() == "host" for name in headers):  # hosts.toml may name another
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def ask(
    pool: Any, wanted: Wanted, sent: bytes, current: operation.Operation, timeout_s: float
) -> Any:
    """A Usual or an Odd answer. What urllib3's urlopen() may raise."""
    while True:
        current.check()
        connection = pool.take()
        try:
            kept = connection.prepare()
            taken = wanted.into.ask(connection.sock.fileno(), sent, wanted, timeout_s)
            if taken.usual:
                return Usual(pool, connection, taken, wanted.length - taken.received)
            if taken.odd:
                connection.sock.settimeout(timeout_s)
                return Odd(pool, connection, taken.odd)
            if not kept:
                raise http.client.RemoteDisconnected("closed without an answer")
        except BaseException:
            _drop(pool, connection, current)
            raise
        _drop(pool, connection, current)  # it was closed while it idled, as may have been others


def _drop(pool: Any, connection: Any, current: operation.Operation) -> None:
    current.detach()
    connection.close()
    pool._put_conn(connection)


class _Answer:
    """What client.Response uses of urllib3's."""

    status: int
    headers: Any

    def __init__(self, pool: Any, connection: Any) -> None:
        self._pool = pool
        self._connection = connection

    def release_conn(self) -> None:
        self._pool._put_conn(self._connection)


class Usual(_Answer):
    """All that matters of its head is known."""

    status = 206
    headers: Mapping[str, str] = {}

    def __init__(self, pool: Any, connection: Any, taken: Taken, left: int) -> None:
        super().__init__(pool, connection)
        self.taken = taken
        self._fp = _Rest(connection.sock, left)


class _Rest:
    """What Response uses of http.client's."""

    chunked = False

    def __init__(self, one: socket.socket, length: int) -> None:
        self.length = length
        self._socket = one

    def fileno(self) -> int:
        return self._socket.fileno()

    def isclosed(self) -> bool:
        return not self.length

    def read1(self, limit: int) -> bytes:
        data = self._socket.recv(limit)
        self.length -= len(data)
        return data

    def close(self) -> None:
        pass


class Odd(_Answer):
    """http.client's, of what came already and what follows."""

    def __init__(self, pool: Any, connection: Any, came: bytes) -> None:
        super().__init__(pool, connection)
        source = cast(socket.socket, _Replayed(connection.sock, came))
        self._fp = http.client.HTTPResponse(source, method="GET")
        try:
            self._fp.begin()
            self.headers = HTTPHeaderDict(self._fp.headers.items())
            self._check_length()
        except BaseException:
            self._fp.close()  # it has a part in the socket
            raise
        self.status = self._fp.status
        if self._fp.will_close:
            connection.close()  # the answer has it until its end

    def _check_length(self) -> None:
        """http.client takes the first of several; urllib3 does not take them."""
        lengths = self.headers.get("Content-Length", "").split(",")
        if not self._fp.chunked and len({one.strip() for one in lengths}) > 1:
            raise urllib3.exceptions.InvalidHeader("several lengths")


class _Replayed(io.RawIOBase):
    """A socket's stream, begun with what was read from it already."""

    def __init__(self, one: socket.socket, came: bytes) -> None:
        self._came = came
        self._rest = one.makefile("rb", buffering=0)

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._rest.fileno()

    def readinto(self, buffer: Any) -> Optional[int]:
        if not self._came:
            return self._rest.readinto(buffer)
        count = min(len(buffer), len(self._came))
        buffer[:count], self._came = self._came[:count], self._came[count:]
        return count

    def close(self) -> None:
        self._rest.close()
        super().close()
