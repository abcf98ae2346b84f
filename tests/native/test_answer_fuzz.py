# SPDX-License-Identifier: Apache-2.0
"""
The core against http.client and answers.py: what it calls the usual answer, they take for the range
that was asked for, whatever happened to the head.
"""

import http.client
import io
import socket
import types

import pytest
import urllib3

from overlaybd_tcmu import errors
from overlaybd_tcmu.registry import answers, client

from .asking import (
    BODY,
    COUNT,
    DIGEST,
    HEAD,
    OFFSET,
    SIZE,
    TAG,
    ask,
    asked,
    content,
    receiving,
    rest,
)


def means_the_range(answer, length):
    """Whether they find what the core calls the usual answer, and the body behind the same head."""
    stream = types.SimpleNamespace(makefile=lambda mode: io.BytesIO(answer))
    parsed = http.client.HTTPResponse(stream, method="GET")
    try:
        parsed.begin()
        if parsed.version != 11 or parsed.status != 206 or parsed.chunked or parsed.will_close:
            return False
        # That blanks behind a value are none of it http.client does not know.
        pairs = [(name, value.strip(" \t")) for name, value in parsed.headers.items()]
        headers = urllib3.response.HTTPHeaderDict(pairs)
        raw = types.SimpleNamespace(status=parsed.status, headers=headers)
        response = client.Response(raw, "http://h/x", None, None, None)
        skip = answers.check(response, OFFSET, COUNT, SIZE, DIGEST)
    except (http.client.HTTPException, errors.RegistryError):
        return False
    etag = headers.get("Etag", "")
    same = etag in ("", TAG) or etag.startswith("W/")
    place = answer[length : length + COUNT]
    return same and skip == 0 and parsed.length == COUNT and parsed.read() == place


LINES = [
    b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: close", b"X: y", b" folded",
    b"Content-Encoding: gzip", b"From me", b"Connection: keep-alive", b'Etag: W/"x"', b"",
    b"\x85: x", b"X\x0b: y",
]  # fmt: skip
BYTES = [b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\0", b"\x85", b"\xff", b"\x0c", b"/", b"0"]


def mutated(rng, head):
    at = rng.randrange(len(head))
    lines = head.split(b"\r\n")
    line = rng.randrange(len(lines) - 2)
    kind = rng.randrange(7)
    if kind == 0:
        return head[:at] + head[at + 1 :]
    if kind == 1:
        return head[:at] + rng.choice(BYTES) + head[at + rng.randrange(2) :]
    if kind == 2:
        return head[:at] + bytes([rng.randrange(256)]) + head[at + 1 :]
    if kind == 3:
        return head[:at] + head[at : at + 9].swapcase() + head[at + 9 :]
    if kind == 4:
        lines.insert(line + 1, rng.choice(LINES + lines[1:-2]))
    elif kind == 5:
        del lines[line]
    else:
        lines.insert(line, lines.pop(rng.randrange(len(lines) - 2)))
    return b"\r\n".join(lines)


@pytest.mark.parametrize("mutations", [0, 1, 2, 3])
def test_usual_is_only_what_python_takes_for_the_range(file, rng, mutations):
    usual, tries = 0, 100
    for _ in range(tries):
        head, question = HEAD, asked()
        for _ in range(mutations):
            head = mutated(rng, head) or b"x"
        ours, theirs = socket.socketpair()
        with ours, theirs:
            odd, _ = ask(receiving(file), (ours, theirs), [head + BODY], question)
            came = odd + rest(ours)
        if question.head:
            assert means_the_range(head + BODY, question.head), head
            assert content(file, OFFSET, COUNT) == (head + BODY)[question.head :][:COUNT]
            file.evict(OFFSET, COUNT)
            usual += 1
        else:
            assert (came, file.present()) == (head + BODY, 0)
    assert usual == tries if mutations == 0 else 0 < usual < tries
