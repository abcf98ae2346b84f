# SPDX-License-Identifier: Apache-2.0
"""Tokens and passwords: who gets which, how often they are asked for, what happens at their end."""

import concurrent.futures
import threading
import time

import pytest

from overlaybd_tcmu import errors

from .conftest import SIZE, entry, failure, read

USERS = {"me": "pass:word"}
Kind = errors.RegistryFailure


@pytest.fixture
def digest(server, data):
    server.require_bearer(USERS)
    return server.put(data)


@pytest.fixture
def known(made, server):
    """Credentials for the server, and what reads with them."""
    made.save_document({"auths": {server.host: entry("me", "pass:word")}})
    return made


def test_bearer(known, server, digest, data):
    one = known.blob(server.repo_url("a/b"), digest)
    assert read(one, 100, 1000) == data[100:1100]
    (asked,) = server.requests("token")
    assert asked.query == {"service": [server.host], "scope": ["repository:a/b:pull"]}


def test_anonymous_token(made, server, digest, data):
    server.require_bearer(USERS, anonymous=True)
    one = made.blob(server.repo_url(), digest)
    assert read(one, 0, 10) == data[:10]
    assert "authorization" not in server.requests("token")[0].headers


def test_basic(known, server, digest, data):
    server.require_basic(USERS)
    one = known.blob(server.repo_url(), digest)
    assert read(one, 0, 10) == data[:10]
    assert server.requests("token") == []


def test_basic_without_credentials_sends_none(made, server, digest):
    server.require_basic(USERS)
    error = failure(made.blob, server.repo_url(), digest)
    assert error.kind is Kind.AUTH
    assert "wants a user and a password (anonymously" in str(error)
    assert all("authorization" not in one.headers for one in server.requests())


def test_wrong_password(made, server, digest):
    made.save_document({"auths": {server.host: entry("me", "wrong")}})
    error = failure(made.blob, server.repo_url(), digest)
    assert (error.kind, error.temporary) == (Kind.AUTH, False)
    assert str(error).startswith("Authentication failed: token server")
    assert f'entry "{server.host}" of {made.credentials}' in str(error)
    assert len(server.requests()) == len(server.requests("token")) == 1


def test_token_that_is_not_good_enough(known, server, digest):
    """401 again with a new token: an error after a bounded number of requests."""
    server.fault(status=401, headers={"WWW-Authenticate": f'Bearer realm="{server.tokens.url}"'},
                 times=None)  # fmt: skip
    error = failure(known.blob, server.repo_url(), digest)
    assert error.kind is Kind.AUTH
    assert "answered 401" in str(error)
    assert len(server.requests()) == 2


def test_forbidden_with_a_token(known, server, digest):
    server.fault(status=403, times=None, match=lambda one: "authorization" in one.headers)
    error = failure(known.blob, server.repo_url(), digest)
    assert error.kind is Kind.AUTH
    assert "answered 403" in str(error)
    assert len(server.requests()) <= 3


# ---- how often


def test_one_token_for_all_layers(known, server, data):
    server.require_bearer(USERS)
    registry = known.registry()
    digests = [server.put(data + bytes([number])) for number in range(5)]
    for digest in digests:
        read(known.blob(server.repo_url(), digest, registry=registry), 0, 10)
    assert len(server.requests("token")) == 1
    # The first blob learns what is wanted, the others bring it along.
    assert len([one for one in server.requests() if one.status == 401]) == 1


def test_a_token_wanted_by_many_is_asked_for_once(known, server, data):
    server.require_bearer(USERS)
    registry = known.registry()
    hold = threading.Event()
    server.fault(hold=hold, times=8)
    digests = [server.put(data + bytes([number])) for number in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        jobs = [
            executor.submit(known.blob, server.repo_url(), digest, registry=registry)
            for digest in digests
        ]
        while server.registry.in_flight() < 8:
            time.sleep(0.001)
        hold.set()
        assert [job.result().size() for job in jobs] == [SIZE + 1] * 8
    assert [one.status for one in server.requests()].count(401) == 8
    assert len(server.requests("token")) == 1


def test_other_repository_other_token(known, server, digest):
    registry = known.registry()
    for name in ("a", "b", "a"):
        known.blob(server.repo_url(name), digest, registry=registry)
    assert [one.query["scope"] for one in server.requests("token")] == [
        ["repository:a:pull"],
        ["repository:b:pull"],
    ]


def test_failure_of_the_token_server_is_not_remembered(known, server, digest):
    registry = known.registry()
    server.fault(on="token", status=500)
    error = failure(known.blob, server.repo_url(), digest, 0, registry)
    assert (error.kind, error.temporary) == (Kind.SERVER, True)
    assert "token server" in str(error)
    known.blob(server.repo_url(), digest, registry=registry)


@pytest.mark.parametrize("status, kind", [
    (400, Kind.AUTH), (401, Kind.AUTH), (403, Kind.AUTH), (404, Kind.NOT_FOUND),
    (307, Kind.PROTOCOL), (429, Kind.THROTTLED), (503, Kind.SERVER),
])  # fmt: skip
def test_status_of_the_token_server(known, server, digest, status, kind):
    where = {"Location": server.tokens.url + "/elsewhere"} if status == 307 else {}
    server.fault(on="token", status=status, headers=where, times=None)
    error = failure(known.blob, server.repo_url(), digest)
    assert error.kind is kind
    assert len(server.requests("token")) == 1


@pytest.mark.parametrize("lifetime", ['"soon"', "-5", "0", "true", "1e400", "NaN", "[]"])
def test_lifetime_that_is_none_is_a_minute(made, server, digest, clock, lifetime):
    server.fault(on="token", body=b'{"token": "x", "expires_in": %s}' % lifetime.encode(), times=2)
    server.fault(status=401, headers={"WWW-Authenticate": f'Bearer realm="{server.tokens.url}"'})
    server.require_bearer(anonymous=True)
    server.accept("x")
    one = made.blob(server.repo_url(), digest, registry=made.registry(clock))
    clock.time += 49
    read(one, 0, 1)
    assert len(server.requests("token")) == 1
    clock.time += 2
    read(one, 0, 1)
    assert len(server.requests("token")) == 2


@pytest.mark.parametrize("answer", [
    b"", b"[]", b"{}", b'{"token": 5}', b'{"token": ""}', b'{"token": "a\\r\\nX: y"}', b"\xff",
    b'{"token": "' + b"x" * (2 << 20) + b'"}', b"[" * 100_000, b'{"token": "\xc3\xa4"}',
])  # fmt: skip
def test_nonsense_from_the_token_server(known, server, digest, answer):
    server.fault(on="token", body=answer)
    error = failure(known.blob, server.repo_url(), digest)
    assert error.kind is Kind.PROTOCOL


# ---- when they end


@pytest.mark.parametrize("said, used_until", [(300, 290), (None, 50), (8, 4)])
def test_token_is_renewed_shortly_before_it_expires(made, server, digest, clock, said, used_until):
    server.require_bearer({}, anonymous=True, expires_in=said)
    one = made.blob(server.repo_url(), digest, registry=made.registry(clock))
    before = len(server.requests("token"))
    clock.time += used_until - 1
    read(one, 0, 1)
    assert len(server.requests("token")) == before
    clock.time += 2
    read(one, 0, 1)
    assert len(server.requests("token")) == before + 1
    assert [one.status for one in server.requests()].count(401) == 1


def test_revoked_token_is_replaced_without_an_error(known, server, digest, data):
    one = known.blob(server.repo_url(), digest)
    server.revoke()
    assert read(one, 5, 10) == data[5:15]
    assert len(server.requests("token")) == 2


def test_revoked_token_of_many_readers_is_replaced_once(known, server, digest, data):
    one = known.blob(server.repo_url(), digest)
    server.revoke()
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda number: read(one, number, 10), range(100)))
    assert found == [data[number : number + 10] for number in range(100)]
    assert len(server.requests("token")) == 2


