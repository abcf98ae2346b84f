# SPDX-License-Identifier: Apache-2.0
"""
One HTTP request: from a URL to the answer's head, with its body still to be read.

    with client.request("GET", url, current, headers=..., settings=...) as response:
        response.status, response.headers
        response.read_into(view)

Owns connections (urllib3's pools), how many there may be, timeouts, and the one mapping from what
urllib3, http.client, ssl and the kernel raise to RegistryError. Knows nothing of registries: it
follows no redirect, sends no credentials of its own accord, tries nothing again except a request
that met a kept connection which the server was just closing.
"""

import http.client
import io
import logging
import socket
import ssl
import time
from types import TracebackType
from typing import Any, Callable, Dict, Mapping, NoReturn, Optional, Tuple, Type

import urllib3

from .. import errors
from . import connection, exchange, header, health, operation, pools, retry, slots, tls, url

log = logging.getLogger("registry.client")

EACH = 16  # connections to one server
TOTAL = 64  # busy ones in all, and
SPARE = 16  # more for servers that would have none
SERVERS = 16  # whose idle connections are kept
READ_S = 15.0  # for the next bytes of an answer
SLOWEST = 16 << 10  # bytes a second below which a body is given up, after READ_S
BODY_LIMIT = 1 << 20  # of answers that are read as a whole: tokens, credentials, errors
_DRAIN = 32 << 10  # bytes of an unwanted body worth reading to keep its connection
_DRAIN_S = 0.2  # for each of
_DRAIN_READS = 4
_STALE = 2  # further tries of a request that met a closing connection

_Kind = errors.RegistryFailure


