# SPDX-License-Identifier: Apache-2.0
"""The real daemon with its API and exporter on, devices that do work, and a client."""

import contextlib
import http.client
import json
import re
import socket
import time

import pytest

from overlaybd_tcmu.ffi import native

from ..daemon.conftest import fake_libtcmu, service  # noqa: F401  fixtures
from ..native import tcmu_device as scsi
from ..support import fault_registry, layers

CLUSTERS = 4
IMPATIENT = (
    "import sys; from overlaybd_tcmu import daemon; from overlaybd_tcmu.ops import sampler;"
    " sampler.HUNG_S = 0.05; sys.exit(daemon.main(sys.argv[1:]))"
)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


class Daemon:
    """A started service, and how to talk to it."""

    def __init__(self, service):  # noqa: F811
        self.service = service
        self.folder = service.folder
        self.socket = str(service.folder / "api.sock")
        self.kernels = []

    def start(self, api=None, exporter=None, program=("-m", "overlaybd_tcmu.daemon"), **more):
        """The API on a unix socket, the exporter on a port the kernel chooses."""
        self.service.configure(
            serviceConfig=dict({"enable": True, "address": f"unix://{self.socket}"}, **(api or {})),
            exporterConfig=dict({"enable": True, "port": 0}, **(exporter or {})),
            **more,
        )
        self.service.start(program)

    def port(self, name):
        """Where a server of the daemon listens."""
        pattern = rf"listening name={name} address=http://\S+:(\d+)"
        return int(re.search(pattern, self.service.log()).group(1))

    # ---- devices

    def image(self, name="1", picture="AB-C", writable=False):
        """The path of the config of a new image."""
        folder = self.folder / name
        folder.mkdir()
        layers.write_picture(folder / "layer", picture)
        config = {"lowers": [{"file": str(folder / "layer")}]}
        if writable:
            config["upper"] = self.upper(name, "upper")
        (folder / "config.v1.json").write_text(json.dumps(config))
        return folder / "config.v1.json"

    def lazy_image(self, server, *streams, name="lazy", **more):
        """The path of the config of an image whose layers are in a registry, lowest first."""
        folder = self.folder / name
        folder.mkdir()
        lowers = [{"digest": server.put(one), "size": len(one)} for one in streams]
        for number, lower in enumerate(lowers):
            lower["dir"] = str(folder / str(number))
            (folder / str(number)).mkdir()
        config = {"repoBlobUrl": server.repo_url(), "lowers": lowers, **more}
        (folder / "config.v1.json").write_text(json.dumps(config))
        return folder / "config.v1.json"

    def cache(self, **more):
        """Settings of a cache of its own, with small units."""
        folder = str(self.folder / "cache")
        return {"cacheType": "file", "cacheDir": folder, "refillSize": 16384, **more}

    def upper(self, name, stem):
        """The two files of a new writable layer, as a config names them."""
        paths = {key: str(self.folder / name / f"{stem}.{key}") for key in ("data", "index")}
        native.create_upper(paths["data"], paths["index"])
        return paths

    def add(self, config, device_id=""):
        """The kernel's side of a new device."""
        number = self.service.add(config, device_id)
        assert number >= 0, self.service.log()
        kernel = self.service.attach(number)
        self.kernels.append(kernel)
        return kernel

    # ---- requests

    def ask(self, path, method="GET", body=None, headers=None):
        """(status, answer) of the API; JSON is decoded."""
        with contextlib.closing(UnixConnection(self.socket)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            if answer.getheader("Content-Type") == "application/json" and content:
                content = json.loads(content)
            return answer.status, content

    def get(self, path):
        status, answer = self.ask(path)
        assert status == 200, answer
        return answer

    def scrape(self, path="/metrics", headers=None):
        """(status, content type, text) of the exporter."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port("metrics"), timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type"), answer.read().decode()

    def close(self):
        for kernel in self.kernels:
            kernel.close()


def read(kernel, lba=0, blocks=8):
    """One read to its end: the answer."""
    number = kernel.queue(scsi.read_10(lba, blocks), blocks * 512)
    kernel.kick()
    return kernel.answers(1)[number]


def write(kernel, data, lba=0):
    """One write to its end."""
    cdb = bytes([0x2A, 0]) + lba.to_bytes(4, "big") + b"\0" + (len(data) // 512).to_bytes(2, "big")
    number = kernel.queue(cdb + b"\0", data=data)
    kernel.kick()
    answer = kernel.answers(1)[number]
    assert answer.status == 0
    return answer


def flush(kernel):
    """SYNCHRONIZE CACHE."""
    number = kernel.queue(bytes([0x35] + [0] * 9))
    kernel.kick()
    return kernel.answers(1)[number]


def until(look):
    """What look() says once it is true; the test's time limit ends it otherwise."""
    while True:
        found = look()
        if found:
            return found
        time.sleep(0.01)


@pytest.fixture
def server():
    """A registry."""
    with fault_registry.FaultRegistry() as one:
        yield one


@pytest.fixture
def daemon(service):  # noqa: F811
    one = Daemon(service)
    yield one
    one.close()
