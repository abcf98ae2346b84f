# SPDX-License-Identifier: Apache-2.0
"""Connections: kept, bounded, given up in time, ended at once when a blob is closed."""

import concurrent.futures
import gc
import os
import socket
import threading
import time

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.registry import blob, client, connection, operation, slots

from ..native import lazy
from .conftest import SIZE, closed_during, failure, read

Kind = errors.RegistryFailure


# ---- kept


def test_connection_that_the_server_just_closed(one, server, data):
    """The request met the closing connection: it is sent again, and nobody sees an error."""
    server.fault(close=True)
    assert read(one, 5, 5) == data[5:10]


def test_server_that_closes_every_connection(one, server):
    server.fault(close=True, times=None)
    error = failure(read, one, 5, 5)
    assert (error.kind, error.temporary) == (Kind.CONNECT, True)
    assert "the connection was closed" in str(error)
    assert len(server.requests()) <= 5


def test_restarted_server(one, server, data):
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda number: read(one, number, 100), range(64)))
        server.down()
        server.up()
        found = list(executor.map(lambda number: read(one, number, 5), range(64)))
    assert found == [data[number : number + 5] for number in range(64)]


def test_connection_that_idled_is_not_trusted(made, server, digest, clock):
    one = made.blob(server.repo_url(), digest, registry=made.registry(clock))
    clock.time += connection.IDLE_S - 1
    read(one, 0, 5)
    assert server.registry.connections()[0] == 1
    clock.time += connection.IDLE_S + 1
    read(one, 0, 5)
    assert server.registry.connections() == (2, 1)


def test_answer_that_is_too_long_to_read_on_costs_the_connection(one, server, data):
    server.fault(status=500, body=data)
    failure(read, one, 0, 5)
    read(one, 0, 5)
    assert server.registry.connections()[0] == 2


# ---- bounded


def test_requests_to_one_server_are_bounded(one, server, data):
    hold = threading.Event()
    server.fault(hold=hold, times=None)
    with concurrent.futures.ThreadPoolExecutor(100) as executor:
        jobs = [executor.submit(read, one, number, 5) for number in range(200)]
        lazy.wait_for(lambda: server.registry.in_flight() == client.EACH)
        hold.set()
        assert [job.result() for job in jobs] == [data[n : n + 5] for n in range(200)]
    assert server.in_flight_max() == client.EACH
    assert server.registry.connections()[0] <= client.EACH


def test_requests_in_all_are_bounded(made, server, second, data, monkeypatch):
    monkeypatch.setattr(client, "TOTAL", client.EACH + 4)
    hold = threading.Event()
    registry = made.registry()
    blobs = []
    for one in (server, second):
        blobs.append(made.blob(one.repo_url(), one.put(data), registry=registry))
        one.fault(hold=hold, times=None)
    with concurrent.futures.ThreadPoolExecutor(100) as executor:
        jobs = [executor.submit(read, blobs[number % 2], number, 5) for number in range(200)]
        busy = [one.registry.in_flight for one in (server, second)]
        lazy.wait_for(lambda: sum(one() for one in busy) == client.TOTAL)
        time.sleep(0.05)
        assert sum(one() for one in busy) == client.TOTAL
        hold.set()
        assert [job.result() for job in jobs] == [data[n : n + 5] for n in range(200)]


def test_places_are_given_in_the_order_they_were_asked_for():
    """Whoever wants a busy server does not keep others from one that is free."""
    places, done = slots.Slots(1, 2), []
    current = operation.never_cancelled(10, "test")
    places.take("a", current)
    places.take("b", current)
    threads = []
    for number, origin in enumerate("abcab"):

        def work(number=number, origin=origin):
            places.take(origin, operation.never_cancelled(10, "test"))
            done.append(f"{origin}{number}")

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        lazy.wait_for(lambda: len(places._queue) == number + 1)
    expected = []
    for freed, admitted in [("b", "b1"), ("a", "a0"), ("b", "c2"), ("c", "b4"), ("a", "a3")]:
        places.give_back(freed)
        expected.append(admitted)
        lazy.wait_for(lambda: done == expected)
    for thread in threads:
        thread.join()


