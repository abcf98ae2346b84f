# SPDX-License-Identifier: Apache-2.0
"""Who is believed to be the registry, and who we are to it."""

import socket
import ssl
import threading

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.registry import connection

from ..support import certificates, fault_registry
from .conftest import SIZE, entry, failure, read

Kind = errors.RegistryFailure


@pytest.fixture
def secure(authority):
    with fault_registry.FaultRegistry(authority.server_context()) as one:
        yield one


@pytest.fixture
def digest(secure, data):
    return secure.put(data)


@pytest.fixture
def trusted(made, secure, authority):
    """The authority is the host's own, as hosts.toml says."""
    made.save_hosts(secure.host, f'ca = "{authority.file}"\n')
    return made


def test_own_authority(trusted, secure, digest, data):
    one = trusted.blob(secure.repo_url(), digest)
    assert read(one, 5, 5) == data[5:10]


def test_authority_of_the_system(made, secure, digest, data, authority, monkeypatch):
    """OpenSSL's own variable stands for what the distribution installed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    assert made.blob(secure.repo_url(), digest).size() == SIZE


def test_dockers_form(made, secure, digest, authority):
    folder = made.certs_d / secure.host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(authority.file.read_bytes())
    assert made.blob(secure.repo_url(), digest).size() == SIZE


def test_certificate_of_nobody_we_know_is_refused(made, secure, digest):
    """Defect of the original: certificates were never verified."""
    error = failure(made.blob, secure.repo_url(), digest)
    assert (error.kind, error.temporary) == (Kind.TLS, False)
    assert "its certificate is not trusted" in str(error)
    assert str(error).startswith("Connection failed: https://")
    assert secure.requests() == []


def test_certificate_for_another_name_is_refused(made, authority, data):
    context = authority.server_context("other", alternatives="DNS:other.example")
    with fault_registry.FaultRegistry(context) as server:
        made.save_hosts(server.host, f'ca = "{authority.file}"\n')
        error = failure(made.blob, server.repo_url(), server.put(data))
        assert error.kind is Kind.TLS
        assert "IP address mismatch" in str(error)
        assert server.requests() == []


def test_credentials_do_not_reach_who_is_not_trusted(made, secure, digest):
    secure.require_basic({"me": "secret"})
    made.save_document({"auths": {secure.host: entry("me", "secret")}})
    failure(made.blob, secure.repo_url(), digest)
    assert secure.requests() == []


def test_everything_at_once(trusted, secure, digest, data):
    """Token server and object store of the same authority, as a private installation has them."""
    secure.require_bearer({"me": "secret"})
    secure.redirect()
    trusted.save_document({"auths": {secure.host: entry("me", "secret")}})
    one = trusted.blob(secure.repo_url(), digest)
    assert read(one, 5, 5) == data[5:10]
    assert len(secure.requests("store")) == 2


def test_password_does_not_leave_tls_for_the_token_server(trusted, secure, digest, server):
    """A realm in the clear, named by a registry that is not."""
    secure.require_bearer({"me": "secret"})
    secure.challenge(f'Bearer realm="{server.tokens.url}/token"')
    trusted.save_document({"auths": {secure.host: entry("me", "secret")}})
    error = failure(trusted.blob, secure.repo_url(), digest)
    assert error.kind is Kind.AUTH
    assert "is not https, as the registry is" in str(error)
    assert server.requests("token") == []


# ---- client certificates


@pytest.fixture
def demanding(authority):
    context = authority.server_context("demanding", clients=authority)
    with fault_registry.FaultRegistry(context) as one:
        yield one


def test_certificate_of_the_service_configuration(made, demanding, authority, data):
    certificate, key = map(str, authority.issue("our node"))
    made.save_hosts(demanding.host, f'ca = "{authority.file}"\n')
    pair = {"certFile": certificate, "keyFile": key}
    one = made.blob(demanding.repo_url(), demanding.put(data), certConfig=pair)
    assert read(one, 0, 5) == data[:5]
    assert {one.peer_certificate for one in demanding.requests()} == {"our node"}


def test_certificate_and_key_in_one_file(made, demanding, authority, data, tmp_path):
    certificate, key = authority.issue("one file")
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes() + b"x" * 10_000)
    made.save_hosts(demanding.host, f'ca = "{authority.file}"\n')
    one = made.blob(demanding.repo_url(), demanding.put(data), certConfig={"certFile": str(both)})
    assert one.size() == SIZE


def test_certificate_of_a_host(made, demanding, authority, data):
    certificate, key = authority.issue("for the host")
    lines = f'ca = "{authority.file}"\nclient = [["{certificate}", "{key}"]]\n'
    made.save_hosts(demanding.host, lines)
    made.blob(demanding.repo_url(), demanding.put(data))
    assert {one.peer_certificate for one in demanding.requests()} == {"for the host"}


def test_rotated_certificate_needs_no_restart(made, demanding, authority, data, tmp_path):
    certificate, key = authority.issue("old")
    lines = f'ca = "{authority.file}"\nclient = [["{tmp_path}/c.pem", "{tmp_path}/k.pem"]]\n'
    made.save_hosts(demanding.host, lines)
    (tmp_path / "c.pem").write_bytes(certificate.read_bytes())
    (tmp_path / "k.pem").write_bytes(key.read_bytes())
    one = made.blob(demanding.repo_url(), demanding.put(data))
    certificate, key = authority.issue("newer")
    (tmp_path / "c.pem").write_bytes(certificate.read_bytes())
    (tmp_path / "k.pem").write_bytes(key.read_bytes())
    read(one, 0, 5)
    assert [one.peer_certificate for one in demanding.requests()] == ["old", "newer"]


def test_server_that_demands_a_certificate_we_do_not_have(made, demanding, authority, data):
    made.save_hosts(demanding.host, f'ca = "{authority.file}"\n')
    error = failure(made.blob, demanding.repo_url(), demanding.put(data))
    assert error.kind in (Kind.TLS, Kind.CONNECT)
    assert demanding.requests() == []


def test_client_certificate_is_not_shown_to_the_store(made, authority, data):
    certificate, key = authority.issue("our node")
    context = authority.server_context("asking", clients=authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    with fault_registry.FaultRegistry(context) as server:
        lines = f'ca = "{authority.file}"\nclient = [["{certificate}", "{key}"]]\n'
        made.save_hosts(server.host, lines)
        server.require_bearer({}, anonymous=True)
        server.redirect()
        read(made.blob(server.repo_url(), server.put(data)), 0, 5)
        seen = {on: {one.peer_certificate for one in server.requests(on)} for on in server.kinds}
    assert seen == {"blob": {"our node"}, "token": {""}, "store": {""}}


# ---- files and servers that are not what they should be


@pytest.mark.parametrize("content, text", [
    (None, "No such file"), ("", "no certificate"), ("nonsense", "no certificate"),
])  # fmt: skip
def test_authority_file_that_cannot_be_used(made, secure, digest, tmp_path, content, text):
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    made.save_hosts(secure.host, f'ca = "{tmp_path}/ca.pem"\n')
    error = failure(made.blob, secure.repo_url(), digest)
    assert error.kind is Kind.CONFIG
    assert f"{tmp_path}/ca.pem: cannot be used as certificates of an authority" in str(error)


@pytest.mark.parametrize("content", [None, "", "nonsense", "x" * 5000])
def test_client_certificate_that_cannot_be_used(trusted, secure, digest, tmp_path, content):
    if content is not None:
        (tmp_path / "c.pem").write_text(content)
    pair = {"certFile": f"{tmp_path}/c.pem", "keyFile": ""}
    error = failure(lambda: trusted.blob(secure.repo_url(), digest, certConfig=pair))
    assert error.kind is Kind.CONFIG
    assert f"{tmp_path}/c.pem: cannot be used as a client certificate" in str(error)


def test_server_without_tls(made, server, data, monkeypatch):
    monkeypatch.setattr(connection, "CONNECT_S", 0.3)  # it may wait for a line to end
    digest = server.put(data)
    url = server.repo_url().replace("http:", "https:")
    error = failure(made.blob, url, digest)
    assert error.kind in (Kind.TLS, Kind.CONNECT, Kind.TIMEOUT)
    assert "https://" in str(error)


def test_server_that_never_finishes_its_handshake(made, monkeypatch):
    monkeypatch.setattr(connection, "CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v2/x/blobs"
        accepted = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept()))
        thread.start()
        error = failure(made.blob, url, "sha256:" + "0" * 64)
        thread.join()
        accepted[0][0].close()
    assert (error.kind, error.temporary) == (Kind.TIMEOUT, True)


def test_strangers_authority_is_not_ours(made, secure, digest, tmp_path):
    stranger = certificates.Authority(tmp_path, "stranger")
    made.save_hosts(secure.host, f'ca = "{stranger.file}"\n')
    assert failure(made.blob, secure.repo_url(), digest).kind is Kind.TLS
