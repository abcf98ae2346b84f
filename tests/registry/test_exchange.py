# SPDX-License-Identifier: Apache-2.0
"""Ranges the core asks for itself: of whom, how, and on which connections."""

import concurrent.futures
import contextlib
import threading

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.registry import client, connection, exchange

from ..native import lazy
from ..support import fault_registry, http_server
from .asking import FIRST, PART, RANGE, Asking, Cache, Ordinary
from .conftest import Clock, closed_during, failure

Kind = errors.RegistryFailure


@pytest.fixture
def cache(tmp_path, digest, data):
    with contextlib.closing(Cache(tmp_path / "cache", digest, len(data))) as one:
        yield one


def part(data, offset, count):
    return data[offset : offset + count]


@pytest.fixture
def known(one, cache):
    """A blob whose place has answered a range before."""
    cache.take(one, *FIRST)
    return one


# ---- who is asked directly, and how


def test_what_follows_the_first_range_is_asked_for_directly(one, cache, data, monkeypatch):
    assert cache.take(one, *FIRST) == (part(data, *FIRST), 0)

    def refuse(*_, **__):
        raise AssertionError("asked in the ordinary way")

    monkeypatch.setattr(connection.HttpPool, "urlopen", refuse)
    for wanted in (RANGE, FIRST, (len(data) // 4096 * 4096, len(data) % 4096), RANGE):
        assert cache.take(one, *wanted) == (part(data, *wanted), 1)
    assert "AssertionError" in str(failure(cache.take, one, *RANGE, Ordinary))


def test_one_request_for_each_range_on_one_connection(known, cache, server, digest):
    server.clear()
    for wanted in (FIRST, RANGE, FIRST):
        cache.take(known, *wanted)
    assert server.ranges(digest) == [FIRST, RANGE, FIRST]
    assert len(server.requests()) == 3
    assert server.registry.connections()[0] == 1


def test_request_has_the_headers_of_an_ordinary_one(made, server, digest, cache):
    made.save_hosts(server.host, '[header]\nx-one = "two, three"\nx-none = ""\n')
    made.save_credentials(**{server.host: ("me", "secret")})
    server.require_bearer({"me": "secret"})
    one = made.blob(server.repo_url(), digest)
    cache.take(one, *FIRST)
    assert cache.take(one, *RANGE, Ordinary)[1] == 0
    assert cache.take(one, *RANGE)[1] == 1
    ordinary, direct = server.requests()[-2:]
    assert (direct.method, direct.target) == (ordinary.method, ordinary.target)
    assert direct.headers == ordinary.headers
    assert {"authorization", "x-one", "x-none"} < set(direct.headers)


def test_object_store_is_asked_directly(made, server, digest, cache, data):
    server.redirect()
    one = made.blob(server.repo_url(), digest)
    cache.take(one, *FIRST)
    assert cache.take(one, *RANGE) == (part(data, *RANGE), 1)
    assert "authorization" not in server.requests("store")[-1].headers


def test_tls_is_not(made, authority, data, digest, cache):
    with fault_registry.FaultRegistry(authority.server_context()) as secure:
        secure.put(data)
        made.save_hosts(secure.host, f'ca = "{authority.file}"\n')
        one = made.blob(secure.repo_url(), digest)
        for _ in range(3):
            assert cache.take(one, *RANGE) == (part(data, *RANGE), 0)


@pytest.mark.parametrize("broken", [False, True])
def test_proxy_is_not(made, server, digest, cache, data, broken):
    def answer(request):
        offset, count = request.range
        place = f"bytes {offset}-{offset + count - 1}/{len(data)}"
        body = part(data, offset, count)
        return http_server.Reply(206, {"Content-Range": place}, body, close=broken)

    with http_server.Server(answer) as proxy:
        p2p = {"enable": True, "address": f"{proxy.host}/p2p"}
        one = made.blob(server.repo_url(), digest, p2pConfig=p2p)
        for _ in range(3):
            assert cache.take(one, *RANGE) == (part(data, *RANGE), 0)


@pytest.mark.parametrize("text", ["a\r\nX: y", "a\nb", "a\rb", "a\0b", "\xe4", "a\tb", "\x7f", "→"])
def test_what_http_client_has_opinions_on_is_left_to_it(text):
    for arguments in [(text, "h", {}), ("/", text, {}), ("/", "h", {text: "x"}),
                      ("/", "h", {"X": text})]:  # fmt: skip
        assert exchange.request(*arguments) is None


def test_header_that_is_left_to_http_client(made, server, digest, cache, data):
    made.save_hosts(server.host, '[header]\nx = "a\\tb"\n')
    one = made.blob(server.repo_url(), digest)
    for _ in range(3):
        assert cache.take(one, *RANGE) == (part(data, *RANGE), 0)
    assert server.requests()[-1].headers["x"] == "a\tb"


def test_host_is_told_once():
    """A hosts.toml may name another."""
    plain = exchange.request("/x", "h:1", {"A": "b"})
    assert plain == b"GET /x HTTP/1.1\r\nHost: h:1\r\nA: b\r\n\r\n"
    other = exchange.request("/x", "h:1", {"host": "other"})
    assert other == b"GET /x HTTP/1.1\r\nhost: other\r\n\r\n"


# ---- connections that end


def several_idle(server, one, count=8):
    """That many kept connections."""
    hold = threading.Event()
    server.fault(hold=hold, times=None)
    with concurrent.futures.ThreadPoolExecutor(count) as executor:
        jobs = [executor.submit(one.pread_into, memoryview(bytearray(5)), 0) for _ in range(count)]
        lazy.wait_for(lambda: server.registry.in_flight() == count)
        hold.set()
        for job in jobs:
            job.result()
    server.heal()
    assert server.registry.connections() == (count, count)


@pytest.mark.parametrize("noticed", [False, True])
def test_connections_that_the_server_closed_meanwhile(known, cache, server, data, noticed):
    several_idle(server, known)
    server.registry.break_connections()
    if noticed:
        lazy.wait_for(lambda: server.registry.connections()[1] == 0)
    server.clear()
    assert cache.take(known, *RANGE)[0] == part(data, *RANGE)
    assert len(server.requests()) == 1
    assert cache.take(known, *FIRST) == (part(data, *FIRST), 1)


def test_server_that_closes_every_kept_connection_once_asked(known, cache, server, data):
    several_idle(server, known)
    server.fault(close=True, match=lambda request: request.connection <= 8, times=None)
    assert cache.take(known, *RANGE)[0] == part(data, *RANGE)


def test_connection_that_idled_is_not_asked_on(made, server, digest, cache, data):
    clock = Clock()
    one = made.blob(server.repo_url(), digest, registry=made.registry(clock))
    cache.take(one, *FIRST)
    clock.time += connection.IDLE_S + 1
    assert cache.take(one, *RANGE) == (part(data, *RANGE), 1)
    assert server.registry.connections() == (2, 1)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("how", [dict(delay_s=60), dict(stall_after=0), dict(stall_after=PART)])
def test_close_ends_an_exchange_at_once(known, cache, server, how, kept):
    """That waits for the head of its answer, or for more of it."""
    if not kept:
        server.registry.break_connections()
        lazy.wait_for(lambda: server.registry.connections()[1] == 0)
    server.fault(times=None, **how)
    into = cache.sink(Asking, *RANGE)
    error, seconds = closed_during(
        known, lambda: into.asked and server.registry.in_flight(), known.read, *RANGE, into
    )
    assert error.kind is Kind.CLOSED
    assert seconds < 5


def test_failures_leave_no_connection_behind(known, cache, server, data):
    """Each more often than there are places, which were all given back."""
    for how in (
        dict(status=500),
        dict(close=True),
        dict(cut_after=3),
        dict(shift=4096),
        dict(headers={"X": "y\r\nnonsense", "Connection": "close"}, status=404),
        dict(chunked=True, cut_after=3),
        dict(headers={"content-length": "5"}),
        dict(headers={"Content-Encoding": "br"}),
    ):
        cache.take(known, *FIRST)
        server.fault(times=None, **how)
        into = cache.sink(Asking, *RANGE)
        for _ in range(client.EACH + 4):
            failure(known.read, *RANGE, into)
        assert into.asked
        server.heal()
    cache.take(known, *FIRST)
    assert cache.take(known, *RANGE) == (part(data, *RANGE), 1)
    assert server.registry.connections()[1] <= 1


def test_many_at_once(known, cache, server, data):
    """Usual and odd answers, on as many connections as there may be."""
    server.fault(chunked=True, times=20, skip=5)
    server.fault(last=True, times=20, skip=5)
    wanted = [(number * 4096, 4096 * (1 + number % 5)) for number in range(60)]

    def read(place):
        into = cache.sink(Asking, *place)
        known.read(*place, into)
        return into.asked

    with concurrent.futures.ThreadPoolExecutor(20) as executor:
        assert all(executor.map(read, wanted))
    assert cache.content(0, 64 * 4096) == data[: 64 * 4096]
