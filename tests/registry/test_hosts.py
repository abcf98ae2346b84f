# SPDX-License-Identifier: Apache-2.0
"""containerd's certs.d: which hosts are asked, in which order, how, and what when one fails."""

import logging

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.registry import health, hostsfile, resolver, tls

from ..support import certificates, fault_registry
from .conftest import SIZE, entry, failure, read

DIGEST = "sha256:" + "0" * 64
Kind = errors.RegistryFailure


@pytest.fixture
def folder(tmp_path):
    """Writes <tmp>/<host>/hosts.toml; its folder."""

    def write(host, text, name="hosts.toml"):
        place = tmp_path / host
        place.mkdir(exist_ok=True)
        (place / name).write_text(text)
        return place

    return write


@pytest.fixture
def urls(tmp_path):
    """Where a blob of a repository is looked for."""

    def look(url="https://h/v2/a/b/blobs"):
        hosts = resolver.Resolver(str(tmp_path)).hosts(url, DIGEST)
        return [host.blob_url.replace("/" + DIGEST, "") for host in hosts]

    return look


# ---- what the files say


def test_without_a_folder_the_registry_is_asked(urls):
    assert urls() == ["https://h/v2/a/b/blobs"]
    assert urls("http://h:5000/v2/x/blobs/") == ["http://h:5000/v2/x/blobs"]
    assert urls("h:5000/v2/x/blobs") == ["https://h:5000/v2/x/blobs"]  # no scheme


def test_mirrors_come_first_in_their_order(folder, urls):
    folder("h", '[host."https://m2"]\n[host."http://m1:5000"]\n')
    assert urls() == [
        "https://m2/v2/a/b/blobs?ns=h",
        "http://m1:5000/v2/a/b/blobs?ns=h",
        "https://h/v2/a/b/blobs",
    ]


@pytest.mark.parametrize("text, expected", [
    ('server = "https://s"', ["https://s/v2/a/b/blobs?ns=h"]),
    ('server = "s:5000"', ["https://s:5000/v2/a/b/blobs?ns=h"]),
    ('server = "https://h"', ["https://h/v2/a/b/blobs"]),
    ('[host."https://m/sub"]', ["https://m/sub/v2/a/b/blobs?ns=h", "https://h/v2/a/b/blobs"]),
    ('[host."https://m/v2/"]', ["https://m/v2/a/b/blobs?ns=h", "https://h/v2/a/b/blobs"]),
    ('[host."https://m/p//q/"]\noverride_path = true',
     ["https://m/p/q/a/b/blobs?ns=h", "https://h/v2/a/b/blobs"]),
    ('[host."https://m"]\noverride_path = true',
     ["https://m/a/b/blobs?ns=h", "https://h/v2/a/b/blobs"]),
    ('[host."https://m"]\ncapabilities = ["resolve"]', ["https://h/v2/a/b/blobs"]),
    ('[host."https://m"]\ncapabilities = ["Pull"]',
     ["https://m/v2/a/b/blobs?ns=h", "https://h/v2/a/b/blobs"]),
    ('capabilities = ["resolve"]\n[host."https://m"]', ["https://m/v2/a/b/blobs?ns=h"]),
    ("", ["https://h/v2/a/b/blobs"]),
    ('future_key = 5\n[host."https://m"]\ndial_timeout = "1s"',
     ["https://m/v2/a/b/blobs?ns=h", "https://h/v2/a/b/blobs"]),
])  # fmt: skip
def test_file(folder, urls, text, expected):
    folder("h", text)
    assert urls() == expected


@pytest.mark.parametrize("name, url", [
    ("h_5000_", "https://h:5000/v2/a/b/blobs"),
    ("h:5000", "https://h:5000/v2/a/b/blobs"),
    ("h", "https://h/v2/a/b/blobs"),
    ("h_443_", "https://h:443/v2/a/b/blobs"),
    ("_default", "https://h/v2/a/b/blobs"),
    ("docker.io", "https://registry-1.docker.io/v2/a/b/blobs"),
    ("h", "https://H/v2/a/b/blobs"),
])  # fmt: skip
def test_name_of_the_folder(folder, urls, name, url):
    folder(name, '[host."https://m"]')
    assert len(urls(url)) == 2


