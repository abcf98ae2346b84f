# SPDX-License-Identifier: Apache-2.0
"""Blobs that lie in an object store: found once, used until it says no, told nothing of ours."""

import concurrent.futures
import threading
import time

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.registry import expiry

from .conftest import SIZE, entry, failure, read

Kind = errors.RegistryFailure
USERS = {"me": "secret"}


@pytest.fixture
def digest(server, data):
    server.redirect()
    return server.put(data)


def test_range_comes_from_the_store(one, server, data, digest):
    assert one.size() == SIZE
    assert read(one, 1000, 500) == data[1000:1500]
    assert server.ranges(digest, "store") == [(0, 1), (1000, 500)]


def test_registry_is_asked_once(one, server):
    for offset in range(10):
        read(one, offset, 100)
    assert len(server.requests()) == 1


def test_known_size_saves_a_request_to_the_store(made, server, digest, data):
    one = made.blob(server.repo_url(), digest, SIZE)
    assert server.requests("store") == []
    assert read(one, 0, 10) == data[:10]


def test_size_of_the_store_that_is_not_the_images_is_refused(made, server, digest):
    one = made.blob(server.repo_url(), digest, SIZE - 1)
    error = failure(read, one, 0, 10)
    assert error.kind is Kind.PROTOCOL
    assert f"a blob of {SIZE} bytes instead of {SIZE - 1}" in str(error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect(made, server, digest, data, status):
    server.redirect(status=status)
    assert read(made.blob(server.repo_url(), digest), 3, 4) == data[3:7]


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
def test_the_store_gets_nothing_of_ours(made, server, digest, data, scheme):
    """Defect of the original: Authorization was repeated to whatever host was redirected to."""
    server.require_bearer(USERS) if scheme == "bearer" else server.require_basic(USERS)
    made.save_document({"auths": {server.host: entry("me", "secret")}})
    made.save_hosts(server.host, 'header = {x-custom = "secret"}\n')
    one = made.blob(server.repo_url(), digest)
    server.expire_redirects()
    assert read(one, 1, 2) == data[1:3]
    assert len(server.requests("store")) == 3
    for request in server.requests("store"):
        assert set(request.headers) == {"host", "user-agent", "accept-encoding", "range"}
    assert [one.headers["x-custom"] for one in server.requests()] == ["secret"] * 3


def test_token_server_gets_no_headers_of_the_registry(made, server, digest):
    server.require_bearer(USERS, anonymous=True)
    made.save_hosts(server.host, 'header = {x-custom = "secret"}\n')
    made.blob(server.repo_url(), digest)
    assert "x-custom" not in server.requests("token")[0].headers


# ---- when the time of a redirect is over


def test_expired_redirect_is_renewed_without_an_error(one, server, data):
    server.expire_redirects()
    assert read(one, 7, 8) == data[7:15]
    assert len(server.requests()) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_refusal_of_the_store_is_taken_for_an_expiry_once(one, server, data, status):
    server.fault(on="store", status=status)
    assert read(one, 7, 8) == data[7:15]
    server.fault(on="store", status=status, times=None)
    server.clear()
    assert f"answered {status}" in str(failure(read, one, 7, 8))
    assert len(server.requests()) == 1
    assert len(server.requests("store")) == 2


def test_code_of_the_store_is_told_but_not_its_signature(one, server):
    body = b"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>secret</StringToSign></Error>"
    server.fault(on="store", status=403, body=body, times=None)
    text = str(failure(read, one, 0, 1))
    assert "answered 403 SignatureDoesNotMatch" in text
    assert server.store.url in text
    assert "secret" not in text and "Signature=" not in text


def test_many_readers_renew_an_expired_redirect_once(one, server, data):
    server.expire_redirects()
    server.delay(0.01)
    with concurrent.futures.ThreadPoolExecutor(16) as executor:
        found = list(executor.map(lambda number: read(one, number, 10), range(64)))
    assert found == [data[number : number + 10] for number in range(64)]
    assert len(server.requests()) == 2


def test_slow_reader_does_not_undo_what_a_quick_one_found_out(one, server, data):
    """Its refusal is about a place that is not the one remembered any more."""
    hold = threading.Event()
    server.fault(on="store", status=403, hold=hold)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        slow = executor.submit(read, one, 5, 5)
        while not server.store.in_flight():
            time.sleep(0.001)
        server.expire_redirects()
        assert read(one, 6, 5) == data[6:11]
        hold.set()
        assert slow.result() == data[5:10]
    assert len(server.requests()) == 2


def test_expiry_that_the_url_tells_is_not_waited_for(made, server, digest, data, clock):
    where = "{store}/objects/{digest}?X-Amz-Expires=300&X-Signature={signature}"
    server.redirect(where)
    one = made.blob(server.repo_url(), digest, registry=made.registry(clock))
    clock.time += 285
    read(one, 0, 1)
    assert len(server.requests()) == 1
    clock.time += 10
    assert read(one, 0, 10) == data[:10]
    assert len(server.requests()) == 2
    assert [one.status for one in server.requests("store")] == [206] * 3


NOW = 1_700_000_000
DATE = {"Date": "Tue, 14 Nov 2023 22:13:20 GMT"}  # the same


@pytest.mark.parametrize("query, lifetime_s", [
    ("X-Amz-Date=20231114T221320Z&X-Amz-Expires=1200", 1190),
    ("X-Goog-Expires=900", 890),
    (f"Expires={NOW + 600}&Signature=x", 590),
    ("se=2023-11-14T22%3A23%3A20Z&sig=x", 590),
    ("X-Amz-Expires=5", None),
    (f"Expires={NOW - 600}", None),
    ("Expires=soon", None),
    ("se=soon", None),
    ("X-Amz-Expires=" + "9" * 50, None),
    ("sig=x", None),
    ("", None),
])  # fmt: skip
def test_lifetime_of_a_signed_url(query, lifetime_s):
    assert expiry.lifetime_s(f"https://store/x?{query}", DATE) == lifetime_s


def test_lifetime_without_a_date_is_by_our_clock():
    address = f"https://store/x?Expires={int(time.time()) + 600}"
    assert expiry.lifetime_s(address, {}) == pytest.approx(590, abs=2)


# ---- odd redirects


def test_relative_redirect_to_the_registry_itself(made, server, digest, data):
    """Unsupported by the original. The new place says itself whether it wants to know who asks."""
    server.require_basic(USERS)
    made.save_document({"auths": {server.host: entry("me", "secret")}})
    place = {"Location": f"/v2/else/where/blobs/{digest}"}
    server.redirect()
    server.fault(status=307, headers=place, match=lambda one: "library" in one.path, times=None)
    server.no_redirect()
    one = made.blob(server.repo_url(), digest)
    assert read(one, 5, 5) == data[5:10]
    assert server.requests("store") == []
    asked = [(one.path.split("/")[2], "authorization" in one.headers) for one in server.requests()]
    assert asked == [("library", False), ("else", False), ("else", True), ("else", True)]


def test_redirect_to_a_place_of_the_registry_that_just_says_no(made, server, digest, data):
    """403 without a challenge: with what the registry itself asked for it may be let in."""
    server.require_bearer(USERS, anonymous=True)
    place = {"Location": f"/v2/library/x/blobs/{digest}?there"}
    server.fault(status=307, headers=place, times=None,
                 match=lambda one: "authorization" in one.headers and not one.query)  # fmt: skip
    server.fault(status=403, times=None,
                 match=lambda one: "authorization" not in one.headers and one.query)  # fmt: skip
    server.no_redirect()
    one = made.blob(server.repo_url(), digest)
    assert read(one, 5, 5) == data[5:10]
    assert [one.status for one in server.requests()] == [401, 307, 403, 206, 206]


def test_redirect_by_the_store_is_followed_and_remembered(one, server, second, data, digest):
    second.put(data)
    elsewhere = {"Location": f"{second.registry.url}/v2/x/blobs/{digest}"}
    server.fault(on="store", status=302, headers=elsewhere, times=None)
    for offset in range(3):
        assert read(one, offset, 5) == data[offset : offset + 5]
    assert len(server.requests()) == 1
    assert len(server.requests("store")) == 2  # one of them when it was opened
    assert second.ranges(digest) == [(0, 5), (1, 5), (2, 5)]


def test_redirects_that_do_not_end(made, server, digest):
    again = {"Location": f"/v2/x/blobs/{digest}"}
    server.fault(status=307, headers=again, times=None)
    error = failure(made.blob, server.repo_url(), digest)
    assert error.kind is Kind.PROTOCOL
    assert "more than 5 redirects" in str(error)
    assert len(server.requests()) == 6


def test_redirects_of_the_store_that_do_not_end(one, server, digest):
    again = {"Location": f"{server.store.url}/objects/{digest}?X-Signature=1"}
    server.fault(on="store", status=307, headers=again, times=None)
    assert "more than 5 redirects" in str(failure(read, one, 0, 1))


@pytest.mark.parametrize("location", [
    "", "ftp://h/x", "http://h:x/", "http://[::1/", "javascript:alert(1)", "http://a b/",
    "http://h\x01/", "http://h:70000/x", "http://\xe4/",
])  # fmt: skip
def test_redirect_to_no_url(made, server, digest, location):
    server.fault(status=307, headers={"Location": location}, times=None)
    error = failure(made.blob, server.repo_url(), digest)
    assert error.kind is Kind.PROTOCOL
    assert "redirects to something that is no URL" in str(error)


def test_registry_that_begins_to_redirect(made, server, data):
    digest = server.put(data)
    one = made.blob(server.repo_url(), digest)
    server.redirect()
    assert read(one, 5, 5) == data[5:10]
    assert read(one, 6, 5) == data[6:11]
    assert len(server.requests("store")) == 2


def test_object_that_is_replaced(one, server, data, digest):
    """Another Etag: the place is looked up again, and what it says now is what counts."""
    read(one, 0, 10)
    server.replace(digest, data[::-1])
    server.clear()
    assert read(one, 0, 10) == data[::-1][:10]
    assert len(server.requests()) == 1


def test_servers_of_a_store_that_do_not_agree_on_an_etag(one, server, data):
    """After a few times it is left alone: every range would cost three requests."""
    for number in range(20):
        server.fault(on="store", headers={"Etag": f'"{number}"'})
    for offset in range(10):
        assert read(one, offset, 5) == data[offset : offset + 5]
    assert len(server.requests()) < 6


def test_weak_etags_say_nothing(one, server):
    for number in range(5):
        server.fault(on="store", headers={"Etag": f'W/"{number}"'})
        read(one, 0, 5)
    assert len(server.requests()) == 1


def test_query_of_a_signed_url_arrives_as_it_was_given(made, server, digest):
    query = "a=%2F%2f&b=1+2&c=~()*!'&X-Signature={signature}"
    server.redirect("{store}/objects/{digest}?" + query)
    made.blob(server.repo_url(), digest)
    (request,) = server.requests("store")
    assert request.target.partition("?")[2].startswith(query.partition("&X-")[0])
