# SPDX-License-Identifier: Apache-2.0
"""
urllib3's connections, with some things of ours: they can be cancelled while they connect, they say
exactly why they cannot, one that idled for long is not trusted to be alive, and a signed URL is
sent as it was given.

What a connection works for is this thread's `current`: urllib3 makes and hands out connections in
the thread that asks.
"""

import http.client
import queue
import socket
import threading
from typing import Any, List, Tuple

import urllib3

from .. import errors
from . import operation

CONNECT_S = 5.0  # for each address of a host
IDLE_S = 30.0  # firewalls forget connections without telling; servers close after 60 s or so

_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class Current(threading.local):
    """What this thread's request is for."""

    operation: operation.Operation
    target: str  # path and query, as on the request line
    reused: bool = False  # whether the connection had served an earlier request


current = Current()


def addresses(host: str, port: int) -> List[Tuple[Any, ...]]:
    """What getaddrinfo says; RegistryError when the name has no address to connect to."""
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    except OSError as error:  # gaierror
        cause = f"{host}: {error.strerror or error}"
        raise errors.RegistryError(errors.RegistryFailure.DNS, cause) from None
    except UnicodeError:
        cause = f"{host}: is no host name"
        raise errors.RegistryError(errors.RegistryFailure.DNS, cause) from None
    # To connect to the unspecified address is to connect to this very machine: some resolvers say
    # 0.0.0.0 for "blocked", and a request with its credentials would go to whoever listens here.
    usable = [one for one in found if one[4][0] not in ("0.0.0.0", "::")]
    if not usable:
        cause = f"{host}: has no address but 0.0.0.0"
        raise errors.RegistryError(errors.RegistryFailure.DNS, cause)
    return usable


def connect(host: str, port: int, current_operation: operation.Operation) -> socket.socket:
    """A TCP connection to the first address that answers."""
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in addresses(host, port):
        one = socket.socket(family, kind, protocol)
        try:
            for option in _OPTIONS:
                one.setsockopt(*option)
            one.settimeout(min(CONNECT_S, current_operation.remaining_s()))
            current_operation.attach(one)
            one.connect(address)
            return one
        except OSError as error:
            current_operation.detach()
            one.close()
            current_operation.check()
            failure = error
        except BaseException:
            one.close()
            raise
    if isinstance(failure, socket.timeout):
        cause = f"{host}:{port}: no connection within {CONNECT_S:.0f} s"
        raise errors.RegistryError(errors.RegistryFailure.TIMEOUT, cause)
    cause = f"{host}:{port}: {failure.strerror or failure}"
    raise errors.RegistryError(errors.RegistryFailure.CONNECT, cause)


class _Ours:
    """Mixed into urllib3's connections, whose hooks these are in 1.26 and 2.x."""

    _served = 0
    _last_s = 0.0

    def _new_conn(self: Any) -> socket.socket:
        self._served = 0
        return connect(self._dns_host.strip("[]"), self.port, current.operation)

    def request(self: Any, method: str, url: str, *arguments: Any, **more: Any) -> None:
        self.prepare()
        # urllib3 tidies escapes up, and then some signatures do not fit any more.
        super().request(method, current.target, *arguments, **more)  # type: ignore[misc]

    def prepare(self: Any) -> bool:
        """Connected and worth a request, which is to follow. Whether it has served others."""
        now = current.operation.clock.now()
        if self._served and now - self._last_s > IDLE_S:
            self.close()
        if self.sock is None:
            self.connect()
        current.reused = self._served > 0
        current.operation.attach(self.sock)
        self._served += 1
        self._last_s = now
        return current.reused


class HttpConnection(_Ours, urllib3.connection.HTTPConnection):
    pass


class HttpsConnection(_Ours, urllib3.connection.HTTPSConnection):
    def connect(self) -> None:
        """
        As the context says and nothing else: urllib3 1.26 does not tell it an address it connects
        to, so that the certificate could not be compared with it.
        """
        context = self.ssl_context
        assert context is not None
        self.sock = self._new_conn()
        name = self.host.strip("[]").rstrip(".")
        self.sock = context.wrap_socket(
            self.sock, server_hostname=name, do_handshake_on_connect=False
        )
        current.operation.attach(self.sock)
        self.sock.do_handshake()
        self.is_verified = True  # or not wanted to be: urllib3 is not to warn each time


class HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = HttpConnection

    def take(self) -> Any:
        """
        A connection, for _put_conn(). Whether a kept one is still open, whoever uses it finds out.
        """
        kept = self.pool
        if kept is None:
            raise urllib3.exceptions.ClosedPoolError(self, "Pool is closed.")
        try:
            return kept.get(block=False) or self._new_conn()
        except queue.Empty:
            return self._new_conn()


class HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = HttpsConnection


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, for a request or two."""

    def __init__(self, path: str, current_operation: operation.Operation) -> None:
        super().__init__("localhost")
        self._path = path
        self._operation = current_operation

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.limit()
        self.sock.connect(self._path)

    def limit(self) -> None:
        """Waits no longer than the operation may; RegistryError when its time is up."""
        self.sock.settimeout(self._operation.remaining_s())
