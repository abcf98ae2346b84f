# SPDX-License-Identifier: Apache-2.0
"""p2pConfig: bytes come through the proxy, everything else and every trouble goes past it."""

import pytest

from overlaybd_tcmu import config, errors
from overlaybd_tcmu.registry import blob, health

from ..support import http_server
from .conftest import SIZE, entry, failure, read

Kind = errors.RegistryFailure


class Proxy:
    """Answers <prefix>/<URL> with bytes of the data, as a P2P agent on this host does."""

    def __init__(self, data):
        self.data = data
        self.how = {}

    def __call__(self, request):
        offset, count = request.range
        place = f"bytes {offset}-{offset + count - 1}/{len(self.data)}"
        part = self.data[offset : offset + count]
        reply = http_server.Reply(206, {"Content-Range": place}, part)
        for name, value in self.how.items():
            setattr(reply, name, value)
        return reply


@pytest.fixture
def proxy(data):
    one = Proxy(data)
    with http_server.Server(one) as one.server:
        yield one


@pytest.fixture
def one(made, server, proxy, data):
    p2p = {"enable": True, "address": f"{proxy.server.host}/dadip2p"}
    return made.blob(server.repo_url(), server.put(data), p2pConfig=p2p)


def test_bytes_come_through_the_proxy(one, server, proxy, data):
    """The original asked with the resolved URL, scheme and all, behind the address."""
    server.clear()
    assert read(one, 5, 5) == data[5:10]
    assert server.requests() == []
    (asked,) = proxy.server.log()
    assert asked.target == f"/dadip2p/{server.repo_url()}/{one.digest}"


def test_resolved_url_is_what_the_proxy_is_asked_for(made, server, proxy, data):
    server.redirect()
    p2p = {"enable": True, "address": proxy.server.url + "/accelerator/"}
    one = made.blob(server.repo_url(), server.put(data), SIZE, p2pConfig=p2p)
    assert read(one, 5, 5) == data[5:10]
    (asked,) = proxy.server.log()
    assert asked.target.startswith(f"/accelerator/{server.store.url}/objects/{one.digest}?X-Sig")
    assert server.requests("store") == []


def test_token_goes_along_in_self_mode_only(made, server, proxy, data):
    server.require_basic({"me": "secret"})
    made.save_document({"auths": {server.host: entry("me", "secret")}})
    p2p = {"enable": True, "address": proxy.server.host}
    digest = server.put(data)
    read(made.blob(server.repo_url(), digest, p2pConfig=p2p), 0, 5)
    server.redirect()
    read(made.blob(server.repo_url(), digest, SIZE, p2pConfig=p2p), 0, 5)
    carried = ["authorization" in one.headers for one in proxy.server.log()]
    assert carried == [True, False]


def test_off_by_default(made, server, proxy, data):
    one = made.blob(server.repo_url(), server.put(data), p2pConfig={"address": proxy.server.host})
    read(one, 0, 5)
    assert proxy.server.log() == []


@pytest.mark.parametrize("how", [
    dict(status=500), dict(status=404), dict(status=403), dict(close=True), dict(cut_after=2),
    dict(headers={}), dict(headers={"Content-Range": "bytes 0-4/9"}), dict(status=302),
])  # fmt: skip
def test_proxy_that_fails_is_gone_past(one, server, proxy, data, how):
    proxy.how = how
    for offset in range(5):
        assert read(one, offset, 5) == data[offset : offset + 5]
    assert len(server.requests()) >= 5


def test_proxy_that_is_down_is_left_alone_for_a_while(made, server, proxy, data, clock):
    p2p = {"enable": True, "address": proxy.server.host}
    registry = made.registry(clock, p2pConfig=p2p)
    one = made.blob(server.repo_url(), server.put(data), registry=registry)
    proxy.how = dict(status=502)
    for offset in range(5):
        read(one, offset, 5)
    assert len(proxy.server.log()) == 1
    proxy.how = {}
    clock.time += health.DOWN_S + 1
    server.clear()
    assert read(one, 0, 5) == data[:5]
    assert server.requests() == []


def test_proxy_and_registry_down(one, server, proxy):
    proxy.server.stop()
    server.down()
    error = failure(read, one, 0, 5)
    assert error.kind is Kind.CONNECT
    assert server.host in str(error)


def test_address_that_is_none():
    service, _ = config.parse("f", {"p2pConfig": {"enable": True, "address": "no url"}})
    with pytest.raises(errors.ConfigError, match="p2pConfig.address: has characters"):
        blob.Registry(service)
