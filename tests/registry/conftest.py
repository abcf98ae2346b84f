# SPDX-License-Identifier: Apache-2.0
"""Registries that misbehave, blobs of them, and the check that nothing is left behind."""

import base64
import concurrent.futures
import contextlib
import json
import random
import time

import pytest

from overlaybd_tcmu import config, errors
from overlaybd_tcmu.registry import blob, retry

from ..native import lazy
from ..support import certificates, fault_registry, leftovers

SIZE = 300_000


@pytest.fixture(autouse=True)
def nothing_left():
    with leftovers.none():
        yield


@pytest.fixture(scope="session")
def data():
    """What blobs are made of; no two ranges of it are alike."""
    return random.Random(7).randbytes(SIZE)


@pytest.fixture
def server():
    with fault_registry.FaultRegistry() as one:
        yield one


@pytest.fixture
def second():
    """Another registry: a mirror of the first, or a stranger."""
    with fault_registry.FaultRegistry() as one:
        yield one


class Made:
    """Registries and blobs as the daemon makes them, closed at the end of the test."""

    def __init__(self, stack, folder):
        self.stack = stack
        self.folder = folder
        self.credentials = folder / "cred.json"
        self.certs_d = folder / "certs.d"

    def registry(self, clock=retry.CLOCK, **document):
        document.setdefault("credentialConfig", {"mode": "file", "path": str(self.credentials)})
        document["registryConfig"] = {"hostsDir": str(self.certs_d)}
        service, _ = config.parse("test", document)
        one = blob.Registry(service, clock=clock)
        self.stack.callback(one.close)
        return one

    def blob(self, url, digest, size=0, registry=None, **document):
        """An open blob."""
        one = (registry or self.registry(**document)).blob(url, digest, size)
        self.stack.callback(one.close)
        one.open()
        return one

    def save_credentials(self, **auths):
        """host -> (user, password), with "_" in host for ":"."""
        self.save_document({"auths": {host: entry(*pair) for host, pair in auths.items()}})

    def save_document(self, document):
        self.credentials.write_text(json.dumps(document))
        self.credentials.chmod(0o600)

    def save_hosts(self, host, text):
        folder = self.certs_d / host
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts.toml").write_text(text)


def entry(user, password):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def made(tmp_path):
    with contextlib.ExitStack() as stack:
        yield Made(stack, tmp_path)


@pytest.fixture
def digest(server, data):
    return server.put(data)


@pytest.fixture
def one(made, server, digest):
    return made.blob(server.repo_url(), digest)


def read(one, offset, count):
    buffer = bytearray(count)
    one.pread_into(memoryview(buffer), offset)
    return bytes(buffer)


def failure(function, *arguments):
    """The RegistryError a call ends with."""
    with pytest.raises(errors.RegistryError) as caught:
        function(*arguments)
    return caught.value


class Clock(retry.Clock):
    """Time that passes only when somebody waits, or when it is told to."""

    def __init__(self):
        self.time = 1000.0
        self.waits = []

    def now(self):
        return self.time

    def wait(self, stop, seconds):
        self.waits.append(seconds)
        self.time += seconds
        return stop.is_set()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return certificates.Authority(tmp_path_factory.mktemp("authority"))


def closed_during(one, is_under_way, function, *arguments):
    """Closes a blob while a function runs: how that ended, and how many seconds later."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        job = executor.submit(function, *arguments)
        lazy.wait_for(is_under_way)
        started = time.monotonic()
        one.close()
        return job.exception(), time.monotonic() - started