class Response:
    """An answer. Leaving the context keeps the connection if the body was read, else closes it."""

    def __init__(
        self,
        raw: Any,
        address: str,
        current: operation.Operation,
        owner: "Client",
        pause_s: Optional[float],
    ) -> None:
        self.status: int = raw.status
        self.headers: Any = raw.headers  # urllib3's: names in any case, getlist()
        self.address = address
        self.pause_s = pause_s  # before the next request, if the server asks for it
        self.buffered = True  # part of the body may have come with its head; read_into() takes it
        self._raw = raw
        self._current = current
        self._owner = owner
        # What the range's sink has already, if it was asked for directly and the answer is usual.
        self.taken: Optional[int] = None
        self._received, self._waited_s = 0, 0.0
        if isinstance(raw, exchange.Usual):
            self.buffered = False
            self.taken = self._received = raw.taken.received
            self._waited_s = raw.taken.waited_s

    def __enter__(self) -> "Response":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close(keep=error is None)

    @property
    def clock(self) -> retry.Clock:
        return self._current.clock

    @property
    def chunked(self) -> bool:
        """Its length is told only by its end."""
        return bool(self._raw._fp.chunked)

    @property
    def length(self) -> Optional[int]:
        """What Content-Length says; None without a proper one."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def read(self, limit: int) -> bytes:
        """The next bytes, at most limit and at least one; b"" at the end of the body."""
        started = time.monotonic()
        try:
            data: bytes = self._raw._fp.read1(limit)
        except Exception as error:
            self._fail(error)
        self._count(len(data), time.monotonic() - started)
        return data

    def read_into(self, view: memoryview, first: bool = False) -> int:
        """As read(), into a buffer; the count. first: of what receive() is to go on with."""
        fp = self._raw._fp
        if first:  # no more than what may be buffered
            view = view[: io.DEFAULT_BUFFER_SIZE]
        if fp.chunked or not fp.length:
            data = self.read(len(view))
            view[: len(data)] = data
            return len(data)
        started = time.monotonic()
        try:
            # What HTTPResponse.readinto() does, but with one recv(): it would wait for the whole
            # view however slowly it came.
            room = view[: fp.length]
            count: int = fp.fp.readinto1(room)
            fp.length -= count
        except Exception as error:
            self._fail(error)
        # The buffer is 8 KiB, from Python 3.14 on 128: the room may be less than was in there.
        self.buffered = count == len(room) < io.DEFAULT_BUFFER_SIZE
        self._count(count, time.monotonic() - started)
        return count

    def is_direct(self, count: int) -> bool:
        """
        Whether the last count bytes can be taken from the socket itself, by receive(), once nothing
        of them is buffered.
        """
        fp = self._raw._fp
        plain = self.address.startswith("http:") and not isinstance(self._raw, exchange.Odd)
        return plain and not fp.chunked and fp.length == count

    def receive(self, take: Callable[[int, int, float], Tuple[int, float]], done: int) -> int:
        """
        As read_into(), by a function of the socket, `done`, and seconds to wait at most. It may do
        more with the bytes than take them, and says how long it waited for them.
        """
        fp = self._raw._fp
        try:
            count, waited_s = take(fp.fileno(), done, min(READ_S, self._current.remaining_s()))
            fp.length -= count
        except Exception as error:
            self._fail(error)
        self._count(count, waited_s)
        return count

    def read_all(self) -> bytes:
        """A small body; RegistryError when it is not small."""
        data = b""
        while True:
            piece = self.read(64 << 10)
            if not piece:
                return data
            data += piece
            if len(data) > BODY_LIMIT:
                cause = f"{url.shown(self.address)}: an answer of more than {BODY_LIMIT} bytes"
                raise errors.RegistryError(_Kind.PROTOCOL, cause)

    def failed(self) -> None:
        """The server did not do as its answer promised: others are tried before it."""
        self._owner.health.failed(url.origin_of(self.address))

    def close(self, keep: bool = True) -> None:
        """Idempotent. If the connection is kept, a short rest is read so that it serves again."""
        if self._raw is None:
            return
        raw, self._raw = self._raw, None
        try:
            if not (keep and _drained(raw)):
                raw._connection.close()
            raw._fp.close()
        finally:
            self._current.detach()
            raw.release_conn()
            self._owner.give_back(url.origin_of(self.address))

    def _count(self, count: int, waited_s: float) -> None:
        self._received += count
        self._waited_s += waited_s
        if self._waited_s > READ_S + self._received / SLOWEST:
            cause = f"{url.shown(self.address)}: {self._received} bytes in {self._waited_s:.0f} s"
            raise errors.RegistryError(_Kind.TIMEOUT, cause)
        self._current.remaining_s()

    def check(self) -> None:
        """RegistryError when what has come so far took too long."""
        self._count(0, 0.0)

    def _fail(self, error: Exception) -> NoReturn:
        self._current.check()
        self._owner.fail(error, self.address, "the body did not come")


def _drained(raw: Any) -> bool:
    """Whether nothing of a body is left; reads what is little and there."""
    fp = raw._fp
    if fp.isclosed():
        return True
    if fp.chunked or fp.length is None or fp.length > _DRAIN:
        return False
    try:
        if raw._connection.sock is None:
            return False  # to be closed after this answer, as the server wants it
        raw._connection.sock.settimeout(_DRAIN_S)
        for _ in range(_DRAIN_READS):
            if not fp.length:
                return True
            fp.read1(fp.length)
    except (OSError, http.client.HTTPException):
        pass
    return False


class Client:
    """Thread-safe. close() when no request is under way."""

    def __init__(self, user_agent: str, state: health.Health) -> None:
        # urllib3 logs paths with their queries.
        logging.getLogger("urllib3").setLevel(logging.WARNING)
        self.health = state
        self._user_agent = user_agent
        self._contexts = tls.Contexts()
        self._slots = slots.Slots(EACH, TOTAL, SPARE)
        self._pools = pools.Pools(SERVERS, EACH)

    def close(self) -> None:
        self._pools.close()

    def request(
        self,
        method: str,
        address: str,
        current: operation.Operation,
        headers: Mapping[str, str] = {},
        settings: tls.Tls = tls.Tls(),
        body: Optional[bytes] = None,
        wanted: Optional[exchange.Wanted] = None,
    ) -> Response:
        """
        The head of an answer, whatever its status. RegistryError when there is none; THROTTLED also
        when the server does not want to be asked yet. wanted: the request is GET for a range, which
        may be taken directly.
        """
        origin = url.origin_of(address)
        self.health.check(origin)
        self._slots.take(origin, current)
        try:
            self.health.check(origin)  # again: it may have said so to those before us
            started = time.monotonic()
            raw = self._open(
                method, address, current, self._headers(headers), settings, body, wanted
            )
            if log.isEnabledFor(logging.DEBUG):
                elapsed_ms = (time.monotonic() - started) * 1000
                what = method, url.shown(address), headers.get("Range", "")
                log.debug("%s %s %s status=%d ms=%.1f", *what, raw.status, elapsed_ms)
        except BaseException:
            current.detach()
            self.give_back(origin)
            raise
        return Response(raw, address, current, self, self._judge(origin, raw))

    def give_back(self, origin: str) -> None:
        """A Response does this for its connection."""
        self._slots.give_back(origin)

    def fail(self, error: Exception, address: str, when: str) -> NoReturn:
        """Raises what a failure means, and remembers it of the server."""
        meaning = translate(error, url.shown(address), when)
        if meaning.temporary or meaning.kind is _Kind.TLS:
            self.health.failed(url.origin_of(address))
        raise meaning from None  # what the libraries say may name a signed URL

    def _headers(self, given: Mapping[str, str]) -> Dict[str, str]:
        return {"User-Agent": self._user_agent, "Accept-Encoding": "identity", **given}

    def _open(
        self,
        method: str,
        address: str,
        current: operation.Operation,
        headers: Dict[str, str],
        settings: tls.Tls,
        body: Optional[bytes],
        wanted: Optional[exchange.Wanted],
    ) -> Any:
        secure = address.startswith("https:")
        context = self._contexts.context(settings) if secure else None
        origin, target = url.origin_of(address), url.target_of(address)
        connection.current.operation = current
        connection.current.target = target
        sent = None
        if wanted is not None and not secure:
            sent = exchange.request(target, url.host_of(origin), headers)
        for left in range(_STALE, -1, -1):
            connection.current.reused = False
            read_s = min(READ_S, current.remaining_s())
            try:
                pool = self._pools.pool(origin, context)
                if wanted is not None and sent is not None:
                    return exchange.ask(pool, wanted, sent, current, read_s)
                return pool.urlopen(
                    method,
                    target,
                    body=body,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    decode_content=False,
                    timeout=urllib3.Timeout(connect=min(connection.CONNECT_S, read_s), read=read_s),
                )
            except errors.RegistryError as error:
                self._note(origin, error)
                raise
            except Exception as error:
                current.check()
                # The pool may have been pushed out by those of other servers between two calls.
                closed = isinstance(error, urllib3.exceptions.ClosedPoolError)
                if not left or not (closed or connection.current.reused and _is_cut(error)):
                    self.fail(error, address, "no answer")
        raise AssertionError("not reached")

    def _note(self, origin: str, error: errors.RegistryError) -> None:
        if error.kind in (_Kind.CONNECT, _Kind.DNS, _Kind.TIMEOUT):
            self.health.failed(origin)

    def _judge(self, origin: str, raw: Any) -> Optional[float]:
        """Remembers what an answer tells of its server; seconds it wants to be left alone for."""
        pause_s = header.retry_after_s(raw.headers)
        if raw.status == 429 or (raw.status == 503 and pause_s is not None):
            pause_s = self.health.throttled(origin, pause_s)
            log.warning("throttled server=%s status=%d pause_s=%.1f", origin, raw.status, pause_s)
        elif raw.status >= 500:
            self.health.failed(origin)
        else:
            self.health.worked(origin)
        return pause_s


def _is_cut(error: Exception) -> bool:
    """The connection ended before an answer began."""
    inner = _inner(error)
    # http.client's RemoteDisconnected is a ConnectionError, too.
    return isinstance(inner, (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError))


def _inner(error: BaseException) -> BaseException:
    """What urllib3 wrapped."""
    for part in reversed(error.args):
        if isinstance(part, Exception):
            return _inner(part)
    return error


def translate(error: Exception, where: str, when: str) -> errors.RegistryError:
    """The one place that knows what the libraries raise; most specific first."""
    inner = _inner(error)
    what = f"{where}: {when}"
    if isinstance(inner, errors.RegistryError):
        return inner
    if isinstance(inner, ssl.SSLCertVerificationError):
        cause = f"{where}: its certificate is not trusted: {inner.verify_message}"
        return errors.RegistryError(_Kind.TLS, cause)
    if isinstance(error, urllib3.exceptions.TimeoutError) or isinstance(inner, socket.timeout):
        return errors.RegistryError(_Kind.TIMEOUT, f"{what} in time")
    if _is_cut(error):
        return errors.RegistryError(_Kind.CONNECT, f"{what}: the connection was closed")
    if isinstance(inner, ssl.SSLError):
        reason = (inner.reason or "failed").replace("_", " ").lower()
        return errors.RegistryError(_Kind.TLS, f"{where}: TLS: {reason}")
    if isinstance(inner, http.client.IncompleteRead):
        cause = f"{where}: the body ended early"
        return errors.RegistryError(_Kind.PROTOCOL, cause, temporary=True)
    if isinstance(inner, OSError):
        return errors.RegistryError(_Kind.CONNECT, f"{what}: {inner.strerror or 'I/O error'}")
    # Only its name: the text of what is left may quote the answer or the URL.
    return errors.RegistryError(_Kind.PROTOCOL, f"{what}: {type(inner).__name__}")
