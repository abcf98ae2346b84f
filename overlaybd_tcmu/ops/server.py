# SPDX-License-Identifier: Apache-2.0
"""
A small HTTP server that is never in the way: a thread that accepts, a thread for each client, few
clients at once, and a limit to how long each may take to say what it wants.

Lock `_lock` guards the table of clients; it is held for moments, nothing is taken under it.
"""

import contextlib
import logging
import os
import select
import socket
import stat
import threading
import time
from typing import Dict, Optional, Tuple

from .. import address, errors
from . import connection, message

log = logging.getLogger("ops.server")

# Clients at once; the next one is told to come again.
MOST = 16

# For saying what it wants, from connecting or from its last answer on.
REQUEST_S = 20.0

SOCKET_MODE = 0o660

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

Client = Tuple[connection.Connection, socket.socket]


class Server:
    """start() listens, or raises OSError; stop() ends every client, then join() waits for them."""

    def __init__(
        self, name: str, where: address.Address, route: message.Route, guarded: bool
    ) -> None:
        self._name = name  # of its threads
        self.where = where
        self._route = route
        self._guarded = guarded
        self._lock = threading.Lock()
        self._clients: Dict[threading.Thread, Client] = {}
        self._stop_r, self._stop_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._listening: Optional[socket.socket] = None
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        self._listening = listen(self.where)
        port = 0 if self.where.path else self._listening.getsockname()[1]
        shown = address.Address(self.where.host, port, self.where.path)
        log.info("listening name=%s address=%s", self._name, shown)
        self._thread.start()

    @property
    def listens(self) -> bool:
        """Whether start() has succeeded."""
        return self._listening is not None

    def stop(self) -> None:
        os.write(self._stop_w, b"s")
        if self._listening is not None:
            self._thread.join()
            self._listening.close()
            if self.where.path:
                with contextlib.suppress(OSError):
                    os.unlink(self.where.path)

    def join(self) -> None:
        """A request that is being served is served to its end."""
        with self._lock:
            threads = list(self._clients)
        for thread in threads:
            thread.join()
        os.close(self._stop_r)
        os.close(self._stop_w)

    # ---- the thread that accepts

    def _run(self) -> None:
        assert self._listening is not None
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        poll.register(self._stop_r, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll(1000 if self._clients else None)]
            if self._stop_r in ready:
                break
            try:
                if ready:
                    self._accept()
                self._end_slow(REQUEST_S)
            except Exception:  # the thread's top
                log.exception("accepting failed name=%s", self._name)
                time.sleep(1.0)
        self._end_slow(0.0)

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            connected, _ = self._listening.accept()
        except OSError as error:  # gone again; or no descriptors: it waits in the queue
            log.debug("accept failed name=%s error=%s", self._name, error)
            time.sleep(0.05)
            return
        with self._lock:
            busy = len(self._clients) >= MOST
        if busy:
            with contextlib.suppress(OSError), connected:
                connected.setblocking(False)
                connected.send(_BUSY)
            return
        client = connection.Connection(connected, self._route, self._guarded)
        thread = threading.Thread(
            target=self._serve, args=(client, connected), name=f"{self._name}-client"
        )
        with self._lock:
            self._clients[thread] = client, connected
        thread.start()

    def _end_slow(self, limit_s: float) -> None:
        """Ends whoever takes longer to say what it wants; who is being served is not touched."""
        now = time.monotonic()
        with self._lock:
            clients = list(self._clients.values())
        for client, connected in clients:
            since = client.reading_since
            if since is not None and now - since >= limit_s:
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RD)

    # ---- a client's thread

    def _serve(self, client: connection.Connection, connected: socket.socket) -> None:
        try:
            client.run()
        except Exception:  # the thread's top
            log.exception("client failed name=%s", self._name)
        finally:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
            connected.close()
            with self._lock:
                del self._clients[threading.current_thread()]


def listen(where: address.Address) -> socket.socket:
    """A socket that listens there; one left over by a process that is gone is replaced."""
    if where.path:
        return _listen_unix(where.path)
    found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, place = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(MOST)
    except OSError:
        listening.close()
        raise
    return listening


def _listen_unix(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(f"{path} exists and is no socket")
        _refuse_live(path)
        os.unlink(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), SOCKET_MODE)  # so it never is open to more, not even at first
        listening.bind(path)
        os.chmod(path, SOCKET_MODE)
        listening.listen(MOST)
    except OSError:
        listening.close()
        raise
    return listening


def _refuse_live(path: str) -> None:
    try:
        address.connect(address.Address(path=path), 1.0).close()
    except OSError:
        return
    raise errors.Error(f"{path}: another process listens there")
