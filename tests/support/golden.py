# SPDX-License-Identifier: Apache-2.0
"""
The golden data: layers written by the original's own tools, with digests of what they show.

It is the folder $OVERLAYBD_GOLDEN names, or shared/golden beside the checkout. It is no part of the
repository: without it the tests that need it are skipped, and say so.
"""

import functools
import json
import os
import pathlib

import pytest

VARIABLE = "OVERLAYBD_GOLDEN"
BESIDE = pathlib.Path(__file__).resolve().parents[3] / "shared" / "golden"


def find():
    """The folder, None when it is not here. A folder that is demanded must be there."""
    demanded = os.environ.get(VARIABLE)
    place = pathlib.Path(demanded) if demanded else BESIDE
    if (place / "hashes.json").is_file():
        return place.resolve()
    if demanded:
        raise pytest.UsageError(f"${VARIABLE} is {demanded}, which has no hashes.json")
    return None


def folder():
    """The folder; skips the test when it is not here."""
    place = find()
    if place is None:
        pytest.skip(f"no golden data: neither ${VARIABLE} nor {BESIDE}")
    return place


@functools.lru_cache(maxsize=None)
def hashes():
    """hashes.json; empty without golden data, so that it can be asked while tests are collected."""
    place = find()
    return json.loads((place / "hashes.json").read_text()) if place else {"views": {}, "files": {}}


def view(name):
    """What is recorded of a view: vsize, mapped_bytes, segments, sha256."""
    folder()
    return hashes()["views"][name]


def layers_of(name):
    """Paths of a view's layers, the lowest first."""
    return [folder() / part for part in name.replace(" (alone)", "").split(" + ")]
