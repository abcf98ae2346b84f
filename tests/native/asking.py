# SPDX-License-Identifier: Apache-2.0
"""A range that the core asks for itself, and the peer that answers whatever it is told to."""

import concurrent.futures
import fcntl
import random
import socket
import struct
import termios
import threading

import pytest

from overlaybd_tcmu.ffi import cachefile

from . import lazy

GRANULE = cachefile.GRANULE
SIZE = 40 * GRANULE + 1000
DATA = random.Random(5).randbytes(SIZE)
OFFSET, COUNT = 8 * GRANULE, 4 * GRANULE
BODY = DATA[OFFSET : OFFSET + COUNT]
LAST = 40 * GRANULE, 1000  # less than a granule
PART = 2 * GRANULE
DIGEST = "sha256:" + 64 * "a"
TAG = '"tag"'
REQUEST = b"GET /v2/x/blobs/y HTTP/1.1\r\nHost: h\r\nRange: bytes=1-2\r\n\r\n"
END = b"\r\n\r\n"


@pytest.fixture
def file(tmp_path):
    with cachefile.Misses(lazy.UNIT) as misses:
        with cachefile.CacheFile(misses, str(tmp_path / "blob"), SIZE, 1) as one:
            yield one


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def head_of(offset, count):
    lines = [
        "HTTP/1.1 206 Partial Content",
        "Date: Mon, 30 Nov 2026 00:00:00 GMT",
        f"Content-Range: bytes {offset}-{offset + count - 1}/{SIZE}",
        f"Content-Length: {count}",
        f"Docker-Content-Digest: {DIGEST}",
        f"Etag: {TAG}",
    ]
    return "\r\n".join(lines).encode() + END


HEAD = head_of(OFFSET, COUNT)


def receiving(file, offset=OFFSET, count=COUNT, part=PART):
    return cachefile.Receiving(file, memoryview(bytearray(part)), offset, count)


def asked(etag=TAG):
    return cachefile.question(REQUEST, DIGEST, etag, SIZE)


def unread(one):
    """Bytes that came and were not taken."""
    return struct.unpack("i", fcntl.ioctl(one, termios.FIONREAD, bytes(4)))[0]


def serve(ends, pieces, done):
    """The peer: takes the request, then sends each piece when the last was taken, and ends."""
    ours, theirs = ends
    request = theirs.recv(len(REQUEST), socket.MSG_WAITALL)
    for piece in pieces:
        while unread(ours) and not done.wait(0.0001):
            pass
        theirs.sendall(piece)
    theirs.shutdown(socket.SHUT_WR)
    return request


def ask(coming, ends, pieces, question=None, fill=True):
    """What ask() returns, and the request that the peer had."""
    done = threading.Event()
    question = asked() if question is None else question
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        job = executor.submit(serve, ends, pieces, done)
        try:
            odd = coming.ask(ends[0].fileno(), question, fill, 60)
        finally:
            done.set()
        return odd, job.result()


def rest(one):
    one.setblocking(True)
    with one.makefile("rb") as stream:
        return stream.read()


def content(file, offset, count):
    buffer = bytearray(count)
    return bytes(buffer[: file.copy_into(buffer, offset)])
