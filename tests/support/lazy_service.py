# SPDX-License-Identifier: Apache-2.0
"""
The cache as the daemon has it, before a registry that misbehaves on script; and fixtures of it for
the floors that import them.
"""

import contextlib
import random

import pytest

from overlaybd_tcmu import config
from overlaybd_tcmu.cache import service
from overlaybd_tcmu.image import config as image_config
from overlaybd_tcmu.image import opener, remote
from overlaybd_tcmu.registry import blob

from ..native import lazy
from . import fault_registry, leftovers

UNIT = 16384


@pytest.fixture(autouse=True)
def nothing_left():
    """Every test ends with the threads and file descriptors it began with."""
    with leftovers.none():
        yield


@pytest.fixture
def server():
    with fault_registry.FaultRegistry() as one:
        yield one


@pytest.fixture(scope="session")
def disk(seed):
    """(virtual disk, LSMT stream)"""
    return lazy.stream_of(random.Random(seed), lazy.SECTORS)


class Service:
    """A cache as the daemon has it. stop() and start() are a restart."""

    def __init__(self, server, folder, **settings):
        self.server = server
        self.folder = folder
        cache = {
            "cacheType": "file",
            "cacheDir": str(folder / "cache"),
            "refillSize": UNIT,
            **settings.pop("cacheConfig", {}),
        }
        document = {"cacheConfig": cache, "credentialConfig": {"mode": "file"}, **settings}
        self.config = config.parse("service", document)[0]
        self._images = contextlib.ExitStack()
        self.start()

    def start(self):
        self.registry = blob.Registry(self.config, hosts_folder=str(self.folder / "certs.d"))
        self.cache = service.Cache(self.config, self.registry)
        self.cache.start()
        self.remote = remote.Remote(self.config, self.cache)

    def stop(self):
        self._images.close()
        self.cache.stop()
        self.registry.close()

    def restart(self):
        self.stop()
        self.start()

    def describe(self, *digests, repository="library/x", sizes=True, **more):
        """The image config of layers that are only in the registry."""
        lowers = [{"digest": digest} for digest in digests]
        for lower, digest in zip(lowers, digests):
            if sizes and digest in self.server._blobs:
                lower["size"] = len(self.server._blobs[digest])
        document = {"repoBlobUrl": self.server.repo_url(repository), "lowers": lowers, **more}
        return image_config.parse("c.json", document)

    def open(self, *digests, **more):
        """An image of these blobs; closed by stop() unless somebody did before."""
        image = opener.open_image(self.describe(*digests, **more), remote=self.remote)
        return self._images.enter_context(image)

    @property
    def blobs(self):
        return self.folder / "cache" / "blobs"

    def data_file(self, digest):
        return self.blobs / digest.replace(":", "-")

    def used(self):
        return self.cache.store.room.used()


@pytest.fixture
def make(server, tmp_path):
    """Makes services, each with a folder of its own unless one is given; stopped at the end."""
    made = []

    def one(folder=None, **settings):
        folder = folder or tmp_path / f"service{len(made)}"
        folder.mkdir(exist_ok=True)
        made.append(Service(server, folder, **settings))
        return made[-1]

    yield one
    for lazily in made:
        with contextlib.suppress(ValueError):  # stopped already
            lazily.stop()


@pytest.fixture
def lazily(make):
    return make()
