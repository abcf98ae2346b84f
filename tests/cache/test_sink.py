# SPDX-License-Identifier: Apache-2.0
"""What a request brings: to readers at once, on record afterwards, or in memory without a disk."""

import socket
import threading

import pytest

from overlaybd_tcmu import units
from overlaybd_tcmu.cache import record, sink, store

from ..native import lazy

UNIT = 16384
SIZE = 8 * UNIT
DIGEST = "sha256:" + 64 * "1"
DATA = bytes(range(1, 129)) * (SIZE // 128)


@pytest.fixture
def opened(tmp_path):
    """Opens stores in one folder, or (False) without one; closed at the end."""
    made = []

    def one(on_disk=True):
        if made:
            made.pop().close()
        made.append(store.Store(str(tmp_path / "cache") if on_disk else "", 100 * SIZE, UNIT))
        return made[-1]

    yield one
    for each in made:
        each.close()


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def sink_for(kept, one):
    return sink.Sink(kept, one, memoryview(bytearray(UNIT)), 0, SIZE)


def receive_all(into, ours, done=0):
    while done < SIZE:
        done += into.receive(ours.fileno(), done, 60)[0]
        into.came(done)


def content(one):
    buffer = bytearray(SIZE)
    return bytes(buffer[: one.file.copy_into(buffer, 0)])


def test_what_was_received_is_there_after_a_restart(opened, ends):
    kept = opened()
    one = kept.open(DIGEST, SIZE)
    ends[1].sendall(DATA)
    receive_all(sink_for(kept, one), ends[0])
    assert content(one) == DATA
    kept.give_back(one)
    kept = opened()
    one = kept.open(DIGEST, SIZE)
    assert (one.present(), one.recover(0, SIZE)) == (0, SIZE)
    assert content(one) == DATA
    kept.give_back(one)


def test_room_counts_what_was_received(opened, ends):
    kept = opened()
    one = kept.open(DIGEST, SIZE)
    ends[1].sendall(DATA)
    receive_all(sink_for(kept, one), ends[0])
    assert kept.room.used() == SIZE
    kept.give_back(one)


def test_what_is_evicted_meanwhile_is_not_on_record(opened, ends):
    kept = opened()
    one = kept.open(DIGEST, SIZE)
    ends[1].sendall(DATA[: 2 * UNIT])
    thread = threading.Thread(target=receive_all, args=(sink_for(kept, one), ends[0]))
    thread.start()
    lazy.wait_for(lambda: one.present() == 2 * UNIT)
    one.evict(0, UNIT)
    ends[1].sendall(DATA[2 * UNIT :])
    thread.join()
    kept.give_back(one)
    granules = UNIT // 4096
    with_record = record.Record.open(kept.folder.record_path(DIGEST), writable=False)
    named = [sum != 0 for sum in with_record.sums(0, SIZE)]
    with_record.close()
    assert named == [False] * granules + [True] * 7 * granules


def test_without_a_disk_it_is_in_memory(opened, ends):
    kept = opened(on_disk=False)
    one = kept.open(DIGEST, SIZE)
    ends[1].sendall(DATA)
    receive_all(sink_for(kept, one), ends[0])
    assert (kept.in_memory(), one.present()) == (SIZE, SIZE)
    kept.give_back(one)


def test_first_bytes_may_come_another_way(opened, ends):
    """With the answer's head."""
    kept = opened()
    one = kept.open(DIGEST, SIZE)
    into = sink_for(kept, one)
    into.room(0)[:100] = DATA[:100]
    into.came(100)
    ends[1].sendall(DATA[100:])
    receive_all(into, ends[0], 100)
    assert content(one) == DATA
    kept.give_back(one)


def test_all_of_it_may_come_another_way(opened):
    """TLS: part by part, as large as there is room."""
    kept = opened()
    one = kept.open(DIGEST, SIZE)
    into, done = sink_for(kept, one), 0
    while done < SIZE:
        room = into.room(done)[: 10 * units.KiB]
        room[:] = DATA[done : done + len(room)]
        done += len(room)
        into.came(done)
    assert content(one) == DATA
    kept.give_back(one)
