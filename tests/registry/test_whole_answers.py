# SPDX-License-Identifier: Apache-2.0
"""A server that ignores Range and sends the whole blob: used where it can be, never taken amiss."""

import random

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.registry import answers

from .conftest import failure, read

FAR = answers.SKIP + 1
SIZE = answers.SKIP + 100_000

Kind = errors.RegistryFailure


@pytest.fixture(scope="module")
def large():
    return random.Random(8).randbytes(SIZE)


@pytest.fixture
def digest(server, large):
    server.fault(ignore_range=True, times=None)
    return server.put(large)


def test_size_is_the_whole_length(one):
    assert one.size() == SIZE


def test_a_range_never_gets_the_first_bytes_instead(one, large):
    """Defect of the original: the first bytes were taken for the range, and cached for good."""
    for offset in (1, 4096, 500_000, answers.SKIP):
        assert read(one, offset, 5000) == large[offset : offset + 5000]


def test_beginning_is_read_and_the_rest_left(one, server, large):
    assert read(one, 0, 1000) == large[:1000]
    assert server.requests()[-1].range == (0, 1000)


def test_what_is_too_far_is_refused_for_good(one):
    error = failure(read, one, FAR, 10)
    assert (error.kind, error.temporary) == (Kind.PROTOCOL, False)
    assert f"ignores Range, and offset {FAR} is too far" in str(error)


def test_stream_of_the_whole_blob(one, large):
    with one.stream(0, SIZE) as chunks:
        assert b"".join(chunks) == large


@pytest.mark.parametrize("how, text", [
    (dict(length=-1, last=True), "does not tell its length"),
    (dict(chunked=True), "does not tell its length"),
    (dict(length=SIZE + 1), f"{SIZE + 1} bytes instead of {SIZE}"),
    (dict(body=b"<html>"), f"6 bytes instead of {SIZE}"),
])  # fmt: skip
def test_whole_answer_that_is_not_the_blob(one, server, how, text):
    server.heal()
    server.fault(ignore_range=True, **how)
    error = failure(read, one, 0, 1000)
    assert error.kind is Kind.PROTOCOL
    assert text in str(error)


def test_whole_answer_that_breaks_off(one, server):
    server.heal()
    server.fault(ignore_range=True, cut_after=5000)
    error = failure(read, one, 10_000, 1000)
    assert (error.kind, error.temporary) == (Kind.PROTOCOL, True)
    assert "ended after 0 of 1000 bytes" in str(error)


def test_opening_does_not_fetch_the_blob(made, server, digest):
    """Another defect: a request for the whole blob that was cut off, for each layer."""
    made.blob(server.repo_url(), digest)
    assert [one.range for one in server.requests()] == [(0, 1)]