def test_servers_that_hang_leave_a_place_for_another():
    places, current = slots.Slots(2, 4, 2), operation.never_cancelled(10, "test")
    for origin in "aabb":
        places.take(origin, current)
    places.take("c", current)
    places.take("d", current)
    for origin in "ce":  # it has one; no more are spare
        assert (
            failure(places.take, origin, operation.never_cancelled(0.01, "w")).kind is Kind.TIMEOUT
        )
    places.give_back("d")
    places.take("e", current)


def test_place_of_who_gave_up_goes_to_the_next():
    places = slots.Slots(1, 1)
    places.take("a", operation.never_cancelled(10, "test"))
    assert failure(places.take, "a", operation.never_cancelled(0.01, "w")).kind is Kind.TIMEOUT
    places.give_back("a")
    places.take("a", operation.never_cancelled(10, "test"))


def test_failures_leave_no_connection_behind(one, server):
    """Each kind of failure, more often than there are places: every place was given back."""
    for how in (
        dict(status=500),
        dict(close=True),
        dict(cut_after=3),
        dict(shift=1),
        dict(status=307, headers={"Location": "x:"}),
        dict(chunked=True, cut_after=3),
        dict(headers={"Content-Encoding": "br"}),
    ):
        server.fault(times=None, **how)
        for _ in range(client.EACH + 4):
            failure(read, one, 0, 100)
        server.heal()
    assert len(read(one, 0, 100)) == 100
    assert server.registry.connections()[1] <= 1


def test_a_thousand_readers_need_few_files(made, server, data):
    digests = [server.put(data + bytes([number])) for number in range(50)]
    registry = made.registry()
    blobs = [made.blob(server.repo_url(), digest, registry=registry) for digest in digests]
    before = len(os.listdir("/proc/self/fd"))
    with concurrent.futures.ThreadPoolExecutor(100) as executor:
        jobs = [executor.submit(read, blobs[n % 50], n, 1000) for n in range(1000)]
        most = max(len(os.listdir("/proc/self/fd")) for job in jobs if job.result())
    assert most - before <= 3 * client.EACH  # both ends of each connection are ours


# ---- given up in time


@pytest.fixture
def impatient(monkeypatch):
    """Time limits that a test can wait for."""
    monkeypatch.setattr(client, "READ_S", 0.2)
    monkeypatch.setattr(connection, "CONNECT_S", 0.2)


@pytest.mark.parametrize("how", [dict(delay_s=20), dict(stall_after=0), dict(stall_after=50)])
def test_server_that_does_not_go_on(one, server, impatient, how):
    server.fault(times=None, **how)
    started = time.monotonic()
    error = failure(read, one, 0, 100)
    assert (error.kind, error.temporary) == (Kind.TIMEOUT, True)
    assert time.monotonic() - started < 15


def test_server_that_sends_a_byte_now_and_then(one, server, impatient):
    """Each of them is in time; all of them would take for ever."""
    server.fault(drip_s=0.05)
    error = failure(read, one, 0, 10_000)
    assert error.kind is Kind.TIMEOUT
    assert "bytes in 0 s" in str(error)


def test_stream_that_does_not_go_on(one, server, impatient):
    server.fault(stall_after=1000)
    with one.stream(0, 5000) as chunks:
        received = b""
        with pytest.raises(errors.RegistryError) as caught:
            for chunk in chunks:
                received += chunk
    assert caught.value.kind is Kind.TIMEOUT
    assert len(received) == 1000


def test_consumer_of_a_stream_may_take_its_time(one, impatient, data):
    with one.stream(0, SIZE) as chunks:
        first = next(chunks)
        time.sleep(0.5)
        assert first + b"".join(chunks) == data


def test_opening_ends_in_time_whatever_answers(made, server, digest, impatient, monkeypatch):
    """Redirects, challenges and mirrors together do not get more than opening may take."""
    monkeypatch.setattr(blob, "OPEN_S", 0.5)
    monkeypatch.setattr(client, "READ_S", 0.4)
    server.require_bearer({}, anonymous=True)
    server.redirect()
    for on in server.kinds:
        server.fault(on=on, delay_s=0.3, times=None)
    started = time.monotonic()
    error = failure(made.blob, server.repo_url(), digest)
    assert error.kind is Kind.TIMEOUT
    assert server.registry.url in str(error) or server.tokens.url in str(error)
    assert time.monotonic() - started < 10


