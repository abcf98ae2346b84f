# SPDX-License-Identifier: Apache-2.0
"""
A small threaded HTTP/1.1 server on 127.0.0.1 that does exactly what it is told, wrong or right.

    def answer(request): return Reply(200, {"X-A": "b"}, b"body")
    with Server(answer) as server: ... server.url ... server.log()

It is written on bare sockets, because what has to be tested is what a proper server would not do:
bodies cut short, lengths that lie, answers that stall. Every request is logged with what was
received, what was sent and how many were under way. A thread accepts, one serves each connection;
close() ends them all.
"""

import dataclasses
import os
import signal
import socket
import ssl
import threading
import time
import urllib.parse
from typing import Any, Callable, Dict, List, Optional, Tuple

_MAX_HEAD = 64 << 10


@dataclasses.dataclass
class Request:
    """One request and what became of it. Header names are in lower case."""

    method: str
    target: str  # as on the request line
    path: str  # decoded, without the query
    query: Dict[str, List[str]]
    headers: Dict[str, str]
    body: bytes
    connection: int  # the how manieth connection of this server it came on, from 1
    peer_certificate: str = ""  # common name of the client's certificate
    concurrency: int = 0  # requests under way when it came, itself included
    started_s: float = 0.0  # monotonic
    ended_s: float = 0.0  # 0: still under way
    status: int = 0  # 0: closed without an answer
    sent: int = 0  # bytes of the body, as far as the peer took them

    @property
    def range(self) -> Optional[Tuple[int, int]]:
        """(offset, count) of a Range header of one range; None without."""
        text = self.headers.get("range", "")
        if not text.startswith("bytes="):
            return None
        first, _, last = text[len("bytes=") :].partition("-")
        return int(first), int(last) - int(first) + 1


@dataclasses.dataclass
class Reply:
    """An answer and how it is mistreated on its way."""

    status: int = 200
    headers: Dict[str, str] = dataclasses.field(default_factory=dict)
    body: Any = b""  # bytes or a memoryview
    delay_s: float = 0.0  # before the first byte
    close: bool = False  # the connection, instead of an answer
    length: Optional[int] = None  # what Content-Length says; None: the truth, -1: no such header
    chunked: bool = False  # Transfer-Encoding instead of Content-Length
    cut_after: Optional[int] = None  # bytes of body before the connection is closed
    stall_after: Optional[int] = None  # bytes of body before nothing comes any more
    drip_s: float = 0.0  # what each byte of the body takes
    last: bool = False  # close the connection after the answer without having said so
    hold: Optional[threading.Event] = None  # waited for before the first byte


