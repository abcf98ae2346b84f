# SPDX-License-Identifier: Apache-2.0
"""
Who we are to a registry: what to put into Authorization, and where to get it.

A registry says with 401 what it wants; what worked is remembered for each repository of each host,
so the next request brings it along. Tokens are kept until shortly before they expire, by (registry,
realm, service, scope, user): none ever reaches another registry. Whoever needs the same token at
the same time waits for one request. `_lock` guards both tables and is held for moments.

Passwords go to the registry they are for (Basic) or to the token server it names, over TLS if the
registry itself speaks TLS. Nothing here is ever sent to where a blob is redirected to; blob sources
see to that.
"""

import dataclasses
import json
import logging
import re
import threading
import urllib.parse
from typing import Any, Iterable, List, Optional, Tuple

import cachetools

from .. import errors
from . import answers, challenge, client, credentials, flight, operation, resolver, retry, tls, url

log = logging.getLogger("registry.auth")

LIFETIME_S = 60.0  # of a token that does not say
MARGIN_S = 10.0  # before it expires; half of a short life
_KEPT = 4096  # tokens, and repositories
# What a header may carry; also keeps an answer from adding headers of its own.
_TOKEN = re.compile(r"[!-~]+")

_Kind = errors.RegistryFailure


@dataclasses.dataclass(frozen=True)
class _Key:
    """What a token is good for."""

    origin: str
    realm: str
    service: str
    scope: str
    user: str


@dataclasses.dataclass(frozen=True)
class _Token:
    header: str = dataclasses.field(repr=False)
    expires: float


@dataclasses.dataclass(frozen=True)
class _Way:
    """How a repository of a host is authorized: with tokens of a key, or always the same header."""

    key: Optional[_Key] = None
    header: str = dataclasses.field(default="", repr=False)
    asked: Optional[challenge.Challenge] = None
    who: str = ""  # where the credential is from, or why there is none


