# SPDX-License-Identifier: Apache-2.0
"""Where credentials come from, which of them are for whom, and that none is ever shown."""

import json
import logging
import os
import stat
import time

import pytest

from overlaybd_tcmu import config
from overlaybd_tcmu.registry import client, credentials, dockerconfig, health

from ..support import certificates, http_server
from .conftest import entry

HUB = "registry-1.docker.io"


@pytest.fixture
def http():
    one = client.Client("test/1", health.Health())
    yield one
    one.close()


@pytest.fixture
def find(http):
    """What a credentialConfig has for a repository: (user, password), or why it has none."""

    def ask(host, repository="a/b", url="https://h/v2/a/b/blobs/sha256:0", **settings):
        one = credentials.Credentials(config.CredentialConfig(**settings), http)
        found = one.find(host, repository, url)
        if found.credential is None:
            return found.reason
        return found.credential.user, found.credential.password

    return ask


# ---- the docker config format


def matched(auths, host, repository="a/b"):
    """The entry that is for a repository."""
    document = {"auths": {key: entry("x", key) for key in auths}}
    found = dockerconfig.find(document, host, repository, "f")
    return found and found.password


@pytest.mark.parametrize("auths, host, repository, expected", [
    (["h"], "h", "a/b", "h"),
    (["h", "h/a"], "h", "a/b", "h/a"),
    (["h/a", "h", "h/a/b"], "h", "a/b", "h/a/b"),
    (["h", "h/a/bc"], "h", "a/b", "h"),
    (["h/a/b/c"], "h", "a/b", None),
    (["h:5000"], "h:5000", "a/b", "h:5000"),
    (["h"], "h:5000", "a/b", None),
    (["h:5000"], "h", "a/b", None),
    (["https://h"], "h", "a/b", "https://h"),
    (["https://h/v2/"], "h", "a/b", "https://h/v2/"),
    (["http://h/a/"], "h", "a/b", "http://h/a/"),
    (["H.example"], "h.example", "a/b", "H.example"),
    (["https://index.docker.io/v1/"], HUB, "a/b", "https://index.docker.io/v1/"),
    (["docker.io"], HUB, "a/b", "docker.io"),
    (["docker.io/a", "docker.io"], HUB, "a/b", "docker.io/a"),
    ([HUB], HUB, "a/b", HUB),
    (["hub.docker.com"], HUB, "a/b", None),
    (["xh"], "h", "a/b", None),
    ([], "h", "a/b", None),
])  # fmt: skip
def test_longest_entry_matches(auths, host, repository, expected):
    """In the original the first one of the file did, and Docker Hub's names never."""
    assert matched(auths, host, repository) == expected


@pytest.mark.parametrize("value, expected", [
    (entry("u", "p:q"), ("u", "p:q", "")),
    ({"username": "u", "password": "p"}, ("u", "p", "")),
    ({**entry("u", "p"), "username": "x", "password": "y"}, ("u", "p", "")),
    ({"identitytoken": "t"}, ("", "", "t")),
    ({**entry("u", ""), "identitytoken": "t"}, ("u", "", "t")),
    (entry("\u00e4", "\u00f6"), ("\u00e4", "\u00f6", "")),
    ({}, None),
    ({"auth": ""}, None),
    ({"email": "e"}, None),
])  # fmt: skip
def test_entry(value, expected):
    found = dockerconfig.find({"auths": {"h": value}}, "h", "r", "f")
    assert (found and (found.user, found.password, found.identity_token)) == expected


