# SPDX-License-Identifier: Apache-2.0
"""
One blob at one host: where its bytes are, and one range of them.

    ask the host --> 206: they are here                         requests carry Authorization
                 --> 401: authorize, ask again
                 --> 307: they are elsewhere, in an object store     requests carry nothing of ours

Where they are is remembered for all threads until it is refused or its time is over; then one
thread asks the host again and the others wait for it. `_lock` guards what is remembered and is held
for moments, never across a request. A place that was refused is forgotten only if it is still the
one remembered: whoever was slower must not undo what another found out meanwhile.

With P2P acceleration data comes through a proxy, <proxy>/<URL of the bytes>; only the host is asked
directly, and everything is while the proxy fails.
"""

import dataclasses
import logging
import math
import threading
from typing import Optional, Tuple, Union

from .. import errors
from . import (
    answers,
    auth,
    body,
    challenge,
    client,
    exchange,
    expiry,
    flight,
    operation,
    resolver,
    url,
)

log = logging.getLogger("registry.source")

MAX_HOPS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
# What a place may answer when only its time is over, or the object was moved.
_RENEWABLE = (400, 401, 403, 404, 410)
_ETAG_CHANGES = 2  # beyond which a place's servers just do not agree on one

_Kind = errors.RegistryFailure


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """Where the bytes are."""

    address: str = dataclasses.field(repr=False)  # may be signed
    authorized: bool = False  # at the host itself, which wants to know who we are
    expires: float = math.inf  # monotonic


@dataclasses.dataclass(frozen=True)
class Shared:
    """What all sources of a process use."""

    http: client.Client
    authenticator: auth.Authenticator
    proxy: str = ""  # of P2P acceleration, without a slash at its end


