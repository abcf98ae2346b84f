# SPDX-License-Identifier: Apache-2.0
"""
A live snapshot: the writable layer becomes the topmost read-only one, a new one takes its place.

Whoever asks has written the config of what follows: the lowers there are, then the file that is the
upper now, and a new upper. It is renamed to the config that the device was made with, so the next
start finds the new state. What the core checks is checked there; here is what only the configs
tell. The original looks at the new upper alone: a config that forgets the sealed layer is fine
until the next restart, and then what was written is gone.
"""

import logging
import os

from .. import errors
from ..ffi import native
from ..image import config, opener

log = logging.getLogger("tcmu.snapshot")


def take(image: native.Image, path: str, next_path: str) -> None:
    """path is the device's config, next_path what follows. Raises, and nothing has changed."""
    now, then = config.load(path), config.load(next_path)
    _check(now, then)
    with native.Upper(then.upper.data, then.upper.index) as upper:
        image.snapshot(upper, next_path, path)
    log.info("snapshot taken config=%s sealed=%s upper=%s", path, now.upper.data, then.upper.data)


def _check(now: config.ImageConfig, then: config.ImageConfig) -> None:
    if not now.upper.is_used or not now.data_lowers:
        reason = "a snapshot needs a writable layer above read-only ones"
        raise errors.ConfigError(now.path, "upper", reason)
    if not then.upper.is_used:
        raise errors.ConfigError(then.path, "upper", "no writable layer to go on with")
    for key in ("index", "data"):
        new = getattr(then.upper, key)
        if any(_same(new, old) for old in (now.upper.index, now.upper.data)):
            raise errors.ConfigError(then.path, f"upper.{key}", f"is in use already: {new}")
    if len(then.data_lowers) != len(now.data_lowers) + 1:
        reason = f"must be the {len(now.data_lowers)} of now and the layer that is sealed"
        raise errors.ConfigError(then.path, "lowers", reason)
    top = len(then.data_lowers) - 1
    found = opener.local_place(then.data_lowers[top])
    if not found or not _same(found, now.upper.data):
        reason = f"must be the layer that is sealed: {now.upper.data}"
        raise errors.ConfigError(then.path, f"lowers[{top}]", reason)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.abspath(one) == os.path.abspath(other)