@pytest.mark.parametrize("document, text", [
    ([], "f: must be an object"),
    ({"auths": []}, "f: auths must be an object") ,
    ({"auths": [1]}, "f: auths must be an object"),
    ({"auths": {"h": "secret"}}, 'entry "h" of f: must be an object'),
    ({"auths": {"h": {"auth": "c2VjcmV0"}}}, 'entry "h" of f: auth decodes to something without a'),
    ({"auths": {"h": {"auth": "/w=="}}}, 'entry "h" of f: auth is not base64 of text'),
    ({"auths": {"h": {"auth": "secret"}}}, 'entry "h" of f: auth is not base64 of text'),
    ({"auths": {"h": {"username": "secret", "password": 1}}}, 'entry "h" of f: has something else'),
    ({"credHelpers": {"h": "../secret"}}, "credHelpers of f: not the name of a helper"),
    ({"credHelpers": {"h": 5}}, "credHelpers of f: not the name of a helper"),
    ({"credsStore": "a b"}, "credsStore of f: not the name of a helper"),
])  # fmt: skip
def test_wrong_document_is_named_and_not_quoted(document, text):
    if document == {"auths": []}:
        assert dockerconfig.find(document, "h", "r", "f") is None  # PHP writes {} so
        return
    with pytest.raises(dockerconfig.Unusable) as caught:
        dockerconfig.find(document, "h", "r", "f")
    assert text in str(caught.value)
    assert "secret" not in str(caught.value).replace("../secret", "")
    assert caught.value.__cause__ is None


def test_wrong_entry_does_not_hide_a_shorter_one():
    document = {"auths": {"h/a": {"auth": "c2VjcmV0"}, "h": entry("u", "p")}}
    assert dockerconfig.find(document, "h", "a/b", "f").user == "u"


# ---- helper programs


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Writes docker-credential-<name>; it finds what it is asked for in $ASKED."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(script, name="test"):
        path = folder / f"docker-credential-{name}"
        path.write_text("#!/bin/sh\nASKED=$(cat)\n" + script)
        path.chmod(0o755)
        return path

    return write


ANSWER = """echo '{"ServerURL":"'$ASKED'","Username":"u '$1'","Secret":"p '$ASKED'"}'"""


@pytest.mark.parametrize("document, host, password", [
    ({"credHelpers": {"h": "test"}}, "h", "p h"),
    ({"credHelpers": {"h": "test"}, "auths": {"h": entry("x", "y")}}, "h", "p h"),
    ({"credHelpers": {"docker.io": "test"}}, HUB, "p https://index.docker.io/v1/"),
    ({"credsStore": "test"}, "h:5000", "p h:5000"),
    ({"credsStore": "test", "auths": {"h": {}}}, "h", "p h"),
    ({"credsStore": "test", "auths": {"h": entry("x", "own")}}, "h", "own"),
    ({"credHelpers": {"other": "none"}, "auths": {"h": entry("x", "own")}}, "h", "own"),
])  # fmt: skip
def test_helper_is_asked(helper, document, host, password):
    helper(ANSWER)
    assert dockerconfig.find(document, host, "a/b", "f").password == password


def test_helper_is_asked_with_get(helper):
    helper(ANSWER)
    assert dockerconfig.find({"credsStore": "test"}, "h", "r", "f").user == "u get"


def test_helper_may_give_an_identity_token(helper):
    helper("""echo '{"Username":"<token>","Secret":"t"}'""")
    found = dockerconfig.find({"credsStore": "test"}, "h", "r", "f")
    assert (found.identity_token, found.password) == ("t", "")


def test_helper_that_knows_nothing(helper):
    helper("echo credentials not found in native keychain; exit 1")
    assert dockerconfig.find({"credsStore": "test"}, "h", "r", "f") is None


@pytest.mark.parametrize("script, text", [
    ("echo secret; exit 3", "failed with exit status 3"),
    ("echo secret", "answered something else than credentials"),
    ("echo '[]'", "answered something else than credentials"),
    ("""echo '{"Username":1,"Secret":"secret"}'""", "answered something else"),
    ("head -c 100000 /dev/zero", "answered more than"),
    ("sleep 60 & sleep 60", "gave no answer in 0 s"),
])  # fmt: skip
def test_helper_that_fails(helper, monkeypatch, script, text):
    monkeypatch.setattr(dockerconfig, "HELPER_S", 0.3 if "sleep" in script else 10)
    helper(script)
    with pytest.raises(dockerconfig.Unusable) as caught:
        dockerconfig.find({"credsStore": "test"}, "h", "r", "f")
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


