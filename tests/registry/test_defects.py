# SPDX-License-Identifier: Apache-2.0
"""
The defects of the original that must not come back, each by its name; related ones are where their
part is tested: test_tls.py (certificates), test_redirects.py (Authorization at redirect targets),
test_whole_answers.py (Range ignored).
"""

import concurrent.futures
import logging
import re
import socket
import threading
import time

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.registry import client, connection, health, retry

from ..support import fault_registry
from .conftest import entry, failure, read

Kind = errors.RegistryFailure


# ---- tokens were kept by their scope alone


def test_token_of_one_registry_is_never_sent_to_another(made, server, second, data):
    """The same scope, "repository:library/x:pull", at both."""
    for one in (server, second):
        one.require_bearer({}, anonymous=True)
    registry = made.registry()
    made.blob(server.repo_url("library/x"), server.put(data), registry=registry)
    made.blob(second.repo_url("library/x"), second.put(data), registry=registry)
    tokens = [
        {request.headers["authorization"] for request in one.requests() if request.status == 206}
        for one in (server, second)
    ]
    assert len(tokens[0]) == len(tokens[1]) == 1
    assert tokens[0] != tokens[1]
    seen = {request.headers.get("authorization") for request in second.requests()}
    assert not tokens[0] & seen
    assert len(server.requests("token")) == len(second.requests("token")) == 1


def test_token_is_not_shared_between_users(made, server, data):
    """Of a registry that asks for the same scope everywhere: each team has its own credentials."""
    server.require_bearer({"one": "1", "two": "2"})
    server.challenge('Bearer realm="{realm}",service="{host}",scope="*"')
    host = server.host
    auths = {f"{host}/one": entry("one", "1"), f"{host}/two": entry("two", "2")}
    made.save_document({"auths": auths})
    digest, registry = server.put(data), made.registry()
    for team in ("one", "two", "one"):
        read(made.blob(server.repo_url(f"{team}/x"), digest, registry=registry), 0, 5)
    asked = [one.headers["authorization"] for one in server.requests("token")]
    assert len(asked) == len(set(asked)) == 2
    used = {}
    for request in server.requests():
        if request.status == 206:
            used.setdefault(request.path.split("/")[2], set()).add(request.headers["authorization"])
    assert len(used["one"]) == len(used["two"]) == 1 and used["one"] != used["two"]


# ---- a name without an address was taken for this very machine


def listening_on(port=0):
    """A local service that must not be reached."""
    return socket.create_server(("127.0.0.1", port))


@pytest.mark.parametrize("found", ["nothing", "0.0.0.0", "::"])
def test_name_without_an_address_is_an_error_and_not_localhost(made, monkeypatch, found):
    def look_up(host, port, *more):
        if found == "nothing":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port))]

    with listening_on() as listener:
        listener.settimeout(0)
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        url = f"http://registry.example:{listener.getsockname()[1]}/v2/x/blobs"
        error = failure(made.blob, url, "sha256:" + "0" * 64)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert (error.kind, error.temporary) == (Kind.DNS, True)
    assert "registry.example" in str(error)
    assert str(error).startswith("Connection failed: ")


def test_name_that_does_not_exist():
    """As this machine's own resolver says it."""
    with pytest.raises(errors.RegistryError) as caught:
        connection.addresses("nowhere.invalid", 443)
    assert caught.value.kind is Kind.DNS
    assert caught.value.cause.startswith("nowhere.invalid: ")