def test_folder_of_a_host_comes_before_the_default(folder, urls):
    folder("_default", '[host."https://default"]')
    folder("h", "")
    assert urls() == ["https://h/v2/a/b/blobs"]


def test_docker_hub_goes_by_its_own_name(folder, urls):
    folder("docker.io", 'server = "https://registry-1.docker.io"\n[host."https://m"]')
    assert urls("https://registry-1.docker.io/v2/library/x/blobs") == [
        "https://m/v2/library/x/blobs?ns=docker.io",
        "https://registry-1.docker.io/v2/library/x/blobs",
    ]


def test_place_that_is_no_repository_has_no_mirrors(folder, urls):
    folder("h", '[host."https://m"]')
    assert urls("https://h/some/folder") == ["https://h/some/folder"]


def test_no_host_left(folder, urls):
    folder("h", 'capabilities = ["resolve"]')
    with pytest.raises(errors.RegistryError, match="leaves no host") as caught:
        urls()
    assert caught.value.kind is Kind.CONFIG


@pytest.mark.parametrize("text, said", [
    ("server = ", "Invalid value"),
    ("host = 5", "host: must be a table"),
    ('[host]\nm = "x"', 'host."m": must be a table'),
    ("server = 5", "server: must be a string"),
    ('server = "ftp://secret"', "server: the URL is neither http nor https"),
    ('server = "http://u:secret@h"', "server: the URL has more than scheme, host and path"),
    ('[host."https://m x"]', 'host."https://m x".: the URL has characters'),
    ('capabilities = ["fly"]', "capabilities: unknown: fly"),
    ("capabilities = 5", "capabilities: must be a string or an array of strings"),
    ('[host."https://m"]\nskip_verify = "secret"', 'host."https://m".skip_verify: must be true or'),
    ("ca = 5", "ca: must be"),
    ("client = 5", "client: must be a file, files, or pairs"),
    ('client = [["a", "b", "c"]]', "client: must be a file"),
    ("header = 5", "header: must be a table"),
    ("header = {x = 5}", "header.x: must be a string"),
    ('header = {x = "secret\\r\\nY: z"}', "header: a name or value has impossible characters"),
    ('header = {"x y" = "secret"}', "header: a name or value has impossible characters"),
])  # fmt: skip
def test_wrong_file_is_logged_and_passed_over(folder, urls, caplog, text, said):
    """As containerd does: what it can pull, we can serve."""
    place = folder("h", text)
    for _ in range(3):
        assert urls() == ["https://h/v2/a/b/blobs"]
    (first, *_) = [record.getMessage() for record in caplog.records]
    assert str(place / "hosts.toml") in first and said in first
    assert "secret" not in caplog.text.replace("ftp://secret", "")


def test_file_is_read_once_and_again_when_it_changed(folder, tmp_path, caplog):
    place = folder("h", 'server = "https://one"')
    one = resolver.Resolver(str(tmp_path))

    def first():
        return one.hosts("https://h/v2/x/blobs", DIGEST)[0].origin

    assert first() == first() == "https://one"
    folder("h", 'server = "https://another"')
    assert first() == "https://another"
    folder("h", "[")
    assert first() == first() == "https://h"
    assert len(caplog.records) == 1
    (place / "hosts.toml").unlink()
    assert first() == "https://h"


def test_certificates(folder, tmp_path):
    folder("h", '''
        ca = "/etc/ca.pem"
        [host."https://m"]
          ca = ["a.pem", "/b.pem"]
          client = [["c.pem", "k.pem"], ["d.pem", ""]]
          skip_verify = true
        [host."https://n"]
          client = "one.pem"
        [host."https://o"]
          client = ["one.pem", "two.pem"]
    ''')  # fmt: skip
    hosts = hostsfile.Folder(str(tmp_path)).look_up("h")

    def inside(*names):
        return tuple(str(tmp_path / "h" / name) if name else "" for name in names)

    m, n, o = (one.trust for one in hosts.mirrors)
    assert m.ca_files == (*inside("a.pem"), "/b.pem") and m.skip_verify
    assert m.certificates == (inside("c.pem", "k.pem"), inside("d.pem", ""))
    assert n == tls.Tls(certificates=(inside("one.pem", ""),))
    assert o.certificates == (inside("one.pem", ""), inside("two.pem", ""))
    assert hosts.server.trust == tls.Tls(ca_files=("/etc/ca.pem",))