def test_helper_that_is_missing():
    with pytest.raises(dockerconfig.Unusable, match="cannot be run: No such file"):
        dockerconfig.find({"credsStore": "none-such"}, "h", "r", "f")


# ---- mode "file"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "cred.json"
    path.write_text(json.dumps({"auths": {"h": entry("u", "p")}}))
    path.chmod(0o600)
    return path


def test_file(find, file):
    assert find("h", mode="file", path=str(file)) == ("u", "p")
    assert find("other", mode="file", path=str(file)) == f'nothing for "other/a/b" in {file}'


def test_file_is_read_anew(find, file, http):
    one = credentials.Credentials(config.CredentialConfig(mode="file", path=str(file)), http)
    one.find("h", "r", "")
    file.write_text(json.dumps({"auths": {"h": entry("new", "p")}}))
    assert one.find("h", "r", "").credential.user == "new"


def test_missing_file_is_anonymous_and_said_once(http, tmp_path, caplog):
    settings = config.CredentialConfig(mode="file", path=str(tmp_path / "none"))
    one = credentials.Credentials(settings, http)
    for _ in range(3):
        found = one.find("h", "r", "")
        assert (found.credential, found.temporary) == (None, False)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not exist, so requests are anonymous" in caplog.text


def test_no_path_is_anonymous(find, caplog):
    assert find("h", mode="file", path="") == "no credentials are configured"
    assert caplog.text == ""


@pytest.mark.parametrize("text, reason", [
    ("{", "is not JSON"), ("\xff", "is not JSON: not text"), ("", "is not JSON"),
    ("[" * 100_000, "is not JSON"), (" " * ((1 << 20) + 1), "more than 1048576 bytes"),
    ("[]", "must be an object"),
])  # fmt: skip
def test_file_that_cannot_be_used(find, file, text, reason):
    file.write_bytes(text.encode("latin-1"))
    found = find("h", mode="file", path=str(file))
    assert found.startswith(str(file)) and reason in found


def test_folder_instead_of_a_file(find, tmp_path):
    assert "cannot be read: Is a directory" in find("h", mode="file", path=str(tmp_path))


@pytest.mark.parametrize("mode, warned", [
    (0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o644, True), (0o622, True),
])  # fmt: skip
def test_permissions_are_warned_about_once(file, http, caplog, mode, warned):
    file.chmod(mode)
    one = credentials.Credentials(config.CredentialConfig(mode="file", path=str(file)), http)
    for _ in range(3):
        assert one.find("h", "r", "").credential.user == "u"
    lines = [record.getMessage() for record in caplog.records]
    expected = f"credentials {file}: its mode {mode:04o} lets others in; chmod 600 {file}"
    assert lines == ([expected] if warned else [])
    assert stat.S_IMODE(file.stat().st_mode) == mode


# ---- modes "http", "https" and "uds"

URL = "https://h:5000/v2/a/b/blobs/sha256:00"


class Service:
    """What the original's credential service is like."""

    def __init__(self):
        self.reply = http_server.Reply(200, {}, self.document({"h": entry("u", "p")}))

    def __call__(self, request):
        self.request = request
        return self.reply

    @staticmethod
    def document(auths, success=True):
        answer = {"traceId": "x", "success": success, "data": {"auths": auths}}
        return json.dumps(answer).encode()


@pytest.fixture
def service():
    return Service()


def test_http(find, service):
    with http_server.Server(service) as server:
        path = server.url + "/auth"
        assert find("h", url=URL, mode="http", path=path) == ("u", "p")
        assert service.request.target == f"/auth?remote_url={URL}"  # unescaped, as ever
        assert find("x", url=URL, mode="http", path=path + "?a=b").startswith("nothing for")
        assert service.request.target == f"/auth?a=b&remote_url={URL}"


def test_uds(find, service, tmp_path):
    path = str(tmp_path / "socket")
    with http_server.Server(service, unix=path):
        assert find("h", url=URL, mode="uds", path=path) == ("u", "p")
    assert service.request.target == f"/auth?remote_url={URL}"
    assert service.request.headers["host"] == "localhost"


