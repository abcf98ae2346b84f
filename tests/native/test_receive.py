# SPDX-License-Identifier: Apache-2.0
"""A range from a socket into a cache file: in parts, resumed, refused, broken off."""

import concurrent.futures
import errno
import socket
import threading

import pytest

from overlaybd_tcmu.ffi import cachefile, native

from . import lazy
from . import raw_layers as raw
from .asking import DATA, GRANULE, SIZE, content

PART = 4 * GRANULE


def receiving(file, offset=0, count=SIZE, part=PART):
    return cachefile.Receiving(file, memoryview(bytearray(part)), offset, count)


def take_all(coming, ours):
    """As body.py does, in as many calls as it takes."""
    while coming.received < coming.count:
        assert coming.receive(ours.fileno(), True, 60) > 0


@pytest.mark.parametrize("part", [GRANULE, PART, 64 * GRANULE])
@pytest.mark.parametrize(
    "offset, count", [(0, SIZE), (8 * GRANULE, 16 * GRANULE), (40 * GRANULE, 1000)]
)
def test_all_of_a_range(file, ends, offset, count, part):
    ours, theirs = ends
    wanted = DATA[offset : offset + count]
    sender = threading.Thread(target=theirs.sendall, args=(wanted + b"the next answer",))
    sender.start()
    coming = receiving(file, offset, count, part)
    take_all(coming, ours)
    sender.join()
    assert (coming.received, coming.filled, coming.refused) == (count, count, 0)
    assert content(file, offset, count) == wanted
    assert file.next_gap(offset) in [None, (offset + count, SIZE)]
    assert ours.recv(100) == b"the next answer"


def test_checksums_are_those_of_fill(file, ends, tmp_path):
    ours, theirs = ends
    theirs.sendall(DATA)
    coming = receiving(file)
    take_all(coming, ours)
    with cachefile.Misses(lazy.UNIT) as misses:
        with cachefile.CacheFile(misses, str(tmp_path / "other"), SIZE, 1) as other:
            expected = list(other.fill(bytearray(DATA), 0))
    assert coming.sums(0).tolist() == expected
    assert coming.sums(8 * GRANULE).tolist() == expected[8:]


def test_readers_have_each_part_as_it_comes(file, ends):
    ours, theirs = ends
    coming = receiving(file)
    theirs.sendall(DATA[: PART + 100])
    theirs.shutdown(socket.SHUT_WR)
    while coming.received < PART + 100:
        assert coming.receive(ours.fileno(), True, 60) > 0
    assert (coming.filled, coming.held()) == (PART, DATA[PART : PART + 100])
    assert content(file, 0, SIZE) == DATA[:PART]
    assert coming.receive(ours.fileno(), True, 60) == 0  # the stream's end


def test_who_waits_has_what_came_before_a_part_is_full(tmp_path, ends):
    """The server stops for a while; the reader does not wait for it."""
    ours, theirs = ends
    stream = raw.lsmt(DATA[: 16 * GRANULE], raw.entry(0, 16 * 8, 8))
    with cachefile.Misses(lazy.UNIT) as misses:
        with cachefile.CacheFile(misses, str(tmp_path / "blob"), len(stream), 1) as file:
            file.fill(bytearray(stream), 0)
            image = native.Image([native.Layer(file.blob())])
            file.evict(0, 16 * GRANULE)
            coming = receiving(file, 0, 16 * GRANULE, 16 * GRANULE)
            with image, concurrent.futures.ThreadPoolExecutor(2) as pool:
                reader = pool.submit(image.pread, GRANULE, 2 * GRANULE)
                lazy.wait_for(lambda: misses.parked() == 1)
                taker = pool.submit(take_all, coming, ours)
                theirs.sendall(stream[: 5 * GRANULE + 7])
                try:
                    assert reader.result(30) == DATA[2 * GRANULE : 3 * GRANULE]
                finally:
                    theirs.sendall(stream[5 * GRANULE + 7 : 16 * GRANULE])
                taker.result(60)
                assert image.pread(15 * GRANULE, 0) == DATA[: 15 * GRANULE]