def test_dockers_form_where_there_is_no_file(folder, tmp_path, caplog):
    for name in ("x.crt", "y.crt", "c.cert", "c.key", "lost.cert", "readme"):
        folder("h", "", name)
    found = hostsfile.Folder(str(tmp_path)).look_up("h").server.trust
    names = [name.rpartition("/")[2] for name in found.ca_files]
    assert names == ["x.crt", "y.crt"]
    assert [pair[0].rpartition("/")[2] for pair in found.certificates] == ["c.cert"]
    assert "lost.cert" in caplog.text


def test_certificate_of_the_service_configuration_is_for_hosts_without_their_own(folder, tmp_path):
    folder("h", '[host."https://m"]\nclient = "own.pem"')
    one = resolver.Resolver(str(tmp_path), (("service.pem", "service.key"),))
    pairs = [host.trust.certificates for host in one.hosts("https://h/v2/x/blobs", DIGEST)]
    assert pairs == [((str(tmp_path / "h/own.pem"), ""),), (("service.pem", "service.key"),)]


# ---- real mirrors


@pytest.fixture
def digest(server, second, data):
    server.put(data)
    return second.put(data)


@pytest.fixture
def mirrored(made, server, second, digest):
    """A blob of `server` with `second` as its mirror."""
    made.save_hosts(server.host, f'[host."{second.registry.url}"]\n')
    return made.blob(server.repo_url("a/b"), digest)


def test_mirror_is_asked_and_told_whose_blob_it_is(mirrored, server, second, data):
    assert read(mirrored, 5, 5) == data[5:10]
    assert server.requests() == []
    assert second.requests()[0].path.startswith("/v2/a/b/blobs/")
    assert second.requests()[0].query == {"ns": [server.host]}


def test_headers_are_sent_to_their_host_only(made, server, second, digest, data):
    lines = f'[host."{second.registry.url}".header]\nx-token = ["one", "two"]\n'
    made.save_hosts(server.host, lines)
    one = made.blob(server.repo_url(), digest)
    second.down()
    read(one, 0, 10)
    assert second.requests()[0].headers["x-token"] == "one, two"
    assert "x-token" not in server.requests()[0].headers


def test_credentials_are_each_hosts_own(made, server, second, digest, data):
    server.require_basic({"me": "server's"})
    second.require_basic({"me": "mirror's"})
    made.save_hosts(server.host, f'[host."{second.registry.url}"]\n')
    auths = {server.host: entry("me", "server's"), second.host: entry("me", "mirror's")}
    made.save_document({"auths": auths})
    one = made.blob(server.repo_url(), digest)
    second.down()
    assert read(one, 0, 5) == data[:5]
    for asked, other in ((server, "mirror's"), (second, "server's")):
        text = str([request.headers for request in asked.requests()])
        assert entry("me", other)["auth"] not in text


