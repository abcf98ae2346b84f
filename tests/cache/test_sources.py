# SPDX-License-Identifier: Apache-2.0
"""Whom a blob's bytes are asked of when those who have it open come and go."""

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.cache import sources
from overlaybd_tcmu.registry import body

Kind = errors.RegistryFailure
DATA = b"bytes of a blob" * 100


class Blob:
    """A repository's way to the blob; does something first whenever it is read."""

    def __init__(self, first=lambda: None):
        self.first = first

    def open(self):
        pass

    def size(self):
        return len(DATA)

    def read(self, offset, count, into):
        self.first()
        into.room(0)[:] = DATA[offset:][:count]
        into.came(count)

    def close(self):
        pass


def read(all_, offset=0):
    view = bytearray(100)
    all_.read(offset, len(view), len(DATA), body.Buffer(memoryview(view)))
    return bytes(view)


def refuse(kind):
    raise errors.RegistryError(kind, "as the test wants it")


def test_who_comes_while_another_is_closed_is_asked():
    all_ = sources.Sources()
    second = sources.Source(Blob(), "second")

    def close():
        all_.add(second)
        all_.remove(first)
        refuse(Kind.CLOSED)

    first = all_.add(sources.Source(Blob(close), "first"))
    assert read(all_, 7) == DATA[7:107]
    assert all_.last_error is None


def test_closing_says_nothing_of_the_registry():
    all_ = sources.Sources()
    all_.add(sources.Source(Blob(lambda: refuse(Kind.CLOSED)), "first"))
    with pytest.raises(errors.RegistryError) as caught:
        read(all_)
    assert caught.value.kind is Kind.CLOSED
    assert (all_.last_error, all_.failures) == (None, 0)


@pytest.mark.parametrize("kind", [Kind.AUTH, Kind.NOT_FOUND, Kind.PROTOCOL, Kind.TLS])
def test_another_repository_may_give_what_one_refuses(kind):
    all_ = sources.Sources()
    all_.add(sources.Source(Blob(lambda: refuse(kind)), "first"))
    all_.add(sources.Source(Blob(), "second"))
    assert read(all_) == DATA[:100]


@pytest.mark.parametrize("kind", [Kind.CONNECT, Kind.TIMEOUT, Kind.THROTTLED, Kind.SERVER])
def test_registry_that_is_away_is_replaced_by_another(kind):
    """Asked once for all its repositories; from then on the other one comes first."""
    all_, asked = sources.Sources(), []

    def fail():
        asked.append(kind)
        refuse(kind)

    for name in ("http://one/v2/a/blobs", "http://one/v2/b/blobs"):
        all_.add(sources.Source(Blob(fail), name))
    all_.add(sources.Source(Blob(), "http://two/v2/a/blobs"))
    assert read(all_) == DATA[:100]
    assert asked == [kind]
    assert (all_.failures, all_.last_error) == (0, None)


def test_who_has_answered_before_is_asked_first():
    all_ = sources.Sources()
    all_.add(sources.Source(Blob(lambda: refuse(Kind.TIMEOUT)), "http://hangs/v2/a/blobs"))
    all_.add(sources.Source(Blob(), "http://answers/v2/a/blobs")).open()
    assert all_.host == "answers"
    assert read(all_) == DATA[:100]


def test_each_is_asked_once():
    all_ = sources.Sources()
    for name in ("first", "second"):
        all_.add(sources.Source(Blob(lambda: refuse(Kind.NOT_FOUND)), name))
    with pytest.raises(errors.RegistryError) as caught:
        read(all_)
    assert caught.value.kind is Kind.NOT_FOUND
    assert all_.failures == 1
