# SPDX-License-Identifier: Apache-2.0
"""One range of a blob: its bytes, or an error that says what the server did instead."""

import pytest

from overlaybd_tcmu import errors

from .conftest import SIZE, failure, read

Kind = errors.RegistryFailure


def test_size_is_learnt_when_it_is_not_known(one):
    assert one.size() == SIZE


@pytest.mark.parametrize(
    "offset, count",
    [(0, 1), (0, SIZE), (SIZE - 1, 1), (4096, 65536), (123, 456), (SIZE, 0), (0, 0)],
)
def test_range(one, data, offset, count):
    assert read(one, offset, count) == data[offset : offset + count]


@pytest.mark.parametrize("offset, count", [(-1, 1), (0, SIZE + 1), (SIZE, 1)])
def test_range_outside_of_the_blob_is_the_callers_error(one, offset, count):
    with pytest.raises(ValueError):
        read(one, offset, count)


def test_one_request_for_each_range(one, server, data, digest):
    server.clear()
    for offset in (5, 70_000, 5):
        read(one, offset, 1000)
    assert server.ranges(digest) == [(5, 1000), (70_000, 1000), (5, 1000)]
    assert len(server.requests()) == 3


def test_connection_is_kept(one, server):
    for offset in range(20):
        read(one, offset, 100)
    assert server.registry.connections()[0] == 1


def test_blob_of_no_bytes(made, server):
    one = made.blob(server.repo_url(), server.put(b""))
    assert one.size() == 0
    assert read(one, 0, 0) == b""


def test_repository_with_a_slash_at_its_end_and_names_with_many_parts(made, server, digest):
    one = made.blob(server.repo_url("a/b/c/d") + "/", digest)
    assert one.size() == SIZE


def test_stream_gives_the_range_in_pieces(one, data):
    with one.stream(1000, 200_000) as chunks:
        pieces = list(chunks)
    assert b"".join(pieces) == data[1000:201_000]


def test_stream_that_is_left_early_gives_its_connection_back(one, server, data):
    for _ in range(40):  # more than there may be
        with one.stream(0, SIZE) as chunks:
            assert data.startswith(next(chunks))
    assert read(one, 0, SIZE) == data


def test_chunked_answer(one, server, data):
    server.fault(chunked=True)
    assert read(one, 10, 20_000) == data[10:20_010]


def test_answer_without_a_length(one, server, data):
    server.fault(length=-1, last=True)
    assert read(one, 10, 20_000) == data[10:20_010]


def test_headers_of_a_request(made, server, digest):
    made.blob(server.repo_url(), digest, userAgent="my agent/1")
    (request,) = server.requests()
    assert request.headers == {
        "host": server.host,
        "user-agent": "my agent/1",
        "accept-encoding": "identity",
        "range": "bytes=0-0",
    }


def test_user_agent_says_our_version_by_default(one, server):
    assert server.requests()[0].headers["user-agent"].startswith("overlaybd/")


# ---- a server that does not give what was asked for

