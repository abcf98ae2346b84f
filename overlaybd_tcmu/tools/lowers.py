# SPDX-License-Identifier: Apache-2.0
"""Lower layers that only a registry has, for a program that runs once."""

import contextlib
import os
from typing import Iterator

from .. import config
from ..image import remote

HELP = f"for lower layers in a registry; {config.DEFAULT_PATH} if it exists"


def service_of(path: str) -> config.ServiceConfig:
    """The service configuration at path; for none the usual one, which need not exist."""
    if path or os.path.exists(config.DEFAULT_PATH):
        return config.load(path or config.DEFAULT_PATH)[0]
    return config.parse(config.DEFAULT_PATH, {})[0]


@contextlib.contextmanager
def fetched(service_config_path: str) -> Iterator[remote.Remote]:
    """What opens such layers; nothing of it is started before there is one."""
    layers = remote.Remote(service_of(service_config_path), short_lived=True)
    try:
        yield layers
    finally:
        layers.stop()
