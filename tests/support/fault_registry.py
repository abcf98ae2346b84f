# SPDX-License-Identifier: Apache-2.0
"""
A registry of ours that misbehaves on script: blobs, tokens, an object store it redirects to.

    with FaultRegistry() as registry:
        digest = registry.put(data)                     # "sha256:..."; in every repository
        url = registry.repo_url("library/x")             # a repoBlobUrl
        registry.delay(0.005)                           # before each answer with blob data
        registry.fault(status=429, headers={"Retry-After": "1"}, times=2)
        registry.fault(on="store", cut_after=100)
        ...
        registry.ranges(digest)                         # [(offset, count), ...] that were answered
        registry.requests("blob")                       # http_server.Request, with every header
        registry.in_flight_max()                        # blob requests under way at once

Three servers with ports of their own: `registry` (kind "blob"), `tokens` ("token"), `store`.
What is not a fault behaves as docker-registry does: 206 with Content-Range, Docker-Content-Digest,
404 for what it does not have, 401 with a challenge once require_bearer() or require_basic() is set.

fault(on="blob", times=1, skip=0, **how) arms one: the next `times` requests of the kind (None:
all from now on) after `skip` good ones get it. Faults queue up: the first one that fits is used.
`match=function(Request)` narrows it. How, all of which can be combined with the true answer:

    status=, headers=, body=    that answer instead
    ignore_range=True           200 and the whole blob
    content_range="..."         that header instead of the true one; "" leaves it out
    shift=n                     the n bytes later than asked, honestly labelled
    other=digest                bytes of another blob, the head unchanged
    delay_s= close= length= chunked= cut_after= stall_after= drip_s= last= hold=
                                as http_server.Reply

down() and up() take the registry away and bring it back on the same port. In a process of its own,
for measurements that must not share our interpreter: `with in_process() as registry:` has the same
methods, not the attributes.
"""

import base64
import collections
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing.managers
import secrets
import threading
import time
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Tuple

from . import http_server
from .http_server import Reply, Request

_HOW = {field.name for field in dataclasses.fields(Reply)} | {
    "ignore_range",
    "content_range",
    "shift",
    "other",
}


@dataclasses.dataclass
class Fault:
    on: str
    how: Dict[str, Any]
    times: Optional[int]
    skip: int
    match: Optional[Callable[[Request], bool]]