def test_slow_reader_does_not_undo_what_a_quick_one_found_out(known, server, digest, data):
    """The token it was refused with is not the one that is kept any more."""
    one = known.blob(server.repo_url(), digest)
    hold = threading.Event()
    server.fault(status=401, hold=hold)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        slow = executor.submit(read, one, 5, 5)
        while not server.registry.in_flight():
            time.sleep(0.001)
        server.revoke()
        assert read(one, 6, 5) == data[6:11]
        hold.set()
        assert slow.result() == data[5:10]
    assert len(server.requests("token")) == 2


def test_rotated_password_needs_no_restart(known, server, digest, data):
    one = known.blob(server.repo_url(), digest)
    server.require_bearer({"me": "new"})
    server.revoke()
    assert failure(read, one, 0, 10).kind is Kind.AUTH
    known.save_document({"auths": {server.host: entry("me", "new")}})
    assert read(one, 0, 10) == data[:10]


def test_rotated_basic_password_needs_no_restart(known, server, digest, data):
    server.require_basic(USERS)
    one = known.blob(server.repo_url(), digest)
    server.require_basic({"me": "new"})
    known.save_document({"auths": {server.host: entry("me", "new")}})
    assert read(one, 0, 10) == data[:10]


# ---- identity tokens


def test_identity_token_is_exchanged(made, server, digest, data):
    identity = server.identity_token("me")
    made.save_document({"auths": {server.host: {"auth": "", "identitytoken": identity}}})
    one = made.blob(server.repo_url(), digest)
    assert read(one, 0, 10) == data[:10]
    (asked,) = server.requests("token")
    assert asked.method == "POST" and identity.encode() in asked.body


# ---- challenges as servers write them


@pytest.mark.parametrize("text", [
    'Bearer realm="{realm}", service="{host}", scope="repository:{repository}:pull"',
    'bearer  Realm = "{realm}" ,scope="repository:{repository}:pull"',
    'BEARER realm="{realm}",service="{host}"',
    "Bearer realm={realm},service={host}",
    'Basic realm="x", Bearer realm="{realm}",service="{host}"',
    'Negotiate, Bearer realm="{realm}",error="invalid_token"',
])  # fmt: skip
def test_challenge(known, server, digest, text):
    """The scope is optional, as are spaces; names and schemes are in any case."""
    server.challenge(text)
    known.blob(server.repo_url("a/b"), digest)
    assert server.requests("token")[0].query["scope"] == ["repository:a/b:pull"]


def test_values_are_escaped(known, server, digest):
    server.challenge('Bearer realm="{realm}?a=b",service="a&b c",scope="x y"')
    failure(known.blob, server.repo_url(), digest)
    query = server.requests("token")[0].query
    assert query == {"a": ["b"], "service": ["a&b c"], "scope": ["x", "y"]}


@pytest.mark.parametrize("text, said", [
    ("", "asks for nothing"),
    ("Digest realm=x", "asks for digest"),
    ("Bearer", "the realm of its token server"),
    ('Bearer realm="token.example"', "the realm of its token server is neither http nor https"),
    ('Bearer realm="file:///etc/passwd"', "is neither"),
    ('Bearer realm="http://h:x/"', "impossible host or port"),
])  # fmt: skip
def test_challenge_that_cannot_be_answered(known, server, digest, text, said):
    server.fault(status=401, headers={"WWW-Authenticate": text} if text else {}, times=None)
    error = failure(known.blob, server.repo_url(), digest)
    assert error.kind is Kind.AUTH
    assert said in str(error)
