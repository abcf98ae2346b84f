# SPDX-License-Identifier: Apache-2.0
"""A pair of files, data and index: written, looked at, damaged. Paths are strings."""

import os

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import lsmt, stream, writable

SIZE = 1 << 20
SECTOR = 512
HEADER = 4096


def size(path):
    return os.stat(path).st_size


def content_of(path):
    with open(path, "rb") as file:
        return file.read()


def record_of(path):
    return lsmt.Record.parse(content_of(path)[:HEADER])


def patch(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def written(pair, *writes, **options):
    """A pair with some writes, (data, offset), closed."""
    native.create_upper(*pair, SIZE, **options)
    with native.Image([], upper=native.Upper(*pair)) as image:
        for data, offset in writes:
            image.pwrite(data, offset)


def shown(pair, lowers=(), count=SIZE):
    """What the pair shows, opened as the tools do: neither file is touched."""
    before = [content_of(path) for path in pair]
    upper = native.Upper(*pair, read_only=True)
    with native.Image([native.Layer.open(str(low)) for low in lowers], upper=upper) as image:
        data = image.pread(count, 0)
    assert [content_of(path) for path in pair] == before
    return data


def refusal(pair, read_only=False):
    """errno and text."""
    with pytest.raises(errors.NativeError) as caught:
        native.Upper(*pair, read_only).close()
    return caught.value.code, str(caught.value)


def load(pair):
    return writable.load_pair(*(stream.Memory(content_of(path)) for path in pair))