@pytest.mark.parametrize("how, reason", [
    (dict(status=500), "answered 500"),
    (dict(status=404), "answered 404"),
    (dict(status=302, headers={"Location": "http://other/"}), "answered 302"),
    (dict(body=b"{}"), "answered without success"),
    (dict(body=b"[]"), "answered without success"),
    (dict(body=Service.document({}, False)), "answered without success"),
    (dict(body=b'{"success": true, "data": null}'), "nothing for"),
    (dict(body=b'{"success": true, "data": 5}'), "must be an object"),
    (dict(body=b"secret"), "is not JSON"),
    (dict(body=b"x" * (2 << 20)), "more than 1048576 bytes"),
    (dict(close=True), "the connection was closed"),
])  # fmt: skip
@pytest.mark.parametrize("mode", ["http", "uds"])
def test_service_that_fails(find, service, tmp_path, caplog, mode, how, reason):
    unix = str(tmp_path / "socket") if mode == "uds" else ""
    for name, value in how.items():
        setattr(service.reply, name, value)
    with http_server.Server(service, unix=unix) as server:
        found = find("h", mode=mode, path=unix or server.url, timeout_s=1)
    assert reason in found
    assert (unix or server.url) in found
    assert "secret" not in caplog.text


@pytest.mark.parametrize("mode, how", [
    ("http", dict(stall_after=10)), ("http", dict(delay_s=30)), ("uds", dict(drip_s=0.3)),
])  # fmt: skip
def test_service_that_does_not_answer_in_time(find, service, tmp_path, mode, how):
    unix = str(tmp_path / "socket") if mode == "uds" else ""
    service.reply = http_server.Reply(200, {}, service.reply.body, **how)
    with http_server.Server(service, unix=unix) as server:
        started = time.monotonic()
        found = find("h", mode=mode, path=unix or server.url, timeout_s=1)
    assert "in time" in found or "not done within 1 s" in found
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("mode, path, reason", [
    ("http", "http://127.0.0.1:1/", "Connection refused"),
    ("uds", "/none/such", "No such file"),
    ("http", "no url", "credentialConfig.path has characters"),
    ("https", "", "no credentials are configured"),
])  # fmt: skip
def test_service_that_is_not_there(find, mode, path, reason):
    assert reason in find("h", mode=mode, path=path)


def test_https_with_a_pinned_authority_and_a_client_certificate(find, service, authority):
    context = authority.server_context("service", clients=authority)
    certificate, key = authority.issue("the daemon")
    with http_server.Server(service, tls=context) as server:
        found = find(
            "h",
            mode="https",
            path=server.url,
            server_ca_path=str(authority.file),
            client_cert_path=str(certificate),
            client_key_path=str(key),
        )
    assert found == ("u", "p")
    assert service.request.peer_certificate == "the daemon"


def test_https_of_another_authority_is_not_believed(find, service, authority, tmp_path):
    other = certificates.Authority(tmp_path, "another authority")
    with http_server.Server(service, tls=other.server_context()) as server:
        pinned = dict(mode="https", path=server.url, server_ca_path=str(authority.file))
        assert "certificate" in find("h", **pinned)
        assert "certificate" in find("h", mode="https", path=server.url)
    assert not hasattr(service, "request")


def test_https_without_its_client_certificate_file(find, authority):
    pinned = dict(server_ca_path=str(authority.file), client_cert_path="/none/such")
    found = find("h", mode="https", path="https://127.0.0.1:1/", **pinned)
    assert "/none/such: cannot be used as a client certificate" in found


def test_source_is_logged_and_the_secret_is_not(find, file, caplog):
    caplog.set_level(logging.DEBUG)
    find("h", mode="file", path=str(file))
    assert f'entry "h" of {file}' in caplog.text
    text = caplog.text + repr(dockerconfig.find(json.loads(file.read_text()), "h", "r", "f"))
    for secret in ("'u'", "'p'", "u:p", entry("u", "p")["auth"]):
        assert secret not in text
