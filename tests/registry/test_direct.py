# SPDX-License-Identifier: Apache-2.0
"""Bytes that are taken from the socket itself: those that came with the answer's head, first."""

import concurrent.futures
import io
import os
import socket

import pytest

from overlaybd_tcmu import errors, units
from overlaybd_tcmu.cache import sink, store
from overlaybd_tcmu.registry import client

from ..native import lazy
from .conftest import SIZE

PART = 64 * units.KiB  # less than a range
CLOSE = {"Connection": "close"}  # http.client leaves the connection to the answer


class Direct:
    """A sink that takes what it can from the socket, as the cache's does."""

    direct = True
    asks = False

    def __init__(self, count):
        self.bytes = bytearray(count)
        self.received = 0  # of them not by urllib3
        self.waited_s = 0.0  # each time

    def room(self, done):
        return memoryview(self.bytes)[done : done + PART]

    def came(self, done):
        pass

    def receive(self, fd, done, timeout_s):
        with socket.socket(fileno=os.dup(fd)) as one:
            one.settimeout(timeout_s)
            count = one.recv_into(self.room(done))
        self.received += count
        return count, self.waited_s


@pytest.fixture(params=[8 * units.KiB, 128 * units.KiB])
def buffered(monkeypatch, request):
    """What a connection reads ahead: Python 3.14 has it read more than a part."""
    monkeypatch.setattr(io, "DEFAULT_BUFFER_SIZE", request.param)


@pytest.mark.parametrize("offset, count", [(0, SIZE), (4096, SIZE - 4096), (5, 9000), (7, 10)])
def test_however_much_came_with_the_head(buffered, one, data, offset, count):
    for _ in range(3):  # on one connection
        into = Direct(count)
        one.read(offset, count, into)
        assert into.bytes == data[offset : offset + count]


def test_most_does_not_come_through_the_library(one, monkeypatch):
    monkeypatch.setattr(io, "DEFAULT_BUFFER_SIZE", 8 * units.KiB)
    into = Direct(SIZE)
    one.read(0, SIZE, into)
    assert into.received > 0


def test_whole_blob_for_an_answer(buffered, one, server, data):
    server.fault(ignore_range=True)
    into = Direct(SIZE - 5000)
    one.read(5000, SIZE - 5000, into)
    assert into.bytes == data[5000:]


def test_connection_that_ends_with_the_answer(buffered, one, server, data):
    for _ in range(2):
        server.fault(headers=CLOSE, last=True)
        into = Direct(SIZE)
        one.read(0, SIZE, into)
        assert into.bytes == data


def test_answer_that_is_cut_is_no_answer(buffered, one, server, data):
    server.fault(cut_after=200_000)
    with pytest.raises(errors.RegistryError) as caught:
        one.read(0, SIZE, Direct(SIZE))
    assert caught.value.temporary
    into = Direct(SIZE)
    one.read(0, SIZE, into)
    assert into.bytes == data


def test_only_what_the_server_is_waited_for_counts_against_it(one, monkeypatch):
    """And not how long the disk takes for what it sent."""
    monkeypatch.setattr(client, "SLOWEST", 1 << 40)
    into = Direct(SIZE)
    into.waited_s = client.READ_S + 1
    with pytest.raises(errors.RegistryError) as caught:
        one.read(0, SIZE, into)
    assert caught.value.kind is errors.RegistryFailure.TIMEOUT


@pytest.mark.parametrize("headers", [{}, CLOSE])
def test_closing_ends_what_the_core_is_taking(one, server, data, digest, tmp_path, headers):
    """Also from a connection that http.client has given up to the answer."""
    server.fault(stall_after=200_000, headers=headers)
    kept = store.Store(str(tmp_path / "cache"), units.GiB, PART)
    entry = kept.open(digest, SIZE)
    into = sink.Sink(kept, entry, memoryview(bytearray(PART)), 0, SIZE)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        future = executor.submit(one.read, 0, SIZE, into)
        lazy.wait_for(lambda: entry.present() >= 3 * PART)
        one.close()
        error = future.exception()
    assert error.kind is errors.RegistryFailure.CLOSED
    buffer = bytearray(SIZE)
    assert buffer[: entry.file.copy_into(buffer, 0)] == data[: 3 * PART]
    kept.give_back(entry)
    kept.close()