# How it misbehaves, whether a second try makes sense, what the error says.
WRONG = {
    "another range": (dict(shift=1), False, "instead of 1000 at"),
    "other place": (dict(content_range="bytes 0-999/300000"), False, "1000 bytes at 0"),
    "no place": (dict(content_range=""), False, "without its place"),
    "fewer bytes": (
        dict(content_range="bytes 200000-200998/300000"),
        False,
        "999 bytes at 200000",
    ),
    "other size": (dict(content_range="bytes 200000-200999/300001"), False, "300001 bytes"),
    "nonsense": (dict(content_range="bytes 9-1/3"), False, "without its place"),
    "several ranges": (
        dict(content_range="", headers={"Content-Type": "multipart/byteranges; boundary=x"}),
        False,
        "several ranges",
    ),
    "length too small": (dict(length=999), False, "999 bytes instead of 1000"),
    "length too large": (dict(length=1001), False, "1001 bytes instead of 1000"),
    "cut short": (dict(cut_after=500), True, "ended after 500 of 1000 bytes"),
    "cut short, chunked": (dict(cut_after=500, chunked=True), True, "the body ended early"),
    "cut before the body": (dict(cut_after=0), True, "ended after 0 of 1000 bytes"),
    "compressed": (dict(headers={"Content-Encoding": "gzip"}), False, "is encoded as 'gzip'"),
    "another blob": (
        dict(headers={"Docker-Content-Digest": "sha256:" + "0" * 64}),
        False,
        "another blob",
    ),
    "another blob by its tag": (dict(headers={"Etag": f'"sha256:{"0" * 64}"'}), False, "another"),
    "416": (dict(status=416, headers={"Content-Range": "bytes */100"}), False, "answered 416"),
    "418": (dict(status=418), False, "answered 418"),
    "nothing but a redirect": (dict(status=307), False, "redirects to something that is no URL"),
    "redirect to a file": (
        dict(status=307, headers={"Location": "file:///etc/passwd"}),
        False,
        "no URL",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answer_is_an_error_and_says_why(one, server, data, name):
    how, temporary, text = WRONG[name]
    server.fault(times=1 if how.get("status") != 307 else None, **how)
    error = failure(read, one, 200_000, 1000)
    assert error.kind is Kind.PROTOCOL
    assert text in str(error)
    assert error.temporary is temporary
    server.heal()
    assert read(one, 200_000, 1000) == data[200_000:201_000]


def test_longer_body_than_the_range_it_names_is_refused(one, server, data):
    server.fault(chunked=True, shift=0, body=data[:1001])
    assert "more than the 1000 bytes" in str(failure(read, one, 0, 1000))


def test_bytes_after_a_short_answer_are_not_taken_for_the_next(one, server, data):
    """Content-Length says less than comes: the rest must not begin the next answer."""
    more = b"HTTP/1.1 206 x\r\nContent-Length: 9\r\n\r\nwrong"
    server.fault(body=data[:1000] + more, length=1000)
    assert read(one, 0, 1000) == data[:1000]
    assert read(one, 5000, 100) == data[5000:5100]


# ---- statuses: each cause stays what it is

STATUSES = [
    (401, Kind.AUTH, False),
    (403, Kind.AUTH, False),
    (404, Kind.NOT_FOUND, False),
    (410, Kind.NOT_FOUND, False),
    (408, Kind.SERVER, True),
    (429, Kind.THROTTLED, True),
    (500, Kind.SERVER, True),
    (502, Kind.SERVER, True),
    (503, Kind.SERVER, True),
    (400, Kind.PROTOCOL, False),
    (416, Kind.PROTOCOL, False),
]


@pytest.mark.parametrize("status, kind, temporary", STATUSES)
def test_status_when_opening(made, server, digest, status, kind, temporary):
    server.fault(status=status, times=None)
    error = failure(made.blob, server.repo_url(), digest)
    assert (error.kind, error.temporary) == (kind, temporary)
    assert str(error).startswith(kind.text + ": ")
    assert server.registry.url in str(error)
    if status != 401:  # says that it asks for nothing
        assert f"answered {status}" in str(error)


@pytest.mark.parametrize("status, kind, temporary", STATUSES)
def test_status_when_reading(one, server, data, status, kind, temporary):
    server.fault(status=status, times=None)
    error = failure(read, one, 0, 10)
    assert (error.kind, error.temporary) == (kind, temporary)


def test_the_registrys_code_is_told_and_nothing_else_of_what_it_says(made, server, digest):
    body = b'{"errors":[{"code":"NAME_UNKNOWN","message":"secret"}]}'
    server.fault(status=404, body=body)
    text = str(failure(made.blob, server.repo_url(), digest))
    assert "answered 404 NAME_UNKNOWN" in text
    assert "secret" not in text


@pytest.mark.parametrize("url, text", [
    ("ftp://h/v2/x/blobs", "neither http nor https"),
    ("https:///v2/x/blobs", "impossible host"),
    ("https://h:0/v2/x/blobs", "impossible host"),
    ("https://h:99999/v2/x/blobs", "impossible host"),
    ("https://u:secret@h/v2/x/blobs", "names a user"),
    ("https://h/v2/x/blobs?a=secret", "has a query"),
    ("https://h/v2/x\r\nX: secret/blobs", "has characters"),
    ("https://h h/v2/x/blobs", "has characters"),
    ("https://[::1/v2/x/blobs", "impossible host"),
])  # fmt: skip
def test_impossible_repository(made, url, text):
    error = failure(made.blob, url, "sha256:" + "0" * 64)
    assert error.kind is Kind.CONFIG
    assert text in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("digest", [
    "", "sha256", "sha256:", "sha256:abc", "sha256:" + "g" * 64, "sha256:" + "A" * 64,
    "../../etc/passwd", "sha256:../../x", "sha512:" + "0" * 64, "x:" + "y/" * 5,
])  # fmt: skip
def test_impossible_digest(made, server, digest):
    assert failure(made.blob, server.repo_url(), digest).kind is Kind.CONFIG


def test_size_that_is_not_the_images_is_refused(made, server, digest):
    error = failure(made.blob, server.repo_url(), digest, SIZE + 1)
    assert error.kind is Kind.PROTOCOL
    assert f"{SIZE} bytes instead of {SIZE + 1}" in str(error)