class FaultRegistry:
    """See the module. Thread-safe; close() ends its servers."""

    def __init__(self, tls: Any = None) -> None:
        self._lock = threading.Lock()
        self._blobs: Dict[str, bytes] = {}
        self._faults: List[Fault] = []
        self._delay_s = 0.0
        self._users: Dict[str, str] = {}
        self._scheme = ""  # "", "bearer", "basic"
        self._anonymous = False  # tokens for nobody in particular
        self._expires_in: Optional[float] = 300
        self._token_key = "token"
        self._tokens: Dict[str, Tuple[str, float]] = {}  # token: scope, when it expires
        self._refresh_tokens: Dict[str, str] = {}  # identity token: user
        self._challenge = ""
        self._location = ""  # a format; "": no redirects
        self._signatures: Deque[str] = collections.deque(maxlen=1)
        self._redirect_status = 307
        self.store = http_server.Server(self._answer_store, tls, "store")
        self.tokens = http_server.Server(self._answer_token, tls, "tokens")
        self.registry = http_server.Server(self._answer_registry, tls, "registry")
        self.host = self.registry.host
        self.kinds = "blob", "token", "store"
        self._servers = {"blob": self.registry, "token": self.tokens, "store": self.store}

    def __enter__(self) -> "FaultRegistry":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        for server in self._servers.values():
            server.close()

    # -- content

    def put(self, data: bytes) -> str:
        """Adds a blob; its digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.replace(digest, data)
        return digest

    def replace(self, digest: str, data: bytes) -> None:
        """Other bytes under a digest: the registry is poisoned."""
        with self._lock:
            self._blobs[digest] = bytes(data)

    def delete(self, digest: str) -> None:
        with self._lock:
            del self._blobs[digest]

    def repo_url(self, repository: str = "library/x") -> str:
        return f"{self.registry.url}/v2/{repository}/blobs"

    # -- behaviour

    def delay(self, seconds: float) -> None:
        """Before the first byte of each answer with blob data, from the registry or the store."""
        self._delay_s = seconds

    def fault(
        self,
        on: str = "blob",
        times: Optional[int] = 1,
        skip: int = 0,
        match: Optional[Callable[[Request], bool]] = None,
        **how: Any,
    ) -> None:
        """Arms a fault; see the module."""
        unknown = set(how) - _HOW
        assert not unknown and on in self._servers, (on, unknown)
        with self._lock:
            self._faults.append(Fault(on, how, times, skip, match))

    def heal(self) -> None:
        """Disarms every fault."""
        with self._lock:
            self._faults.clear()

    def down(self) -> None:
        """The registry itself refuses connections; token server and store live on."""
        self.registry.stop()

    def up(self) -> None:
        self.registry.start()

    def require_bearer(
        self,
        users: Optional[Dict[str, str]] = None,
        anonymous: bool = False,
        expires_in: Optional[float] = 300,
        key: str = "token",
    ) -> None:
        """Blobs need a token for their repository; expires_in None leaves that field out."""
        with self._lock:
            self._scheme, self._users, self._anonymous = "bearer", dict(users or {}), anonymous
            self._expires_in, self._token_key = expires_in, key

    def require_basic(self, users: Dict[str, str]) -> None:
        with self._lock:
            self._scheme, self._users = "basic", dict(users)

    def challenge(self, text: str) -> None:
        """WWW-Authenticate as given; {realm}, {host} and {repository} are filled in."""
        self._challenge = text

    def accept(self, token: str) -> None:
        """A token that is good for everything."""
        with self._lock:
            self._tokens[token] = "*", float("inf")

    def revoke(self) -> None:
        """No token given so far is good any more."""
        with self._lock:
            self._tokens.clear()

    def identity_token(self, user: str) -> str:
        """A refresh token, as `docker login` at some registries gets one."""
        token = "identity-" + secrets.token_hex(8)
        with self._lock:
            self._refresh_tokens[token] = user
        return token

    def redirect(self, location: str = "", status: int = 307) -> None:
        """Blob requests are sent to the store; {store}, {digest}, {signature} are filled in."""
        with self._lock:
            self._location = location or "{store}/objects/{digest}?X-Signature={signature}"
            self._redirect_status = status
            self._signatures.append(secrets.token_hex(8))

    def no_redirect(self) -> None:
        """The registry serves its blobs itself, as in the beginning."""
        with self._lock:
            self._location = ""

    def expire_redirects(self) -> None:
        """The store refuses what it was asked with so far."""
        with self._lock:
            self._signatures.append(secrets.token_hex(8))

    # -- what was seen

    def requests(self, on: str = "blob") -> List[Request]:
        return self._servers[on].log()

    def ranges(self, digest: str, on: str = "") -> List[Tuple[int, int]]:
        """(offset, count) of each answer with bytes of the blob, by registry or store."""
        kinds = [on] if on else ["blob", "store"]
        requests = [one for kind in kinds for one in self.requests(kind)]
        found = [one for one in requests if digest in one.path and one.status in (200, 206)]
        found.sort(key=lambda one: one.started_s)
        return [one.range or (0, one.sent) for one in found]

    def bytes_sent(self) -> int:
        """Bytes of bodies, of registry and store."""
        return sum(one.sent for kind in ("blob", "store") for one in self.requests(kind))

    def in_flight_max(self) -> int:
        """Requests that registry or store had under way at once."""
        return max(self.registry.in_flight_max(), self.store.in_flight_max())

    def clear(self) -> None:
        """Forgets what was seen."""
        for server in self._servers.values():
            server.clear()

    # -- the servers' answers; each on a thread of its connection

    def _answer_registry(self, request: Request) -> Reply:
        fault = self._take_fault("blob", request)
        if "status" in fault:
            return _faulty(Reply(), fault)
        repository, _, digest = request.path.removeprefix("/v2/").partition("/blobs/")
        denied = self._authorize(request, repository)
        if denied is not None:
            return _faulty(denied, fault)
        if self._location and digest in self._blobs:
            where = self._location.format(
                store=self.store.url, digest=digest, signature=self._signatures[-1]
            )
            return _faulty(Reply(self._redirect_status, {"Location": where}), fault)
        headers = {"Docker-Content-Digest": digest, "Etag": f'"{digest}"'}
        return self._blob(request, digest, headers, fault)

    def _answer_store(self, request: Request) -> Reply:
        fault = self._take_fault("store", request)
        if "status" in fault:
            return _faulty(Reply(), fault)
        if request.query.get("X-Signature") != [self._signatures[-1]]:
            return Reply(403, {}, b"<Error><Code>AccessDenied</Code></Error>")
        digest = request.path.rpartition("/")[2]
        etag = hashlib.md5(self._blobs.get(digest, b"")).hexdigest()
        return self._blob(request, digest, {"Etag": f'"{etag}"'}, fault)

    def _blob(
        self, request: Request, digest: str, headers: Dict[str, str], fault: Dict[str, Any]
    ) -> Reply:
        data = self._blobs.get(digest)
        if data is None:
            return Reply(404, {}, json.dumps({"errors": [{"code": "BLOB_UNKNOWN"}]}).encode())
        headers = {"Accept-Ranges": "bytes", **headers}
        reply = Reply(200, headers, data, delay_s=self._delay_s)
        if request.range is not None and not fault.get("ignore_range"):
            offset, count = request.range
            offset += fault.get("shift", 0)
            part = memoryview(self._blobs[fault.get("other", digest)])[offset : offset + count]
            if offset >= len(data):
                return Reply(416, {"Content-Range": f"bytes */{len(data)}"})
            count = min(count, len(data) - offset)
            true_range = f"bytes {offset}-{offset + count - 1}/{len(data)}"
            headers["Content-Range"] = fault.get("content_range", true_range)
            if not headers["Content-Range"]:
                del headers["Content-Range"]
            reply.status, reply.body = 206, part
        return _faulty(reply, fault)

    def _take_fault(self, on: str, request: Request) -> Dict[str, Any]:
        with self._lock:
            for fault in self._faults:
                if fault.on != on or (fault.match and not fault.match(request)):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self._faults.remove(fault)
                return fault.how
        return {}

    def _authorize(self, request: Request, repository: str) -> Optional[Reply]:
        """None for whoever may read the repository."""
        if not self._scheme:
            return None
        given = request.headers.get("authorization", "")
        if self._scheme == "basic":
            if self._user_of(given) is not None:
                return None
            text = self._challenge or 'Basic realm="{host}"'
        else:
            wanted = f"repository:{repository}:pull"
            with self._lock:
                scope, expires = self._tokens.get(given.removeprefix("Bearer "), ("", 0.0))
            if (scope == "*" or wanted in scope.split()) and time.monotonic() < expires:
                return None
            text = self._challenge or (
                'Bearer realm="{realm}",service="{host}",scope="repository:{repository}:pull"'
            )
        filled = text.format(
            realm=self.tokens.url + "/token", host=self.host, repository=repository
        )
        body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": given}]}).encode()
        return Reply(401, {"WWW-Authenticate": filled}, body)

    def _user_of(self, header: str) -> Optional[str]:
        """Who an "Authorization: Basic" names, if the password is right."""
        if not header.startswith("Basic "):
            return None
        user, _, password = base64.b64decode(header[len("Basic ") :]).decode().partition(":")
        return user if user in self._users and self._users[user] == password else None

    def _answer_token(self, request: Request) -> Reply:
        fault = self._take_fault("token", request)
        if "status" in fault:
            return _faulty(Reply(), fault)
        values = request.query
        user = self._user_of(request.headers.get("authorization", ""))
        if request.method == "POST":
            form = http_server.urllib.parse.parse_qs(request.body.decode())
            values = form
            user = self._refresh_tokens.get(form.get("refresh_token", [""])[0])
        elif "authorization" not in request.headers and self._anonymous:
            user = ""
        if user is None:
            return Reply(401, {}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')
        token = "token-" + secrets.token_hex(16)
        lifetime = self._expires_in
        with self._lock:
            scope = " ".join(values.get("scope", []))
            self._tokens[token] = scope, time.monotonic() + (60 if lifetime is None else lifetime)
        answer: Dict[str, Any] = {self._token_key: token}
        if lifetime is not None:
            answer["expires_in"] = lifetime
        return _faulty(Reply(200, {}, json.dumps(answer).encode()), fault)


def _faulty(reply: Reply, how: Dict[str, Any]) -> Reply:
    known = {field.name for field in dataclasses.fields(Reply)} - {"headers"}
    changed = dataclasses.replace(reply, **{k: v for k, v in how.items() if k in known})
    changed.headers = {**reply.headers, **how.get("headers", {})}
    return changed


class _Manager(multiprocessing.managers.BaseManager):
    pass


_Manager.register("FaultRegistry", FaultRegistry)


@contextlib.contextmanager
def in_process() -> Iterator[Any]:
    """A FaultRegistry (its methods) in a process of its own. No TLS, no `match`, no `hold`."""
    with _Manager(ctx=multiprocessing.get_context("spawn")) as manager:
        registry = manager.FaultRegistry()
        try:
            yield registry
        finally:
            registry.close()