def test_goes_on_after_what_the_user_brought(file, ends):
    """The beginning of a body came with the answer's head."""
    ours, theirs = ends
    coming = receiving(file)
    coming.room()[:777] = DATA[:777]
    coming.received = 777
    theirs.sendall(DATA[777:])
    take_all(coming, ours)
    assert content(file, 0, SIZE) == DATA


def test_another_host_begins_anew(file, ends):
    """Nothing is filled twice: readers may be reading it."""
    ours, theirs = ends
    coming = receiving(file)
    theirs.sendall(DATA[: 2 * PART + 5])
    while coming.received < 2 * PART + 5:
        coming.receive(ours.fileno(), True, 60)
    assert coming.filled == 2 * PART
    coming.received = 0
    assert len(coming.room()) == PART
    theirs.sendall(b"x" * 2 * PART + DATA[2 * PART :])
    take_all(coming, ours)
    assert content(file, 0, SIZE) == DATA


def test_another_host_begins_anew_when_all_is_filled(file, ends):
    """One that named less than it sent: its last byte came before that was known."""
    coming = receiving(file)
    coming.filled = SIZE
    ends[1].sendall(DATA)
    take_all(coming, ends[0])
    assert (coming.received, coming.filled) == (SIZE, SIZE)
    assert file.present() == 0


def test_nothing_in_time(file, ends):
    with pytest.raises(socket.timeout):
        receiving(file).receive(ends[0].fileno(), True, 0.01)


def test_connection_breaks(file):
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as ours:
            theirs, _ = server.accept()
            # Closing without reading what came resets the connection.
            ours.sendall(b"a request")
            theirs.recv(1, socket.MSG_PEEK)
            theirs.close()
            with pytest.raises(ConnectionResetError):
                receiving(file).receive(ours.fileno(), True, 60)
    assert file.present() == 0


def test_no_socket(file):
    with open("/dev/null", "rb") as null, pytest.raises(OSError) as caught:
        receiving(file).receive(null.fileno(), True, 60)
    assert caught.value.errno == errno.ENOTSOCK


def test_file_that_takes_nothing(ends):
    """What has come is not lost: it is in the buffer."""
    ours, theirs = ends
    theirs.sendall(DATA)
    with cachefile.Misses(lazy.UNIT) as misses, cachefile.CacheFile(misses, "", SIZE, 1) as file:
        coming = receiving(file)
        while not coming.refused:
            coming.receive(ours.fileno(), True, 60)
        assert (coming.refused, coming.filled) == (errno.ENOSPC, 0)
        assert coming.held() == DATA[: coming.received] and not coming.room()
        file.spill(coming.held(), 0)
        coming.filled = coming.received
        while coming.room():
            assert coming.receive(ours.fileno(), False, 60) > 0
        assert coming.held() == DATA[PART : 2 * PART]
        assert coming.receive(ours.fileno(), False, 60) == 0  # there is no room: nothing is taken
        assert (coming.refused, coming.received) == (0, 2 * PART)


@pytest.mark.parametrize("received, filled, part", [(SIZE, 0, PART), (0, 100, PART), (0, 0, 100)])
def test_nonsense_is_refused(file, ends, received, filled, part):
    ends[1].sendall(DATA[:100])
    coming = receiving(file, part=part)
    coming.received, coming.filled = received, filled
    with pytest.raises(OSError) as caught:
        coming.receive(ends[0].fileno(), True, 60)
    assert caught.value.errno == errno.EINVAL


def test_range_outside_the_file(file, ends):
    """Is taken from the socket, and refused."""
    ends[1].sendall(bytes(GRANULE))
    coming = receiving(file, 64 * GRANULE, GRANULE)
    coming.receive(ends[0].fileno(), True, 60)
    assert (coming.refused, coming.filled) == (errno.EINVAL, 0)


def test_waiting_is_for_the_socket(file, ends):
    ours, theirs = ends
    theirs.sendall(DATA[:PART])
    coming = receiving(file, count=PART)
    coming.receive(ours.fileno(), True, 60)
    assert coming.waited_s == 0  # all was there, however long the file took
    coming = receiving(file, count=PART)
    with pytest.raises(socket.timeout):
        coming.receive(ours.fileno(), True, 0.01)
    assert coming.waited_s > 0