def test_nobody_listens(made, server, digest):
    server.down()
    error = failure(made.blob, server.repo_url(), digest)
    assert (error.kind, error.temporary) == (Kind.CONNECT, True)
    assert f"{server.host}: Connection refused" in str(error)


def test_server_that_accepts_and_says_nothing(made, impatient):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v2/x/blobs"
        error = failure(made.blob, url, "sha256:" + "0" * 64)
    assert error.kind is Kind.TIMEOUT
    assert "no answer in time" in str(error)


@pytest.mark.parametrize("answer", [
    b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\r\n", b"\x00" * 50,
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200,
    b"HTTP/1.1 206 " + b"x" * 100_000, b"HTTP/2.0 206 x\r\n\r\n",
])  # fmt: skip
def test_server_that_does_not_speak_http(made, answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            peer, _ = listener.accept()
            peer.recv(65536)
            peer.sendall(answer + b"\r\n")
            peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v2/x/blobs"
        error = failure(made.blob, url, "sha256:" + "0" * 64)
        thread.join()
    assert error.kind in (Kind.PROTOCOL, Kind.CONNECT)


# ---- ended at once


@pytest.mark.parametrize("how", [dict(delay_s=20), dict(stall_after=0), dict(stall_after=50)])
def test_close_ends_a_read_at_once(one, server, how):
    server.fault(**how)
    error, seconds = closed_during(one, server.registry.in_flight, read, one, 0, 100)
    assert error.kind is Kind.CLOSED
    assert seconds < 10


def test_close_ends_a_wait_for_a_place(made, server, digest, data):
    hold = threading.Event()
    registry = made.registry()
    busy = made.blob(server.repo_url(), digest, registry=registry)
    waiting = made.blob(server.repo_url(), digest, registry=registry)
    server.fault(hold=hold, times=client.EACH)
    with concurrent.futures.ThreadPoolExecutor(client.EACH + 1) as executor:
        jobs = [executor.submit(read, busy, 0, 9) for _ in range(client.EACH)]
        lazy.wait_for(lambda: server.registry.in_flight() == client.EACH)
        job = executor.submit(read, waiting, 0, 9)
        waiting.close()
        assert job.exception().kind is Kind.CLOSED
        hold.set()
        assert {job.result() for job in jobs} == {data[:9]}


def test_close_ends_a_connection_attempt(made, monkeypatch):
    """A listener whose backlog is full answers no SYN."""
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [filler]
        filler.connect(listener.getsockname())
        for _ in range(2):
            more = socket.socket()
            more.setblocking(False)
            more.connect_ex(listener.getsockname())
            fillers.append(more)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v2/x/blobs"
        one = made.registry().blob(url, "sha256:" + "0" * 64)
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            job = executor.submit(one.open)
            time.sleep(0.2)
            started = time.monotonic()
            one.close()
            error = job.exception()
        for more in fillers[1:]:
            more.close()
    assert error.kind is Kind.CLOSED
    assert time.monotonic() - started < 4


def test_close_ends_a_handshake(made):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v2/x/blobs"
        one = made.registry().blob(url, "sha256:" + "0" * 64)
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            job = executor.submit(one.open)
            with listener.accept()[0] as peer:
                assert peer.recv(1) == b"\x16"  # it says hello, and waits
                started = time.monotonic()
                one.close()
                error = job.exception()
    assert error.kind is Kind.CLOSED
    assert time.monotonic() - started < 4


def test_closed_blob_stays_closed(one, made, server, digest, data):
    one.close()
    one.close()
    assert failure(read, one, 0, 5).kind is Kind.CLOSED
    assert failure(one.open).kind is Kind.CLOSED
    assert read(made.blob(server.repo_url(), digest), 0, 5) == data[:5]


def test_closing_one_blob_leaves_the_others_alone(made, server, data):
    registry = made.registry()
    digests = [server.put(data + bytes([number])) for number in range(20)]
    blobs = [made.blob(server.repo_url(), digest, registry=registry) for digest in digests]
    server.delay(0.002)
    with concurrent.futures.ThreadPoolExecutor(20) as executor:
        jobs = [executor.submit(read, one, n, 100) for n in range(20) for one in blobs[10:]]
        for one in blobs[:10]:
            executor.submit(read, one, 0, 100)
            one.close()
        assert all(len(job.result()) == 100 for job in jobs)
    gc.collect()