FAILURES = {
    "down": None,
    "404": dict(status=404),
    "401": dict(status=401),
    "403": dict(status=403),
    "429": dict(status=429),
    "500": dict(status=500),
    "closes": dict(close=True),
    "another size": dict(content_range="bytes 5-9/1"),
    "another blob": dict(headers={"Docker-Content-Digest": DIGEST}),
    "cut short": dict(cut_after=2),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("when", ["opening", "reading"])
def test_failing_mirror_is_passed_over(made, server, second, data, digest, name, when):
    made.save_hosts(server.host, f'[host."{second.registry.url}"]\n')
    one = made.blob(server.repo_url(), digest) if when == "reading" else None
    if FAILURES[name] is None:
        second.down()
    else:
        second.fault(times=None, **FAILURES[name])
    one = one or made.blob(server.repo_url(), digest)
    assert one.size() == SIZE
    assert read(one, 5, 5) == data[5:10]
    server.clear()
    second.clear()
    assert read(one, 6, 5) == data[6:11]
    assert second.requests() == []  # not asked first any more


def test_mirror_that_is_back_is_asked_again(made, server, second, digest, clock):
    made.save_hosts(server.host, f'[host."{second.registry.url}"]\n')
    one = made.blob(server.repo_url(), digest, registry=made.registry(clock))
    second.down()
    read(one, 0, 5)
    second.up()
    read(one, 0, 5)
    assert len(server.ranges(digest)) == 3
    clock.time += health.DOWN_S + 1
    read(one, 0, 5)
    assert len(server.ranges(digest)) == 3


def test_mirror_known_to_be_down_is_not_tried_for_the_next_blob(made, server, second, data):
    digests = [server.put(data + bytes([number])) for number in range(3)]
    made.save_hosts(server.host, f'[host."{second.registry.url}"]\n')
    registry = made.registry()
    second.fault(status=500, times=None)
    for digest in digests:
        made.blob(server.repo_url(), digest, registry=registry)
    assert len(second.requests()) == 1


def test_all_that_failed_is_told(made, server, second, data, digest):
    made.save_hosts(server.host, f'[host."{second.registry.url}"]\n')
    second.down()
    server.fault(status=404, times=None)
    error = failure(made.blob, server.repo_url(), digest)
    assert error.kind is Kind.NOT_FOUND  # the registry's own word counts
    assert error.temporary  # but the mirror may come back
    assert f"{second.host}: Connection refused; {server.registry.url}" in error.cause
    assert str(error).startswith("No such file or directory: ")


@pytest.mark.parametrize(
    "mirror, own, expected", [("9", "5", 5.0), ("5", "9", 5.0), (None, "9", None)]
)
def test_when_to_ask_again_is_when_the_first_of_them_may_be(
    made, server, second, digest, mirror, own, expected
):
    made.save_hosts(server.host, f'[host."{second.registry.url}"]\n')
    after = {"Retry-After": mirror} if mirror else {}
    second.fault(status=429 if mirror else 500, headers=after, times=None)
    server.fault(status=429, headers={"Retry-After": own}, times=None)
    error = failure(made.blob, server.repo_url(), digest)
    assert (error.kind, error.retry_after_s) == (Kind.THROTTLED, expected)


def test_own_authority_of_a_mirror(made, server, digest, data, authority, caplog):
    """And a stranger's certificate is not believed: that mirror is passed over."""
    caplog.set_level(logging.INFO)
    with fault_registry.FaultRegistry(authority.server_context("mirror")) as mirror:
        mirror.put(data)
        made.save_hosts(server.host, f'[host."{mirror.registry.url}"]\nca = "{authority.file}"\n')
        assert read(made.blob(server.repo_url(), digest), 0, 5) == data[:5]
        assert len(mirror.requests()) == 2
        made.save_hosts(server.host, f'[host."{mirror.registry.url}"]\n')
        assert read(made.blob(server.repo_url(), digest), 0, 5) == data[:5]
        assert len(mirror.requests()) == 2
        assert "its certificate is not trusted" in caplog.text


def test_skip_verify_is_said_and_only_for_that_host(made, server, digest, data, tmp_path, caplog):
    stranger = certificates.Authority(tmp_path, "stranger")
    with fault_registry.FaultRegistry(stranger.server_context("mirror")) as mirror:
        mirror.put(data)
        made.save_hosts(server.host, f'[host."{mirror.registry.url}"]\nskip_verify = true\n')
        assert read(made.blob(server.repo_url(), digest), 0, 5) == data[:5]
        assert len(mirror.requests()) == 2
        assert caplog.text.count("certificate not verified") == 1
        direct = failure(made.blob, mirror.repo_url(), digest)
    assert direct.kind is Kind.TLS