class Source:
    """Thread-safe."""

    def __init__(self, host: resolver.Host, digest: str, shared: Shared) -> None:
        self.host = host
        self._digest = digest
        self._shared = shared
        self._lock = threading.Lock()
        self._place: Optional[_Place] = None
        self._etag: Optional[str] = None  # of the place, "": has none; None: not known yet
        self._etag_changes = 0
        self._flight: flight.SingleFlight[_Place] = flight.SingleFlight()

    def size(self, current: operation.Operation, expected: Optional[int]) -> int:
        """
        Bytes of the blob, and whether we may read it. What is expected is believed when the host
        does not contradict it: what an object store has is checked with each range anyway.
        """
        _, size = self._find(current, expected)
        if size is None:
            size = expected
        if size is None:
            with self.fetch(current, 0, 1, None) as answer:
                size = answers.size_of(answer.response)
        if size is None:
            cause = f"{url.shown(self.host.blob_url)}: does not tell the blob's size"
            raise errors.RegistryError(_Kind.PROTOCOL, cause)
        return size

    def fetch(
        self,
        current: operation.Operation,
        offset: int,
        count: int,
        size: Optional[int],
        into: Optional[body.Sink] = None,
    ) -> body.Body:
        """
        One range of a blob of `size` bytes (None: not known yet). RegistryError when this host does
        not give it; a place is renewed once if that may help. into: some of it may be there already
        when this returns.
        """
        renewed = False
        for _ in range(MAX_HOPS + 2):
            place = self._where(current, size)
            wanted = self._wanted(place, count, size, into)
            response, header = self._get(current, place, offset, count, wanted)
            try:
                outcome = self._judge(place, response, offset, count, size)
            except BaseException:
                response.close(keep=False)
                raise
            if isinstance(outcome, body.Body):
                return outcome
            response.close()
            if isinstance(outcome, _Place):
                self._replace(place, outcome)
            elif renewed:
                raise outcome
            else:
                log.debug("place renewed cause=%s", outcome.cause)
                renewed = True
                self._replace(place, None)
                if header:
                    self._shared.authenticator.reject(self.host, header)
        raise self._too_many_redirects()

    def read(
        self,
        current: operation.Operation,
        offset: int,
        count: int,
        size: Optional[int],
        into: body.Sink,
    ) -> None:
        """One range. Past the proxy, should that break off."""
        answer = self.fetch(current, offset, count, size, into)
        try:
            with answer:
                return answer.read(into)
        except errors.RegistryError as error:
            if error.kind is _Kind.CLOSED or not self._by_proxy(answer.response):
                raise
        with self.fetch(current, offset, count, size) as answer:
            answer.read(into)

    # -- one request for bytes

    def _wanted(
        self, place: _Place, count: int, size: Optional[int], into: Optional[body.Sink]
    ) -> Optional[exchange.Wanted]:
        """What may be taken directly: from a place that has given ranges before, and no proxy."""
        if into is None or not into.asks or size is None or self._shared.proxy:
            return None
        with self._lock:
            etag = self._etag if self._place is place else None
        if etag is None:
            return None
        return exchange.Wanted(into, self._digest, etag, size, count)

    def _get(
        self,
        current: operation.Operation,
        place: _Place,
        offset: int,
        count: int,
        wanted: Optional[exchange.Wanted],
    ) -> Tuple[client.Response, str]:
        """The answer, and the Authorization it was asked with."""
        http, proxy = self._shared.http, self._shared.proxy
        headers = {"Range": f"bytes={offset}-{offset + count - 1}"}
        header = ""
        settings = self.host.trust.elsewhere()
        if url.origin_of(place.address) == self.host.origin:
            settings = self.host.trust
            headers.update(self.host.headers)
        if place.authorized:
            header = self._shared.authenticator.known(self.host, current)
            headers.update({"Authorization": header} if header else {})
        if proxy and not http.health.is_down(url.origin_of(proxy)):
            try:
                response = http.request("GET", f"{proxy}/{place.address}", current, headers)
                if response.status in (200, 206):
                    return response, header
                response.close()
            except errors.RegistryError as error:
                if error.kind is _Kind.CLOSED:
                    raise
                log.debug("proxy passed over cause=%s", error.cause)
        response = http.request("GET", place.address, current, headers, settings, wanted=wanted)
        return response, header

    def _judge(
        self,
        place: _Place,
        response: client.Response,
        offset: int,
        count: int,
        size: Optional[int],
    ) -> Union[body.Body, _Place, errors.RegistryError]:
        """The range, or where it is, or an error that may be the place's; others are raised."""
        if response.taken is not None:
            return body.Body(response, 0, count)
        if response.status in (200, 206):
            try:
                skip = answers.check(response, offset, count, size, self._digest)
            except errors.RegistryError as error:
                if not self._by_proxy(response):
                    raise
                response.failed()  # so the next request goes past the proxy
                return error
            if self._is_other_object(place, response):
                cause = f"{url.shown(response.address)}: the object was replaced"
                return errors.RegistryError(_Kind.PROTOCOL, cause)
            return body.Body(response, skip, count)
        if response.status == 416 and size is None and answers.size_of(response) == 0:
            return body.Body(response, 0, 0)
        if response.status in _REDIRECTS:
            return self._redirected(response)
        refusal = answers.refusal(response, self._who(response, place.authorized))
        if response.status in _RENEWABLE:
            return refusal
        raise refusal

    def _is_other_object(self, place: _Place, response: client.Response) -> bool:
        """Whether a place's Etag changed, as long as its servers agree on one."""
        etag = response.headers.get("Etag", "")
        with self._lock:
            if self._place is not place or self._etag_changes > _ETAG_CHANGES:
                return False
            if not etag or etag.startswith("W/"):
                self._etag = self._etag or ""
                return False
            changed = bool(self._etag) and self._etag != etag
            self._etag = etag
            self._etag_changes += changed
            return changed

    def _by_proxy(self, response: client.Response) -> bool:
        proxy = self._shared.proxy
        return bool(proxy) and response.address.startswith(proxy + "/")

    # -- where the bytes are

    def _where(self, current: operation.Operation, size: Optional[int]) -> _Place:
        return self._remembered(current) or self._flight.do(
            "place", current, lambda: self._remembered(current) or self._find(current, size)[0]
        )

    def _remembered(self, current: operation.Operation) -> Optional[_Place]:
        with self._lock:
            place = self._place
        return place if place is not None and place.expires > current.clock.now() else None

    def _replace(self, old: Optional[_Place], new: Optional[_Place]) -> None:
        """Unless somebody else did it already."""
        with self._lock:
            if self._place is old:
                self._place, self._etag = new, None

    def _find(
        self, current: operation.Operation, expected: Optional[int]
    ) -> Tuple[_Place, Optional[int]]:
        """Asks the host. The place, and the blob's size if the host tells it."""
        with self._lock:
            old = self._place
        place = _Place(self.host.blob_url, True)
        for _ in range(MAX_HOPS + 1):
            response, authorized = self._ask(current, place)
            with response:
                if response.status in _REDIRECTS:
                    place = self._redirected(response)
                    if url.origin_of(place.address) == self.host.origin:
                        continue  # whether it wants to know who we are there, it will say
                    size = None
                else:
                    size = self._size_told(response, expected)
                    place = dataclasses.replace(place, authorized=authorized)
            self._replace(old, place)
            return place, size
        raise self._too_many_redirects()

    def _ask(self, current: operation.Operation, place: _Place) -> Tuple[client.Response, bool]:
        """The host's answer to a request for the first byte, and whether it wants to know us."""
        authenticator = self._shared.authenticator
        header = authenticator.known(self.host, current) if place.authorized else ""
        asked = False
        while True:
            headers = {"Range": "bytes=0-0", **dict(self.host.headers)}
            headers.update({"Authorization": header} if header else {})
            http, settings = self._shared.http, self.host.trust
            response = http.request("GET", place.address, current, headers, settings)
            if response.status == 401 and not asked:
                values = response.headers.getlist("WWW-Authenticate")
                response.close()
                challenges = challenge.parse(values)
                header = authenticator.answer(self.host, challenges, header, current)
                asked = True
            elif response.status == 403 and header and not asked:
                # Some say so when a token's time is over; without one they say what they want.
                response.close()
                authenticator.reject(self.host, header)
                header = ""
            elif response.status == 403 and not place.authorized and not asked:
                # It does not say what it wants, but it may be what the host wants.
                header = authenticator.known(self.host, current)
                if not header:
                    return response, False
                response.close()
                asked = True
            else:
                return response, place.authorized or bool(header)

    def _size_told(self, response: client.Response, expected: Optional[int]) -> Optional[int]:
        """Of an answer to a request for the first byte; RegistryError when it is no good one."""
        size = answers.size_of(response)
        if response.status == 416 and size == 0 and expected in (None, 0):
            return size
        if response.status not in (200, 206):
            raise answers.refusal(response, self._who(response, True))
        answers.check(response, 0, 1, expected, self._digest)
        return size

    def _redirected(self, response: client.Response) -> _Place:
        location = response.headers.get("Location", "")
        address = url.resolved(response.address, location) if location else None
        if address is None:
            cause = f"{url.shown(response.address)}: redirects to something that is no URL"
            raise errors.RegistryError(_Kind.PROTOCOL, cause)
        lifetime_s = expiry.lifetime_s(address, response.headers)
        now = response.clock.now()
        return _Place(address, False, math.inf if lifetime_s is None else now + lifetime_s)

    def _who(self, response: client.Response, authorized: bool) -> str:
        """Who answered, and whom they took us for."""
        who = url.shown(response.address)
        if authorized and response.status in (401, 403):
            return f"{who} ({self._shared.authenticator.describe(self.host)})"
        return who

    def _too_many_redirects(self) -> errors.RegistryError:
        cause = f"{url.shown(self.host.blob_url)}: more than {MAX_HOPS} redirects"
        return errors.RegistryError(_Kind.PROTOCOL, cause)
