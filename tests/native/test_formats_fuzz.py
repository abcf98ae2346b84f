# SPDX-License-Identifier: Apache-2.0
"""
Layers with bytes changed at random: they open or they do not, and nothing crashes. Under the
sanitizers this is what shows a read or a write beyond a buffer. The plain reader is given the same
bytes: both refuse with the same errno, or both read the same.
"""

import contextlib
import errno
import struct

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import layer as model
from overlaybd_tcmu.formats import stream as streams
from overlaybd_tcmu.formats import tar, view, zfile

from ..support import native_test
from . import raw_layers as raw

CASES = 700
MODEL_EVERY = 4  # it reads a hundred times slower
READ_MAX = 1 << 20
DATA = b"".join(struct.pack("<Q", number * number) for number in range(4096))
LSMT = raw.lsmt(
    DATA,
    raw.entry(0, 30, 8) + raw.entry(40, 3, 38, zeroed=1) + raw.entry(50, 34, 38),
    gap=bytes(64),
)
# Without checksums more of what is changed gets past the first look.
KINDS = {
    "lsmt": LSMT,
    "lz4": raw.zfile(LSMT, flags=0),
    "lz4 unverified": raw.zfile(LSMT, flags=0, verify=0),
    "lz4 final": raw.zfile(LSMT, flags=0, verify=0, final=True, block_size=512),
    "zstd": raw.zfile(LSMT, flags=0, algo=raw.ZSTD, verify=0, block_size=16384),
    "tar": raw.pax_tar(raw.zfile(LSMT, flags=0)),
}
EDGES = (0, 1, 0x7F, 0x80, 0xFF)
WORDS = (0, 1, 511, 512, 4096, 1 << 31, (1 << 32) - 1, 1 << 50, (1 << 63) - 1, (1 << 64) - 1)


def place(rng, data):
    """Mostly where the records and indexes are."""
    size = len(data)
    near = [rng.randrange(128), rng.randrange(512, 640), size - 1 - rng.randrange(200)]
    near += [size - 512 + rng.randrange(96), size - 4096 + rng.randrange(96), rng.randrange(size)]
    near += [1536 + rng.randrange(96), size - 4096 - 64 - rng.randrange(48)]
    return min(rng.choice(near), size - 8)


def mutated(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = place(rng, data)
        change = rng.randrange(4)
        if change == 0:
            data[at] = rng.choice(EDGES)
        elif change == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif change == 2:
            struct.pack_into("<Q", data, at & ~7, rng.choice(WORDS))
        else:
            data[at : at + 4] = rng.randbytes(4)
    if rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def attempt(read, *arguments):
    """(bytes, 0), or (None, errno)"""
    try:
        return read(*arguments), 0
    except (OSError, errors.FormatError) as error:
        return None, error.errno


def compare(ours, theirs, damaged):
    """
    Each a pair of attempt(). damaged: stored blocks without checksums were changed. Then the core,
    which decodes no more of a block than it needs, may see less of the damage, and what a decoder
    makes of nonsense is its own business.
    """
    if damaged:
        return
    assert ours[1] == theirs[1]
    assert ours[0] == theirs[0]


def compare_reads(layer, plain, damaged):
    """Through the stream and, as the daemon does, through an image. plain may be None."""
    size = layer.info().stream_size
    for start in range(0, min(size, READ_MAX), 10_000):
        part = min(10_000, size - start), start
        ours = attempt(native_test.layer_pread, layer, *part)
        if plain:
            compare(ours, attempt(plain.stream.pread, *part), damaged)
    disk, code = attempt(view.View, [plain]) if plain else (None, 0)
    try:
        image = native.Image([layer])
    except errors.NativeError as error:
        assert not plain or error.code == code
        return
    with image:
        size = image.info().virtual_size
        for start in range(0, min(size, READ_MAX), 1 << 18):
            part = min(1 << 18, size - start), start
            ours = attempt(image.pread, *part)
            if disk:
                compare(ours, attempt(disk.pread, *part), damaged)


def blocks_of(data):
    """The stored blocks of a ZFile, where there is one."""
    part = tar.unwrap(streams.Memory(data)) or streams.Part(streams.Memory(data), 0, len(data))
    if zfile.load_header(part) is None:
        return slice(0)
    return slice(part.base + 512, part.base + zfile.ZFile(part).record.index_offset)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_never_crashes(tmp_path, rng, kind):
    path = tmp_path / "layer"
    blocks = blocks_of(KINDS[kind])
    refused = 0
    for number in range(CASES):
        data = mutated(rng, KINDS[kind])
        path.write_bytes(data)
        touched = data[blocks] != KINDS[kind][blocks]
        plain, code = attempt(model.load, streams.Memory(data))
        try:
            layer = native.Layer.open(str(path))
        except errors.NativeError as error:
            assert error.text.startswith(f"{path}: ")
            assert error.code == code or touched, error
            refused += 1
            continue
        with contextlib.closing(layer):
            damaged = touched and not layer.info().verify
            assert plain is not None or damaged, errno.errorcode[code]
            compare_reads(layer, None if number % MODEL_EVERY else plain, damaged)
    assert 0 < refused < CASES
