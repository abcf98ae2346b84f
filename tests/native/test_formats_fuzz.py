# SPDX-License-Identifier: Apache-2.0
"""
Layers with bytes changed at random: they open or they do not, and nothing crashes. Under the
sanitizers this is what shows a read or a write beyond a buffer.
"""

import struct

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native

from ..support import native_test
from . import raw_layers as raw

CASES = 700
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


def read_all(layer):
    """Through the stream and, as the daemon does, through an image."""
    size = layer.info().stream_size
    for start in range(0, min(size, READ_MAX), 10_000):
        try:
            native_test.layer_pread(layer, min(10_000, size - start), start)
        except OSError:
            pass
    with native.Image([layer]) as image:
        size = min(image.info().virtual_size, READ_MAX)
        for start in range(0, size, 1 << 18):
            try:
                image.pread(min(1 << 18, size - start), start)
            except OSError:
                pass


@pytest.mark.parametrize("kind", KINDS)
def test_damage_never_crashes(tmp_path, rng, kind):
    path = tmp_path / "layer"
    refused = 0
    for _ in range(CASES):
        path.write_bytes(mutated(rng, KINDS[kind]))
        try:
            layer = native.Layer.open(str(path))
        except errors.NativeError as error:
            assert error.text.startswith(f"{path}: ")
            refused += 1
            continue
        try:
            read_all(layer)
        except errors.NativeError:
            layer.close()
    assert 0 < refused < CASES
