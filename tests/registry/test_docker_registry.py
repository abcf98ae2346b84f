# SPDX-License-Identifier: Apache-2.0
"""Against Debian's docker-registry and nginx, with tokens, TLS and an authority nobody knows."""

import hashlib
import signal
import time

import pytest

from overlaybd_tcmu import errors

from ..support import real_registry
from .conftest import SIZE, entry, failure, read

Kind = errors.RegistryFailure

pytestmark = pytest.mark.skipif(bool(real_registry.missing()), reason=real_registry.missing())


@pytest.fixture(scope="module")
def docker(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("docker-registry")
    with real_registry.DockerRegistry(folder, authority) as one:
        yield one


@pytest.fixture(scope="module")
def store(tmp_path_factory, authority, storage):
    """nginx, with what the redirecting registry stores; /whole/ is the same, ranges ignored."""
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "users").write_text("me:{PLAIN}secret\n")
    locations = f"""
        location / {{ root {storage}; }}
        location /whole/ {{ alias {storage}/; max_ranges 0; }}
        location /v2/basic/blobs/ {{
            auth_basic "who are you"; auth_basic_user_file {folder}/users; alias {folder}/blobs/;
        }}
    """
    with real_registry.Nginx(folder, authority, locations) as one:
        yield one


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return tmp_path_factory.mktemp("redirecting") / "storage"


@pytest.fixture(scope="module")
def redirecting(store, storage, authority):
    with real_registry.DockerRegistry(storage.parent, authority, store.url) as one:
        yield one


@pytest.fixture
def known(made, authority, request):
    """With the authority, and credentials, for every host there is."""
    made.save_hosts("_default", f'ca = "{authority.file}"\n')

    def save(*servers, password="secret"):
        made.save_document({"auths": {one.host: entry("me", password) for one in servers}})
        return made

    return save


def test_blob(known, docker, data):
    one = known(docker).blob(docker.repo_url("library/x"), docker.push("library/x", data))
    assert one.size() == SIZE
    assert read(one, 12_345, 54_321) == data[12_345:66_666]
    with one.stream(0, SIZE) as chunks:
        digest = hashlib.sha256(b"".join(chunks)).hexdigest()
    assert one.digest == "sha256:" + digest


def test_empty_blob(known, docker):
    assert known(docker).blob(docker.repo_url("x"), docker.push("x", b"")).size() == 0


def test_blob_that_is_not_there(known, docker, data):
    docker.push("x", data)
    error = failure(known(docker).blob, docker.repo_url("x"), "sha256:" + "0" * 64)
    assert error.kind is Kind.NOT_FOUND
    assert "answered 404 BLOB_UNKNOWN" in str(error)


def test_wrong_password(known, docker, data):
    digest = docker.push("x", data)
    error = failure(known(docker, password="wrong").blob, docker.repo_url("x"), digest)
    assert error.kind is Kind.AUTH
    assert "token server https://127.0.0.1" in str(error)


def test_without_credentials(known, docker, data):
    error = failure(known().blob, docker.repo_url("x"), docker.push("x", data))
    assert error.kind is Kind.AUTH
    assert "anonymously" in str(error)


def test_authority_that_is_not_known(made, docker, data):
    error = failure(made.blob, docker.repo_url("x"), docker.push("x", data))
    assert error.kind is Kind.TLS


def test_token_that_expires_between_two_reads(known, docker, data):
    """The registry allows 60 s on top: the token's time is over when it is issued, almost."""
    digest = docker.push("short", data)
    docker.tokens.lifetime_s = -59
    one = known(docker).blob(docker.repo_url("short"), digest)
    asked = len(docker.tokens.server.log())
    time.sleep(1.2)
    docker.tokens.lifetime_s = 300
    assert read(one, 5, 5) == data[5:10]
    assert len(docker.tokens.server.log()) == asked + 1


def test_registry_that_is_killed_and_comes_back(known, docker, data):
    one = known(docker).blob(docker.repo_url("x"), docker.push("x", data))
    docker.stop(signal.SIGKILL)
    error = failure(read, one, 0, 5)
    assert (error.kind, error.temporary) == (Kind.CONNECT, True)
    assert docker.start()
    assert read(one, 0, 5) == data[:5]


def test_redirect_to_an_object_store(known, redirecting, store, data):
    """Its bytes come from nginx, which never learns who we are."""
    digest = redirecting.push("library/x", data)
    one = known(redirecting, store).blob(redirecting.repo_url("library/x"), digest)
    assert one.size() == SIZE
    assert read(one, 1000, 100_000) == data[1000:101_000]
    mine = store.log(digest.partition(":")[2], 2)
    assert [line.partition("[")[2] for line in mine] == [
        "bytes=0-0] [-]",
        "bytes=1000-100999] [-]",
    ]


def test_object_store_that_is_down(known, redirecting, store, data):
    one = known(redirecting).blob(redirecting.repo_url("x"), redirecting.push("x", data))
    store.stop()
    try:
        error = failure(read, one, 0, 5)
    finally:
        assert store.start()
    assert (error.kind, error.temporary) == (Kind.CONNECT, True)
    assert store.host in str(error)
    assert read(one, 0, 5) == data[:5]


def test_nginx_that_ignores_ranges(known, redirecting, store, storage, data):
    digest = redirecting.push("x", data)
    value = digest.partition(":")[2]
    place = f"docker/registry/v2/blobs/sha256/{value[:2]}/{value}"
    (storage / place / digest).symlink_to("data")
    one = known().blob(f"{store.url}/whole/{place}", digest)
    assert read(one, 200_000, 100) == data[200_000:200_100]
    with one.stream(0, SIZE) as chunks:
        assert b"".join(chunks) == data


def test_basic_of_nginx(known, store, data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    (store.folder / "blobs").mkdir()
    (store.folder / "blobs" / digest).write_bytes(data)
    one = known(store).blob(f"{store.url}/v2/basic/blobs", digest)
    assert read(one, 5, 5) == data[5:10]
    wrong = known(store, password="wrong")
    error = failure(wrong.blob, f"{store.url}/v2/basic/blobs", digest)
    assert error.kind is Kind.AUTH
    assert "answered 401" in str(error)