class Server:
    """Serves from construction on, at `url`; thread-safe."""

    def __init__(
        self,
        answer: Callable[[Request], Reply],
        tls: Optional[ssl.SSLContext] = None,
        name: str = "http",
        unix: str = "",  # the path of a socket to listen on instead
    ) -> None:
        self.name = name
        self._answer = answer
        self._tls = tls
        self._unix = unix
        self._lock = threading.Lock()
        self._log: List[Request] = []
        self._in_flight = 0
        self._in_flight_max = 0
        self._accepted = 0
        self._sockets: Dict[int, socket.socket] = {}
        self._threads: List[threading.Thread] = []
        self._ending = threading.Event()  # of the current listener: wakes who stalls or delays
        self._listener: Optional[socket.socket] = None
        self.port = 0
        self.start()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Listens; again on the same port after stop(). Nothing while it does."""
        if self._listener is not None:
            return
        if self._unix:
            listener = socket.socket(socket.AF_UNIX)
            if os.path.exists(self._unix):
                os.unlink(self._unix)
            listener.bind(self._unix)
        else:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            self.port = listener.getsockname()[1]
        listener.listen(1024)
        self._listener, self._ending = listener, threading.Event()
        thread = threading.Thread(target=self._accept, args=(listener,), name=f"{self.name}-accept")
        self._threads = [thread]
        thread.start()

    def stop(self) -> None:
        """As if the machine went away: nobody listens, every connection is broken."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        self._ending.set()
        listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        listener.close()
        with self._lock:
            sockets, threads = list(self._sockets.values()), self._threads[1:]
        for one in sockets:
            _shut(one)
        for thread in threads:
            thread.join()

    close = stop

    def break_connections(self) -> None:
        """Every connection that is open now; new ones are welcome."""
        with self._lock:
            for one in self._sockets.values():
                _shut(one)

    def log(self) -> List[Request]:
        """A copy, in the order requests were answered or given up; what a client has is in it."""
        with self._lock:
            return list(self._log)

    def clear(self) -> None:
        """Forgets the log and the maxima."""
        with self._lock:
            self._log.clear()
            self._in_flight_max = self._in_flight

    def in_flight_max(self) -> int:
        """Requests that were under way at once."""
        with self._lock:
            return self._in_flight_max

    def in_flight(self) -> int:
        """Requests under way now."""
        with self._lock:
            return self._in_flight

    def connections(self) -> Tuple[int, int]:
        """(accepted since the beginning, open now)"""
        with self._lock:
            return self._accepted, len(self._sockets)

    # -- the threads

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                if self._ending.is_set():
                    connection.close()
                    return
                self._accepted += 1
                number = self._accepted
                self._sockets[number] = connection
                self._threads = [one for one in self._threads if one.is_alive()]
                thread = threading.Thread(
                    target=self._serve, args=(connection, number), name=f"{self.name}-{number}"
                )
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            if not self._unix:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = ""
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._sockets[number] = connection
                peer = _common_name(connection)
            with connection.makefile("rb") as reader:
                while self._one(connection, reader, number, peer):
                    pass
        except (OSError, ValueError):
            pass  # the peer went away, or stop() shut the socket
        finally:
            with self._lock:
                del self._sockets[number]
            _shut(connection)
            connection.close()

    def _one(self, connection: socket.socket, reader: Any, number: int, peer: str) -> bool:
        """One request; False ends the connection."""
        request = _read_request(reader, number)
        if request is None:
            return False
        request.peer_certificate = peer
        request.started_s = time.monotonic()
        with self._lock:
            self._in_flight += 1
            request.concurrency = self._in_flight
            self._in_flight_max = max(self._in_flight_max, self._in_flight)
        try:
            reply = self._answer(request)
            return self._send(connection, request, reply)
        finally:
            self._leave(request)

    def _leave(self, request: Request) -> None:
        """It is not under way any more: before its last bytes go, lest the client is faster."""
        with self._lock:
            if not request.ended_s:
                self._in_flight -= 1
                request.ended_s = time.monotonic()

    def _note(self, request: Request, status: int, sent: int) -> None:
        """Before the first byte: whoever has an answer finds it in the log."""
        with self._lock:
            request.status, request.sent = status, sent
            self._log.append(request)

    def _send(self, connection: socket.socket, request: Request, reply: Reply) -> bool:
        ending = self._ending
        while reply.hold is not None and not reply.hold.wait(0.05):
            if ending.is_set():
                break
        if ending.wait(reply.delay_s) or reply.close:
            self._note(request, 0, 0)
            return False
        body = memoryview(b"" if request.method == "HEAD" else reply.body)
        head = _head(reply, len(reply.body))
        end = min(x for x in (reply.cut_after, reply.stall_after, len(body)) if x is not None)
        self._note(request, reply.status, 0 if reply.drip_s else end)
        if reply.chunked:
            _send_chunked(connection, head, body[:end], end == len(body))
        elif reply.drip_s:
            connection.sendall(head)
            for at in range(end):
                if ending.wait(reply.drip_s):
                    return False
                connection.sendall(body[at : at + 1])
                request.sent += 1
        else:
            if reply.stall_after is None:
                self._leave(request)
            if end <= 16 << 10:
                connection.sendall(head + bytes(body[:end]))  # one segment
            else:
                connection.sendall(head)
                connection.sendall(body[:end])
        if reply.stall_after is not None:
            ending.wait()
        whole = end == len(body) and reply.length in (None, len(body))
        return whole and not reply.last and request.headers.get("connection") != "close"


def _read_request(reader: Any, number: int) -> Optional[Request]:
    line = reader.readline(_MAX_HEAD).decode("latin-1").rstrip("\r\n")
    if not line:
        return None
    method, target, _ = line.split(" ")
    headers: Dict[str, str] = {}
    while True:
        line = reader.readline(_MAX_HEAD).decode("latin-1").rstrip("\r\n")
        if not line:
            break
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", "0")))
    path, _, query = target.partition("?")
    values = urllib.parse.parse_qs(query, keep_blank_values=True)
    return Request(method, target, urllib.parse.unquote(path), values, headers, body, number)


def _head(reply: Reply, length: int) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} x"]
    if reply.chunked:
        lines.append("Transfer-Encoding: chunked")
    elif reply.length != -1:
        lines.append(f"Content-Length: {length if reply.length is None else reply.length}")
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    return "\r\n".join(lines + ["", ""]).encode("latin-1")


def _send_chunked(connection: socket.socket, head: bytes, body: memoryview, whole: bool) -> None:
    connection.sendall(head)
    for at in range(0, len(body), 4096):
        piece = bytes(body[at : at + 4096])
        connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    if whole:
        connection.sendall(b"0\r\n\r\n")


def _shut(one: socket.socket) -> None:
    try:
        # Not SSLSocket.shutdown(): the thread that reads keeps its TLS object.
        socket.socket.shutdown(one, socket.SHUT_RDWR)
    except OSError:
        pass


def _common_name(connection: Any) -> str:
    for part in (connection.getpeercert() or {}).get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""


def ignore_interrupts() -> None:
    """For a process of its own: Ctrl-C is its parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
