# SPDX-License-Identifier: Apache-2.0
"""
Blobs of registries, for whoever keeps or reads their bytes.

    registry = blob.Registry(service)                        # one for the whole process
    remote = registry.blob(repo_blob_url, digest, size)      # one for each layer
    remote.open()
    remote.pread_into(buffer, offset)
    with remote.stream(offset, count) as chunks: ...
    remote.close()                                           # ends what is under way, on any thread

A blob has one or several hosts (resolver.py). They are tried in order, those that failed lately
last, and the failures of all of them are told when none gives what is asked for. What is certain to
help is tried again here: a token that expired, a redirect that did, a kept connection that was just
closed, the next host. Anything that takes patience is retry.py's and the caller's business.

Bytes are not verified here: a range of an opaque blob cannot be. ZFile's checksums and the digest
of the whole blob are, above. What headers can tell is checked: see answers.py.
"""

import contextlib
import logging
import math
from typing import Callable, Dict, Iterator, List, Optional, TypeVar

from .. import __version__, config, errors
from . import auth, body, client, credentials, health, operation, resolver, retry, source, url

log = logging.getLogger("registry.blob")

OPEN_S = 30.0  # for all hosts together
READ_S = 30.0  # for the answer to begin, and
SLOWEST = 64 << 10  # bytes a second that the range itself may come at

_Result = TypeVar("_Result")
_Kind = errors.RegistryFailure


class Registry:
    """What all blobs share: connections, tokens, what is known of servers. Thread-safe."""

    def __init__(
        self,
        service: config.ServiceConfig,
        hosts_folder: Optional[str] = None,
        clock: retry.Clock = retry.CLOCK,
    ) -> None:
        """ConfigError when what the service's file says is impossible."""
        pair = service.cert.cert_file, service.cert.key_file
        self._clock = clock
        folder = service.registry.hosts_dir if hosts_folder is None else hosts_folder
        self._resolver = resolver.Resolver(folder, (pair,) if pair[0] else ())
        self._http = client.Client(
            service.user_agent or f"overlaybd/{__version__}", health.Health(clock)
        )
        self._credentials = credentials.Credentials(service.credential, self._http)
        authenticator = auth.Authenticator(self._http, self._credentials, clock)
        self._shared = source.Shared(self._http, authenticator, _proxy(service.p2p))

    def blob(self, repo_blob_url: str, digest: str, size: int = 0) -> "RemoteBlob":
        """
        One blob, not asked for yet. size: bytes, as the image says; 0 when it does not.
        RegistryError for an URL or a digest that is none.
        """
        hosts = self._resolver.hosts(repo_blob_url, digest)
        sources = [source.Source(host, digest, self._shared) for host in hosts]
        return RemoteBlob(sources, self._http.health, digest, size or None, self._clock)

    def reload(self, service: config.ServiceConfig) -> None:
        """Credentials come from where it says, from the next time on that they are looked for."""
        self._credentials.reload(service.credential)

    def close(self) -> None:
        """When no blob is in use any more."""
        self._http.close()


class RemoteBlob:
    """
    One blob. Thread-safe: any number of threads may read it, and any may close it.

    Errors are RegistryError: `temporary` tells whether the same call may succeed later, and
    `retry_after_s` when the server wants to be asked again.
    """

    def __init__(
        self,
        sources: List[source.Source],
        state: health.Health,
        digest: str,
        size: Optional[int],
        clock: retry.Clock,
    ) -> None:
        self.digest = digest
        self._sources = sources
        self._health = state
        self._clock = clock
        self._scope = operation.Scope()
        self._size = size  # set once, by open()
        # Until when a source is tried last, for this blob. Written without a lock: what gets lost
        # costs a request.
        self._last_until: Dict[source.Source, float] = {}
        self._opened = False

    def open(self) -> None:
        """Finds a host that lets us read the blob, and learns its size. May be called again."""
        current = self._operation(OPEN_S)
        self._size = self._first(lambda one: one.size(current, self._size))
        self._opened = True

    def size(self) -> int:
        """Bytes; known after open()."""
        assert self._opened and self._size is not None, "open() comes first"
        return self._size

    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Fills the whole buffer from one range, or raises; then its content is undefined."""
        self.read(offset, len(buffer), body.Buffer(buffer))

    def read(self, offset: int, count: int, into: body.Sink) -> None:
        """
        One range, used as it comes; or raises. `into` is begun with anew when another host has to
        be asked.
        """
        self._check(offset, count)
        if count == 0:
            return
        current = self._operation(READ_S + count / SLOWEST)
        self._first(lambda one: one.read(current, offset, count, self._size, into))

    @contextlib.contextmanager
    def stream(self, offset: int, count: int) -> Iterator[Iterator[bytes]]:
        """
        The range in pieces, from one request; for who may take long. The iterator raises when it
        breaks off, and ends only after exactly count bytes.
        """
        self._check(offset, count)
        if count == 0:
            yield iter(())
            return
        # However long the consumer takes; how slow the server may be, client.py knows.
        current = self._operation(math.inf)
        with self._first(lambda one: one.fetch(current, offset, count, self._size)) as answer:
            yield answer.chunks()

    def close(self) -> None:
        """
        For good; what is under way ends with CLOSED. At once, unless it is looking a name up or
        asking for credentials: those have time limits of their own, of some seconds.
        """
        self._scope.cancel()

    def _operation(self, seconds: float) -> operation.Operation:
        what = url.shown(self._sources[-1].host.blob_url)
        return operation.Operation(self._scope, seconds, what, self._clock)

    def _check(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size():
            raise ValueError(f"range ({offset}, {count}) of a blob of {self._size} bytes")

    def _first(self, function: Callable[[source.Source], _Result]) -> _Result:
        """What the first source gives that gives anything."""
        failures = {}
        for one in sorted(self._sources, key=self._is_last):
            try:
                return function(one)
            except errors.RegistryError as error:
                if error.kind is _Kind.CLOSED or len(self._sources) == 1:
                    raise
                log.info("host passed over digest=%s cause=%s", self.digest, error.cause)
                self._last_until[one] = self._clock.now() + health.DOWN_S
                failures[one] = error
        raise _combined([failures[one] for one in self._sources])

    def _is_last(self, one: source.Source) -> bool:
        down = self._last_until.get(one, 0.0) > self._clock.now()
        return down or self._health.is_down(one.host.origin)


def _combined(failures: List[errors.RegistryError]) -> errors.RegistryError:
    """The registry's own failure, which comes last, and what the mirrors had to say."""
    last = failures[-1]
    cause = "; ".join(error.cause for error in failures)
    temporary = [error for error in failures if error.temporary]
    waits = [error.retry_after_s for error in temporary]
    wait_s = None if None in waits else min((s for s in waits if s is not None), default=None)
    return errors.RegistryError(last.kind, cause, bool(temporary), wait_s)


def _proxy(p2p: config.P2pConfig) -> str:
    """The address as a URL, without a slash at its end; "" when there is none."""
    if not p2p.enable:
        return ""
    address = p2p.address if "://" in p2p.address else f"http://{p2p.address}"
    problem = url.problem(address)
    if problem:
        raise errors.ConfigError("", "p2pConfig.address", problem)
    return address.rstrip("/")