def test_every_address_is_tried(made, server, data, monkeypatch):
    """The original took the first and only IPv4."""
    digest = server.put(data)
    port = server.registry.port

    def look_up(host, port, *more):
        assert host == "registry.example"
        refused = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", port))]
        if socket.has_ipv6:
            refused.append((socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)))
        return refused + [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    one = made.blob(f"http://registry.example:{port}/v2/x/blobs", digest)
    assert read(one, 0, 5) == data[:5]
    assert server.requests()[0].headers["host"] == f"registry.example:{port}"


# ---- 24 requests in 0.1 s after a 429


def test_server_that_asks_to_be_left_alone_is_left_alone(made, server, data, clock):
    """By everybody: twelve layers of an image send one request, and none before its time."""
    digests = [server.put(data + bytes([number])) for number in range(12)]
    registry = made.registry(clock)
    server.fault(status=429, headers={"Retry-After": "7"})
    for digest in digests:
        error = failure(made.blob, server.repo_url(), digest, 0, registry)
        assert (error.kind, error.temporary) == (Kind.THROTTLED, True)
        assert error.retry_after_s == pytest.approx(7, abs=0.1)
    assert len(server.requests()) == 1
    clock.time += 7.1
    assert made.blob(server.repo_url(), digests[0], registry=registry).size() == len(data) + 1
    assert len(server.requests()) == 2


def test_those_who_queue_for_a_throttling_server_do_not_ask_it(made, server, data):
    """They passed the check before it said so: only those it was answering then had asked."""
    one = made.blob(server.repo_url(), server.put(data))
    server.clear()
    hold = threading.Event()
    server.fault(status=429, headers={"Retry-After": "9"}, hold=hold, times=None)
    with concurrent.futures.ThreadPoolExecutor(100) as executor:
        jobs = [executor.submit(read, one, number, 5) for number in range(100)]
        while server.registry.in_flight() < client.EACH:
            time.sleep(0.001)
        hold.set()
        assert {job.exception().kind for job in jobs} == {Kind.THROTTLED}
    assert len(server.requests()) == client.EACH


@pytest.mark.parametrize("after, expected", [
    ({"Retry-After": "3"}, [3.0] * 4),
    ({"Retry-After": "99999"}, [health.LONGEST_PAUSE_S] * 4),
    ({}, [1.0, 2.0, 4.0, 8.0]),
])  # fmt: skip
def test_pause_after_a_429(made, server, data, clock, after, expected):
    """Without Retry-After it doubles; nobody can ask for more than a bounded one."""
    registry = made.registry(clock)
    digest = server.put(data)
    server.fault(status=429, headers=after, times=4)
    pauses = []
    for _ in range(4):
        failure(made.blob, server.repo_url(), digest, 0, registry)
        pauses.append(failure(made.blob, server.repo_url(), digest, 0, registry).retry_after_s)
        clock.time += pauses[-1] + 0.001
    assert pauses == pytest.approx(expected)
    made.blob(server.repo_url(), digest, registry=registry)
    assert len(server.requests()) == 5


def test_unavailable_with_retry_after_is_obeyed_too(made, server, data, clock):
    registry = made.registry(clock)
    digest = server.put(data)
    server.fault(status=503, headers={"Retry-After": "5"})
    assert failure(made.blob, server.repo_url(), digest, 0, registry).retry_after_s == 5.0
    error = failure(made.blob, server.repo_url(), digest, 0, registry)
    assert error.kind is Kind.THROTTLED
    assert len(server.requests()) == 1


def test_other_servers_are_asked_meanwhile(made, server, second, data, clock):
    registry = made.registry(clock)
    server.fault(status=429, headers={"Retry-After": "60"})
    failure(made.blob, server.repo_url(), server.put(data), 0, registry)
    made.blob(second.repo_url(), second.put(data), registry=registry)


def test_with_the_policy_a_throttled_read_takes_its_time_and_then_works(made, server, data, clock):
    """What refill and download do: no request too many, no request too early."""
    one = made.blob(server.repo_url(), server.put(data), registry=made.registry(clock))
    server.clear()
    server.fault(status=429, headers={"Retry-After": "10"}, times=3)
    found = retry.call(lambda: read(one, 0, 10), retry.Policy(), threading.Event(), clock)
    assert found == data[:10]
    assert len(server.requests()) == 4
    assert 30 <= sum(clock.waits) <= 34


# ---- every cause ended as "No such file or directory"


def causes(server, second, data):
    """What goes wrong, and words that only that has."""
    gone = f"http://127.0.0.1:{_closed_port()}/v2/x/blobs"
    yield "refused", lambda: gone, Kind.CONNECT, "Connection refused"
    yield "404", _status(server, 404), Kind.NOT_FOUND, "answered 404"
    yield "401", _status(server, 401), Kind.AUTH, "asks for nothing"
    yield "403", _status(server, 403), Kind.AUTH, "answered 403"
    yield "500", _status(server, 500), Kind.SERVER, "answered 500"
    yield "429", _status(second, 429), Kind.THROTTLED, "answered 429"
    yield "bad challenge", _challenge(server), Kind.AUTH, "the realm of its token server"
    yield "name", lambda: "http://nowhere.invalid/v2/x/blobs", Kind.DNS, "nowhere.invalid"


def _closed_port():
    with listening_on() as listener:
        return listener.getsockname()[1]


def _status(server, status):
    def arm():
        server.heal()
        server.fault(status=status, times=None)
        return server.repo_url()

    return arm


def _challenge(server):
    def arm():
        server.heal()
        server.fault(status=401, headers={"WWW-Authenticate": "Bearer realm=x"}, times=None)
        return server.repo_url()

    return arm


def test_causes_stay_apart(made, server, second, data):
    texts = []
    for name, arm, kind, words in causes(server, second, data):
        error = failure(made.blob, arm(), server.put(data))
        assert error.kind is kind, name
        assert words in str(error), name
        texts.append(re.sub(r"\d+", "", str(error)))
    assert len({text for text in texts}) >= 7
    assert [text for text in texts if text.startswith("No such file or directory")] == [
        text for text in texts if "answered " in text and "No such" in text
    ]


@pytest.mark.parametrize("kind, words, number", [
    (Kind.AUTH, "Authentication failed", "EPERM"),
    (Kind.NOT_FOUND, "No such file or directory", "ENOENT"),
    (Kind.THROTTLED, "Too many requests", "EBUSY"),
    (Kind.TIMEOUT, "Get meta timedout", "ETIMEDOUT"),
    (Kind.CONNECT, "Connection failed", "ENOTCONN"),
    (Kind.DNS, "Connection failed", "ENOTCONN"),
    (Kind.TLS, "Connection failed", "ENOTCONN"),
    (Kind.SERVER, "Unexpected response", "EIO"),
    (Kind.PROTOCOL, "Unexpected response", "EIO"),
])  # fmt: skip
def test_words_that_users_know(kind, words, number):
    import errno

    error = errors.RegistryError(kind, "the cause")
    assert str(error) == f"{words}: the cause"
    assert error.errno == getattr(errno, number)


# ---- secrets in the log


def test_no_secret_is_ever_shown(made, authority, data, caplog):
    """Everything that can go wrong with everything secret in play, at the most talkative level."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    secrets = ["pass-word", entry("me", "pass-word")["auth"], "header-secret", "X-Signature="]
    told = []
    with fault_registry.FaultRegistry() as server:
        server.require_bearer({"me": "pass-word"})
        server.redirect()
        made.save_document({"auths": {server.host: entry("me", "pass-word")}})
        made.save_hosts(server.host, 'header = {x-key = "header-secret"}\n')
        digest = server.put(data)
        registry = made.registry()
        one = made.blob(server.repo_url(), digest, registry=registry)
        for on in ("blob", "store", "token"):
            for how in (
                dict(status=401), dict(status=403), dict(status=500), dict(close=True),
                dict(status=307, headers={"Location": "http://u:header-secret@h:x/?pass-word"}),
                dict(body=b"pass-word"), dict(cut_after=1), dict(length=3), dict(shift=5),
            ):  # fmt: skip
                server.heal()
                server.revoke()
                server.expire_redirects()
                server.fault(on=on, times=None, **how)
                try:
                    read(one, 0, 100)
                except errors.RegistryError as error:
                    told += [str(error), repr(error), str(error.__cause__), str(error.__context__)]
        told += [repr(vars(part)) for part in (one, registry, *one._sources)]
        secrets += [request.headers["authorization"] for request in server.requests()
                    if "authorization" in request.headers]  # fmt: skip
    assert len(told) > 40 and len(secrets) > 5
    shown = caplog.text + "\n".join(told)
    found = [secret for secret in secrets if secret.replace("Bearer ", "") in shown]
    assert found == []
