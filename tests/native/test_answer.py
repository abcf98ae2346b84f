# SPDX-License-Identifier: Apache-2.0
"""
A range that the core asks for itself: the usual answer goes into the cache file, of any other one,
and of what is none, the very bytes come back.
"""

import concurrent.futures
import errno
import socket

import pytest

from overlaybd_tcmu.ffi import cachefile

from . import lazy
from .asking import (
    BODY,
    COUNT,
    DATA,
    DIGEST,
    END,
    GRANULE,
    HEAD,
    LAST,
    OFFSET,
    PART,
    REQUEST,
    SIZE,
    TAG,
    ask,
    asked,
    content,
    head_of,
    receiving,
    rest,
    unread,
)


def changed(old, new):
    """The usual head with something else in it."""
    assert HEAD.count(old) == 1
    return HEAD.replace(old, new)


def with_line(line):
    return changed(END, b"\r\n" + line + END)


# ---- the usual answer


@pytest.mark.parametrize("part", [GRANULE, PART, 64 * GRANULE])
@pytest.mark.parametrize("offset, count", [(0, SIZE), (OFFSET, COUNT), LAST])
def test_range_is_in_the_file(file, ends, offset, count, part):
    wanted, head, question = DATA[offset : offset + count], head_of(offset, count), asked()
    coming = receiving(file, offset, count, part)
    pieces = [head + wanted, b"the next answer"]
    assert ask(coming, ends, pieces, question) == (b"", REQUEST)
    assert (question.head, question.odd) == (len(head), 0)
    assert (coming.received, coming.filled, coming.refused) == (count, count, 0)
    assert content(file, offset, count) == wanted
    assert file.present() == -(-count // GRANULE)
    assert rest(ends[0]) == b"the next answer"


def test_checksums_are_those_of_fill(file, ends, tmp_path):
    coming = receiving(file, 0, SIZE)
    ask(coming, ends, [head_of(0, SIZE) + DATA])
    with cachefile.Misses(lazy.UNIT) as misses:
        with cachefile.CacheFile(misses, str(tmp_path / "other"), SIZE, 1) as other:
            expected = other.fill(bytearray(DATA), 0)
    assert coming.sums(0).tolist() == expected.tolist()


@pytest.mark.parametrize("at", range(1, len(HEAD) + 2))
def test_head_in_two_pieces(file, ends, at):
    coming, question, answer = receiving(file), asked(), HEAD + BODY
    assert ask(coming, ends, [answer[:at], answer[at:]], question)[0] == b""
    assert (question.head, coming.filled) == (len(HEAD), COUNT)
    assert content(file, OFFSET, COUNT) == BODY


@pytest.mark.parametrize("more", [0, 1, 700, COUNT - 1])
def test_head_byte_by_byte_and_some_of_the_body_with_its_last(file, ends, more):
    coming, question = receiving(file), asked()
    pieces = [HEAD[at : at + 1] for at in range(len(HEAD) - 1)]
    pieces += [HEAD[-1:] + BODY[:more], BODY[more:]]
    assert ask(coming, ends, pieces, question)[0] == b""
    assert (question.head, coming.filled) == (len(HEAD), COUNT)
    assert content(file, OFFSET, COUNT) == BODY


USUAL = {
    "no reason": changed(b" Partial Content", b""),
    "another reason": changed(b"Partial Content", b"\xe4 \xff: b"),
    "no Etag": changed(b'\r\nEtag: "tag"', b""),
    "weak Etag": changed(b'"tag"', b'W/"other"'),
    "no digest": changed(f"\r\nDocker-Content-Digest: {DIGEST}".encode(), b""),
    "not encoded": with_line(b"Content-Encoding: Identity"),
    "kept": with_line(b"Connection: Keep-Alive"),
    "unknown headers": with_line(
        b"Server: x\r\nVary:\r\nX: a:b\tc\r\nContent-Ranges: 5\r\nA: \xe4"
    ),
    "names in capitals": HEAD.replace(b"Content-", b"CONTENT-").replace(b"Etag", b"ETAG"),
    "names in small letters": HEAD.replace(b"Content-", b"content-").replace(b"Etag", b"etag"),
    "no blanks": HEAD.replace(b": ", b":"),
    "many blanks": HEAD.replace(b": ", b":\t  ").replace(b"\r\nEtag", b" \t\r\nEtag"),
    "longer than what is taken at once": with_line(b"X: " + bytes(3000).replace(b"\0", b"x")),
}


@pytest.mark.parametrize("name", USUAL)
def test_usual_answer(file, ends, name):
    coming, question = receiving(file), asked()
    assert ask(coming, ends, [USUAL[name] + BODY], question)[0] == b""
    assert (question.head, coming.filled) == (len(USUAL[name]), COUNT)
    assert content(file, OFFSET, COUNT) == BODY


@pytest.mark.parametrize("head", [USUAL["no Etag"], USUAL["weak Etag"]])
def test_usual_answer_of_a_place_without_an_etag(file, ends, head):
    coming, question = receiving(file), asked(etag="")
    assert ask(coming, ends, [head + BODY], question)[0] == b""
    assert (question.head, coming.filled) == (len(head), COUNT)


# ---- any other answer

RANGE, TOTAL = f"bytes {OFFSET}-{OFFSET + COUNT - 1}/".encode(), str(SIZE).encode()
PLACE, LENGTH = b"Content-Range: " + RANGE + TOTAL, f"Content-Length: {COUNT}".encode()

ODD = {
    "200": changed(b" 206 ", b" 200 "),
    "416": changed(b" 206 ", b" 416 "),
    "500": changed(b" 206 ", b" 500 "),
    "2060": changed(b" 206 ", b" 2060 "),
    "100 first": b"HTTP/1.1 100 Continue" + END + HEAD,
    "HTTP/1.0": changed(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.10": changed(b"HTTP/1.1", b"HTTP/1.10"),
    "no HTTP": b"hello" + END,
    "nothing": END,
    "another first byte": changed(RANGE, f"bytes {OFFSET + 1}-{OFFSET + COUNT - 1}/".encode()),
    "another last byte": changed(RANGE, f"bytes {OFFSET}-{OFFSET + COUNT}/".encode()),
    "more digits": changed(RANGE + TOTAL, RANGE + TOTAL + b"0"),
    "zeros before": changed(RANGE, RANGE.replace(b" ", b" 0")),
    "other unit": changed(RANGE, RANGE.replace(b"bytes", b"Bytes")),
    "another total": changed(RANGE + TOTAL, RANGE + str(SIZE + 1).encode()),
    "no total": changed(RANGE + TOTAL, RANGE + b"*"),
    "no range": changed(b"\r\n" + PLACE, b""),
    "two ranges": with_line(PLACE),
    "another range after it": with_line(b"Content-Range: bytes 0-0/1"),
    "no length": changed(b"\r\n" + LENGTH, b""),
    "two lengths": with_line(LENGTH),
    "less": changed(LENGTH, f"Content-Length: {COUNT - 1}".encode()),
    "more": changed(LENGTH, f"Content-Length: {COUNT + 1}".encode()),
    "signed": changed(LENGTH, f"Content-Length: +{COUNT}".encode()),
    "chunked": with_line(b"Transfer-Encoding: chunked"),
    "chunked, no length": changed(LENGTH, b"Transfer-Encoding: chunked"),
    "identity, as it was once": with_line(b"transfer-encoding: identity"),
    "compressed": with_line(b"Content-Encoding: gzip"),
    "compressed after all": with_line(b"Content-Encoding: identity\r\nContent-Encoding: gzip"),
    "two encodings": with_line(b"Content-Encoding: identity\r\nContent-Encoding: identity"),
    "closes": with_line(b"Connection: close"),
    "closes, among others": with_line(b"Connection: keep-alive, close"),
    "another Etag": changed(b'"tag"', b'"tog"'),
    "an Etag without quotes": changed(b'"tag"', b"tag"),
    "an Etag and another": with_line(b'Etag: "tog"'),
    "two Etags": with_line(b'Etag: "tag"'),
    "no tag in Etag": changed(b'"tag"', b""),
    "another digest": changed(b"aa\r\n", b"ab\r\n"),
    "two digests": with_line(f"Docker-Content-Digest: {DIGEST}".encode()),
    "folded line": changed(b"Etag:", b" folded:"),
    "line folded by a tab": changed(b"Etag:", b"\tfolded:"),
    "no colon": with_line(b"nonsense"),
    "no name": with_line(b": x"),
    "blank behind a name": changed(b"Etag:", b"Etag :"),
    "blank in a name": with_line(b"a b: c"),
    "letter no name has": with_line(b"\xe4: c"),
    "deletion in a name": with_line(b"a\x7f: c"),
    "NUL": with_line(b"a: \0"),
    "escape": with_line(b"a: \x1b[1m"),
    "CR in a line": with_line(b"a: b\rc"),
    "CR at the end of a line": with_line(b"a: b\r"),
    "LF for CR LF": HEAD.replace(b"\r\n", b"\n"),
    "one LF for CR LF": changed(b"\r\nEtag", b"\nEtag"),
    "LF for the last line": HEAD[:-2] + b"\n",
    "longer than the buffer": with_line(b"X: " + bytes(PART).replace(b"\0", b"x")),
    "ends in its middle": None,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_answer_comes_back(file, ends, name):
    """None of its bytes is lost, and none is used."""
    answer = HEAD[:-2] if ODD[name] is None else ODD[name] + BODY
    coming, question = receiving(file), asked()
    odd, request = ask(coming, ends, [answer], question)
    assert (question.head, question.odd, request) == (0, len(odd), REQUEST)
    assert odd and odd + rest(ends[0]) == answer
    assert (coming.received, coming.filled, file.present()) == (0, 0, 0)


@pytest.mark.parametrize("name", ["200", "no colon", "LF for CR LF", "ends in its middle"])
def test_odd_answer_in_pieces_comes_back(file, ends, name):
    answer = HEAD[:-2] if ODD[name] is None else ODD[name] + BODY
    coming, question = receiving(file), asked()
    odd, _ = ask(coming, ends, [answer[at : at + 1] for at in range(len(HEAD))], question)
    assert (question.head, question.odd) == (0, len(odd))
    assert odd + rest(ends[0]) == answer[: len(HEAD)]
    assert (coming.received, coming.filled, file.present()) == (0, 0, 0)


def test_etag_where_there_was_none(file, ends):
    coming, question = receiving(file), asked(etag="")
    odd, _ = ask(coming, ends, [HEAD + BODY], question)
    assert odd + rest(ends[0]) == HEAD + BODY
    assert (question.head, file.present()) == (0, 0)


def test_more_bytes_than_the_range(file, ends):
    answer = head_of(*LAST) + DATA[LAST[0] :] + b"x"
    coming, question = receiving(file, *LAST), asked()
    assert ask(coming, ends, [answer], question)[0] == answer
    assert (question.head, file.present()) == (0, 0)


# ---- none


def nothing_came(coming, fd, question):
    assert coming.ask(fd, question, True, 60) == b""
    return (question.head, question.odd, coming.received, coming.filled) == (0, 0, 0, 0)


def test_peer_that_was_gone(file, ends):
    ends[1].close()
    assert nothing_came(receiving(file), ends[0].fileno(), asked())


def test_peer_that_goes_without_a_byte(file, ends):
    coming, question = receiving(file), asked()
    assert ask(coming, ends, [], question) == (b"", REQUEST)
    assert (question.head, question.odd, coming.received) == (0, 0, 0)


def test_bytes_before_the_request_are_no_answer(file, ends):
    """And nothing is asked."""
    ends[1].sendall(HEAD + BODY)
    assert nothing_came(receiving(file), ends[0].fileno(), asked())
    with pytest.raises(BlockingIOError):
        ends[1].recv(1, socket.MSG_DONTWAIT)
    assert rest_now(ends[0]) == HEAD + BODY


def rest_now(one):
    return one.recv(unread(one))


@pytest.mark.parametrize("before", [b"", HEAD[:5], HEAD[:-1]])
def test_peer_that_resets_the_connection(file, before):
    """Also in the middle of the head: that is a connection which broke, and not a bad answer."""
    question = asked()
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as ours:
            theirs, _ = server.accept()

            def serve():
                theirs.recv(1)  # closing without reading all that came resets the connection
                theirs.sendall(before)
                lazy.wait_for(lambda: not unread(ours))
                theirs.close()

            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                job = executor.submit(serve)
                assert nothing_came(receiving(file), ours.fileno(), question)
                job.result()
    assert file.present() == 0


@pytest.mark.parametrize("pieces", [[], [HEAD[:20]]])
def test_no_head_in_time(file, ends, pieces):
    coming, question = receiving(file), asked()

    def serve():
        ends[1].recv(len(REQUEST), socket.MSG_WAITALL)
        for piece in pieces:
            ends[1].sendall(piece)

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        job = executor.submit(serve)
        with pytest.raises(socket.timeout):
            coming.ask(ends[0].fileno(), question, True, 0.2)
        job.result()
    assert (question.head, question.odd, file.present()) == (0, 0, 0)


def test_peer_that_does_not_take_the_request(file, ends):
    question = cachefile.question(bytes(4 << 20), DIGEST, TAG, SIZE)
    with pytest.raises(socket.timeout):
        receiving(file).ask(ends[0].fileno(), question, True, 0.05)


@pytest.mark.parametrize("count, part", [(COUNT, 100), (0, PART)])
def test_nonsense_is_refused(file, ends, count, part):
    with pytest.raises(OSError) as caught:
        receiving(file, count=count, part=part).ask(ends[0].fileno(), asked(), True, 60)
    assert caught.value.errno == errno.EINVAL
    assert unread(ends[1]) == 0


# ---- what follows the head


@pytest.mark.parametrize("came", [0, 100, PART, PART + 100, COUNT - 1])
def test_body_that_ends_early(file, ends, came):
    """What came is counted, and filled by whole parts."""
    coming, question = receiving(file), asked()
    assert ask(coming, ends, [HEAD + BODY[:came]], question)[0] == b""
    filled = came // PART * PART
    assert (question.head, coming.received, coming.filled) == (len(HEAD), came, filled)
    assert coming.held() == BODY[filled:came]
    assert content(file, OFFSET, COUNT) == BODY[:filled]
    assert coming.receive(ends[0].fileno(), True, 60) == 0  # the stream's end


@pytest.mark.parametrize("came", [0, 1, PART + 1])
def test_body_that_is_slow_is_received_later(file, ends, came):
    """However long the head may take: who asked is told that it came, and waits himself."""
    coming, question = receiving(file), asked()

    def serve():
        ends[1].recv(len(REQUEST), socket.MSG_WAITALL)
        ends[1].sendall(HEAD + BODY[:came])

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        job = executor.submit(serve)
        assert coming.ask(ends[0].fileno(), question, True, 3600) == b""
        job.result()
    assert (question.head, coming.received) == (len(HEAD), came)
    ends[1].sendall(BODY[came:])
    while coming.received < COUNT:
        assert coming.receive(ends[0].fileno(), True, 60) > 0
    assert content(file, OFFSET, COUNT) == BODY


def test_file_that_takes_nothing(ends):
    with cachefile.Misses(lazy.UNIT) as misses, cachefile.CacheFile(misses, "", SIZE, 1) as file:
        coming, question = receiving(file), asked()
        ask(coming, ends, [HEAD + BODY], question)
        assert (question.head, coming.refused, coming.filled) == (len(HEAD), errno.ENOSPC, 0)
        assert coming.held() == BODY[:PART]


def test_file_that_is_not_to_be_filled(file, ends):
    coming = receiving(file)
    ask(coming, ends, [HEAD + BODY], fill=False)
    assert (coming.held(), coming.filled, file.present()) == (BODY[:PART], 0, 0)
    assert rest(ends[0]) == BODY[PART:]
