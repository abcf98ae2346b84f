# SPDX-License-Identifier: Apache-2.0
"""What a server makes of clients that are odd, slow, many or not welcome; in this process."""

import contextlib
import http.client
import json
import socket
import threading

import pytest

from overlaybd_tcmu import address
from overlaybd_tcmu.ops import message, server

TIMEOUT_S = 60


class Route:
    """Answers with what it was asked; waits for go when the path says so."""

    def __init__(self):
        self.go = threading.Event()
        self.waiting = threading.Semaphore(0)

    def __call__(self, request):
        if request.path == "/wait":
            self.waiting.release()
            self.go.wait(TIMEOUT_S)
        if request.path == "/bug":
            raise RuntimeError("a bug")
        message.allow(request, "GET", "POST")
        asked = [request.method, request.path, request.query, len(request.body)]
        return message.document({"asked": asked})


@contextlib.contextmanager
def serving(guarded=True, host="127.0.0.1"):
    route = Route()
    one = server.Server("test", address.Address(host, 0), route, guarded)
    one.start()
    one.route, one.port = route, one._listening.getsockname()[1]
    try:
        yield one
    finally:
        route.go.set()
        one.stop()
        one.join()


@pytest.fixture
def served():
    with serving() as one:
        yield one


def raw(one, text):
    """All that is answered to these bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", one.port), TIMEOUT_S) as connected:
        connected.sendall(text)
        connected.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while True:
                more = connected.recv(65536)
                if not more:
                    return answer
                answer += more
        return answer


def status_of(answer):
    return int(answer.split(b" ", 2)[1])


def get(one, path="/", headers=None, method="GET", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")


def test_path_and_query_are_decoded(served):
    status, answer = get(served, "/a%20b?c=d%26&c=e&f=", method="POST", body=b"x" * 100)
    assert (status, answer["asked"]) == (200, ["POST", "/a b", {"c": "e", "f": ""}, 100])


def test_head_has_no_body(served):
    assert get(served, method="HEAD") == (200, None)


def test_one_connection_serves_many(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        for number in range(5):
            connection.request("GET", f"/{number}")
            assert json.loads(connection.getresponse().read())["asked"][1] == f"/{number}"


BAD = [
    (b"GET / HTTP/9.9\r\n\r\n", 400),
    (b"GET / / HTTP/1.1\r\n\r\n", 400),
    (b"BREW / HTTP/1.1\r\n\r\n", 405),
    (b"DELETE / HTTP/1.1\r\n\r\n", 405),
    (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\na: " + b"b" * 70000 + b"\r\n\r\n", 431),
    (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
    (b"POST / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413),
    (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    (b"GET /?" + b"a=b&" * 20 + b" HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 403),
    (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\n\r\n", 403),
    (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\n\r\n", 403),
]


@pytest.mark.parametrize("text, status", BAD, ids=range(len(BAD)))
def test_a_bad_request_gets_a_reason_in_json(served, text, status):
    answer = raw(served, text)
    assert status_of(answer) == status
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b"Content-Type: application/json" in head and b"Connection: close" in head
    assert json.loads(body)["error"]


def test_a_body_that_ends_early_is_not_served(served):
    assert raw(served, b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc") == b""
    assert get(served)[0] == 200


def test_the_same_host_is_welcome(served):
    for headers in (
        {"Host": "localhost"},
        {"Host": "[::1]:9862"},
        {"Host": "127.0.0.1:80", "Origin": "http://127.0.0.1:80"},
        {"Sec-Fetch-Site": "same-origin"},
    ):
        assert get(served, headers=headers)[0] == 200


def test_a_name_is_fine_where_nothing_is_guarded():
    with serving(guarded=False) as one:
        assert get(one, headers={"Host": "node-1.example:9863"})[0] == 200


def test_a_bug_is_an_answer_and_a_line_in_the_log(served, caplog):
    assert get(served, "/bug") == (500, {"error": "internal error, see the log"})
    assert "RuntimeError: a bug" in caplog.text


def test_one_client_too_many_is_told_so(served):
    with contextlib.ExitStack() as stack:
        for _ in range(server.MOST):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            one.sendall(b"GET /wait HTTP/1.1\r\n\r\n")
            assert served.route.waiting.acquire(timeout=TIMEOUT_S)
        with socket.create_connection(("127.0.0.1", served.port), TIMEOUT_S) as late:
            assert status_of(late.recv(1000)) == 503
        served.route.go.set()
        assert one.recv(1000).startswith(b"HTTP/1.1 200")
    while served._clients:  # they have gone, and their threads notice
        pass
    assert get(served)[0] == 200


def test_who_dawdles_is_sent_away_and_who_is_served_is_not(served, monkeypatch):
    monkeypatch.setattr(server, "REQUEST_S", 0.2)
    with contextlib.ExitStack() as stack:
        served_one, slow, silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port), TIMEOUT_S))
            for _ in range(3)
        ]
        served_one.sendall(b"GET /wait HTTP/1.1\r\n\r\n")
        slow.sendall(b"GET / HT")
        while slow.recv(1000):  # it may be told that this was no request
            pass
        assert silent.recv(1000) == b""
        served.route.go.set()
        assert served_one.recv(1000).startswith(b"HTTP/1.1 200")


def test_stop_ends_who_is_idle_and_waits_for_who_is_served():
    with serving() as one:
        idle = socket.create_connection(("127.0.0.1", one.port), TIMEOUT_S)
        busy = socket.create_connection(("127.0.0.1", one.port), TIMEOUT_S)
        busy.sendall(b"GET /wait HTTP/1.1\r\n\r\n")
        assert one.route.waiting.acquire(timeout=TIMEOUT_S)
    with idle, busy:
        assert idle.recv(1000) == b""
        assert busy.recv(1000).startswith(b"HTTP/1.1 200")


def test_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with serving(host="::1") as one:
        connection = http.client.HTTPConnection("::1", one.port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            assert connection.getresponse().status == 200


# ---- addresses


@pytest.mark.parametrize(
    "text, shown, local",
    [
        ("http://127.0.0.1:9862", "http://127.0.0.1:9862", True),
        ("http://localhost", "http://localhost:9862", True),
        ("http://[::1]:1/", "http://[::1]:1", True),
        ("http://0.0.0.0:1", "http://0.0.0.0:1", False),
        ("http://node:1", "http://node:1", False),
        ("unix:///run/x", "unix:///run/x", True),
    ],
)
def test_addresses(text, shown, local):
    one = address.parse(text)
    assert (str(one), one.is_local) == (shown, local)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "https://127.0.0.1",
        "http://",
        "http://a/b",
        "http://a:99999",
        "http://u@a",
        "unix://x",
        "unix:///" + "x" * 107,
        "http://[::1",
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(ValueError):
        address.parse(text)