class Authenticator:
    """Thread-safe."""

    def __init__(
        self,
        http: client.Client,
        source: credentials.Credentials,
        clock: retry.Clock = retry.CLOCK,
    ) -> None:
        self._http = http
        self._credentials = source
        self._clock = clock
        self._lock = threading.Lock()
        self._ways: "cachetools.LRUCache[Tuple[str, str], _Way]" = cachetools.LRUCache(_KEPT)
        self._tokens: "cachetools.LRUCache[_Key, _Token]" = cachetools.LRUCache(_KEPT)
        self._flight: flight.SingleFlight[_Token] = flight.SingleFlight()

    def known(self, host: resolver.Host, current: operation.Operation) -> str:
        """The Authorization to bring along; "" when none is known to be needed."""
        with self._lock:
            way = self._ways.get((host.origin, host.repository))
            token = self._tokens.get(way.key) if way and way.key else None
        if way is None or way.asked is None:
            return ""
        if way.key is None:
            return way.header
        if token is not None and token.expires > self._clock.now():
            return token.header
        return self.answer(host, [way.asked], "", current)

    def describe(self, host: resolver.Host) -> str:
        """Whom the host takes us for, as far as it may be shown."""
        with self._lock:
            way = self._ways.get((host.origin, host.repository))
        return way.who if way else "anonymously"

    def reject(self, host: resolver.Host, header: str) -> None:
        """The host does not take this header any more; others do not try it, either."""
        with self._lock:
            way = self._ways.get((host.origin, host.repository))
            if way is None:
                return
            token = self._tokens.get(way.key) if way.key else None
            if token is not None and way.key is not None and token.header == header:
                del self._tokens[way.key]
            if way.key is None and way.header == header:
                del self._ways[(host.origin, host.repository)]

    def answer(
        self,
        host: resolver.Host,
        asked: Iterable[challenge.Challenge],
        rejected: str,
        current: operation.Operation,
    ) -> str:
        """
        The Authorization that answers a 401's challenges; `rejected` was not good enough. AUTH when
        there is none to be had.
        """
        if rejected:
            self.reject(host, rejected)
        by_scheme = {one.scheme: one for one in reversed(list(asked))}
        found = self._credentials.find(host.name, host.repository, host.blob_url)
        if "bearer" in by_scheme:
            return self._bearer(host, by_scheme["bearer"], found, current)
        if "basic" in by_scheme:
            return self._basic(host, by_scheme["basic"], found)
        schemes = ", ".join(sorted(by_scheme)) or "nothing"
        raise _denied(f"{host.origin}: asks for {schemes}, not Bearer or Basic", found)

    def _basic(
        self, host: resolver.Host, asked: challenge.Challenge, found: credentials.Found
    ) -> str:
        if found.credential is None or found.credential.identity_token:
            raise _denied(f"{host.origin}: wants a user and a password", found)
        header = found.credential.basic()
        with self._lock:
            self._ways[(host.origin, host.repository)] = _Way(None, header, asked, _whom(found))
        return header

    def _bearer(
        self,
        host: resolver.Host,
        asked: challenge.Challenge,
        found: credentials.Found,
        current: operation.Operation,
    ) -> str:
        realm = asked.parameters.get("realm", "")
        problem = url.problem(realm)
        if not problem and host.origin.startswith("https:") and not realm.startswith("https:"):
            problem = "is not https, as the registry is"
        if problem:
            cause = f"{host.origin}: the realm of its token server {problem}"
            raise errors.RegistryError(_Kind.AUTH, cause)
        scope = asked.parameters.get("scope") or f"repository:{host.repository}:pull"
        user = found.credential.user if found.credential else ""
        key = _Key(host.origin, realm, asked.parameters.get("service", ""), scope, user)
        with self._lock:
            self._ways[(host.origin, host.repository)] = _Way(key, "", asked, _whom(found))
        token = self._flight.do(key, current, lambda: self._token(host, key, found, current))
        return token.header

    def _token(
        self, host: resolver.Host, key: _Key, found: credentials.Found, current: operation.Operation
    ) -> _Token:
        """One that is kept and still good, or a new one."""
        with self._lock:
            token = self._tokens.get(key)
        if token is not None and token.expires > self._clock.now():
            return token
        asked = self._clock.now()
        text, lifetime_s = self._ask(host, key, found, current)
        margin_s = min(MARGIN_S, lifetime_s / 2)
        token = _Token(f"Bearer {text}", asked + lifetime_s - margin_s)
        with self._lock:
            self._tokens[key] = token
        realm = url.shown(key.realm)
        log.debug("token realm=%s scope=%s lifetime_s=%.0f", realm, key.scope, lifetime_s)
        return token

    def _ask(
        self, host: resolver.Host, key: _Key, found: credentials.Found, current: operation.Operation
    ) -> Tuple[str, float]:
        fields = [("service", key.service)] if key.service else []
        fields += [("scope", one) for one in key.scope.split()]
        settings = host.trust if url.origin_of(key.realm) == host.origin else host.trust.elsewhere()
        credential = found.credential
        if credential is not None and credential.identity_token:
            return self._ask_oauth(key, fields, credential.identity_token, settings, found, current)
        headers = {"Authorization": credential.basic()} if credential else {}
        address = url.with_query(key.realm, urllib.parse.urlencode(fields))
        with self._http.request("GET", address, current, headers, settings) as response:
            return _read_token(response, key, found)

    def _ask_oauth(
        self,
        key: _Key,
        fields: List[Tuple[str, str]],
        identity_token: str,
        settings: tls.Tls,
        found: credentials.Found,
        current: operation.Operation,
    ) -> Tuple[str, float]:
        """With the token that a login left behind instead of the password."""
        fields = [
            ("grant_type", "refresh_token"),
            ("client_id", "overlaybd-tcmu"),
            ("refresh_token", identity_token),
            *[field for field in fields if field[0] != "scope"],
            ("scope", key.scope),
        ]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urllib.parse.urlencode(fields).encode()
        response = self._http.request("POST", key.realm, current, headers, settings, body)
        with response:
            return _read_token(response, key, found)


def _read_token(
    response: client.Response, key: _Key, found: credentials.Found
) -> Tuple[str, float]:
    """(token, seconds it lives) of a token server's answer."""
    who = f"token server {url.shown(key.realm)}"
    if response.status in (400, 401, 403):
        raise _denied(f"{who}: answered {response.status}", found)
    if response.status != 200:
        raise answers.refusal(response, who)
    try:
        answer: Any = json.loads(response.read_all())
        text = answer.get("token") or answer.get("access_token")
        lifetime = answer.get("expires_in")
    except (ValueError, AttributeError, RecursionError):
        raise errors.RegistryError(_Kind.PROTOCOL, f"{who}: answered something else than JSON")
    if not isinstance(text, str) or not _TOKEN.fullmatch(text):
        raise errors.RegistryError(_Kind.PROTOCOL, f"{who}: gave no token")
    is_number = isinstance(lifetime, (int, float)) and not isinstance(lifetime, bool)
    # Bounded: a value beyond all reason must not become an infinity.
    seconds = min(float(lifetime), 1e9) if is_number and 0 < lifetime < 1e9 else LIFETIME_S
    return text, seconds


def _denied(what: str, found: credentials.Found) -> errors.RegistryError:
    """AUTH; temporary if it was the credentials' source that failed for now."""
    cause = f"{what} ({_whom(found)})"
    return errors.RegistryError(_Kind.AUTH, cause, temporary=found.temporary)


def _whom(found: credentials.Found) -> str:
    return f"with {found.reason}" if found.credential else f"anonymously: {found.reason}"
