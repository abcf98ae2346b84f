# SPDX-License-Identifier: Apache-2.0
"""Layers of every kind and wrapping are opened, and their streams come back as they went in."""

import random

import pytest

from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import layer as model
from overlaybd_tcmu.formats import stream as streams

from ..support import native_test
from . import raw_layers as raw

DATA = random.Random(1).randbytes(20 * 512) + b"layer" * 8192  # half of it does not compress
SECTORS = len(DATA) // 512
INDEX = raw.entry(0, 20, 8) + raw.entry(100, 60, 28)
END = 8 + SECTORS  # the first sector behind the data
LSMT = raw.lsmt(DATA, INDEX)
UUID = b"0123abcd-4567-89AB-CDEF-0123456789ab"


def assert_model_agrees(layer, plain):
    """The plain reader of overlaybd_tcmu/formats sees the same layer."""
    info, trailer = layer.info(), plain.trailer
    assert (info.virtual_size, info.segments) == (plain.virtual_size, len(plain.segments))
    assert (info.uuid, info.parent_uuid) == (trailer.uuid, trailer.parent_uuid)
    assert info.message == trailer.message.decode()
    assert info.stream_size == plain.stream.size


@pytest.fixture
def opened(tmp_path):
    """Opens a layer given as bytes; closed when the test is over."""
    layers = []

    def open_layer(data):
        path = tmp_path / f"layer{len(layers)}"
        path.write_bytes(data)
        layers.append(native.Layer.open(str(path)))
        assert_model_agrees(layers[-1], model.load(streams.Memory(data)))
        return layers[-1]

    yield open_layer
    for layer in layers:
        layer.close()


def stream_of(layer):
    return native_test.layer_pread(layer, layer.info().stream_size, 0)


def assert_streams_lsmt(layer):
    assert stream_of(layer) == LSMT
    assert layer.info().segments == 2


# ---- wrappings


@pytest.mark.parametrize("wrap", [bytes, raw.tar, raw.pax_tar])
@pytest.mark.parametrize("inner", [LSMT, raw.zfile(LSMT)], ids=["raw", "zfile"])
def test_wrappings_are_found_by_content(opened, inner, wrap):
    layer = opened(wrap(inner))
    assert_streams_lsmt(layer)
    assert layer.info().tar == (wrap is not bytes)
    assert layer.info().zfile == (raw.LZ4 if inner != LSMT else 0)


@pytest.mark.parametrize("verify", [0, 1])
@pytest.mark.parametrize("block_size", [512, 1024, 4096, 8192, 16384, 32768, 65536])
@pytest.mark.parametrize("algo", [raw.LZ4, raw.ZSTD])
def test_zfile_of_each_kind(opened, algo, block_size, verify):
    layer = opened(raw.zfile(LSMT, algo=algo, block_size=block_size, verify=verify))
    assert_streams_lsmt(layer)
    info = layer.info()
    assert (info.zfile, info.block_size, info.verify) == (algo, block_size, verify)


@pytest.mark.parametrize("algo", [raw.LZ4, raw.ZSTD])
def test_any_part_of_a_zfile(opened, rng, algo):
    layer = opened(raw.zfile(LSMT, algo=algo, block_size=16384))
    for _ in range(200):
        start = rng.randrange(len(LSMT))
        count = rng.randrange(len(LSMT) - start + 1)
        assert native_test.layer_pread(layer, count, start) == LSMT[start : start + count]


@pytest.mark.parametrize("algo", [raw.LZ4, raw.ZSTD])
def test_block_that_grew_is_read(opened, rng, algo):
    # The original writes these and cannot read them back.
    stream = raw.lsmt(rng.randbytes(3 * 65536), raw.entry(0, 384, 8))
    layer = opened(raw.zfile(stream, algo=algo, block_size=65536))
    assert stream_of(layer) == stream


@pytest.mark.parametrize(
    "data",
    [
        raw.zfile(LSMT, flags=0),
        raw.zfile(LSMT, final=True),
        raw.zfile(LSMT, final=True, trailer=False),
        raw.zfile(LSMT, final=True)[:-512] + b"X" * 512,
        raw.zfile(LSMT, dictionary=b"dictionary" * 9),
        raw.patched(raw.zfile(LSMT, flags=0), 28, "I", 0x7FA0),
        raw.patched(raw.zfile(LSMT, flags=0), 33, "6s", b"\x0b\x64\xa4\xfe\x7f\xff"),
        raw.patched(raw.zfile(LSMT, flags=0), 40, "24s", b"garbage" * 4),
        raw.patched(raw.zfile(LSMT, flags=0), 77, "7s", b"garbage"),
        raw.patched(raw.zfile(LSMT, flags=0), 89, "423s", b"garbage" * 61),
        raw.patched(raw.zfile(LSMT), -512 + 28, "I", 1),
        raw.patched(raw.patched(raw.zfile(LSMT), -512 + 32, "I", 6), -512 + 64, "I", 1),
    ],
    ids=[
        "no digest",
        "final header",
        "final header, no trailer",
        "final header, damaged trailer",
        "dictionary",
        "garbage in an unused digest",
        "garbage in unknown flags",
        "garbage in what only the trailer says",
        "garbage behind algo",
        "garbage behind verify",
        "digest of the trailer is not looked at",
        "no digest in the trailer, then index_crc does not count",
    ],
)
def test_zfile_with_what_must_be_ignored(opened, data):
    assert_streams_lsmt(opened(data))


@pytest.mark.parametrize(
    "data",
    [
        raw.pax_tar(LSMT, typeflag=b"g"),
        raw.pax_tar(
            LSMT,
            raw.pax_record(b"x", 1) + raw.pax_record(b"size", len(LSMT)),
        ),
        raw.pax_tar(LSMT, raw.pax_record(b"mtime", 5), member=raw.tar_header(len(LSMT))),
        raw.pax_tar(LSMT, raw.pax_record(b"size", 0), member=raw.tar_header(len(LSMT))),
        raw.summed(raw.tar_header(len(LSMT), name=b"\xff\xfe"), signed=True) + LSMT,
        raw.tar_header(b"%012o" % len(LSMT)) + LSMT,
        raw.tar_header(len(LSMT), typeflag=b"\0") + LSMT,
    ],
    ids=[
        "global pax header",
        "two pax records",
        "pax without size",
        "pax with size 0",
        "sum of signed bytes",
        "size without an end",
        "old type",
    ],
)
def test_tar_of_each_kind(opened, data):
    assert_streams_lsmt(opened(data))


# ---- LSMT


def test_what_a_layer_says_of_itself(opened):
    fields = {"uuid": UUID, "parent": UUID.upper(), "message": b"m" * 256}
    info = opened(raw.lsmt(DATA, INDEX, trailer_flags=0x16, virtual_size=1 << 40, **fields)).info()
    assert (info.uuid, info.parent_uuid) == (UUID.decode(), UUID.decode().upper())
    assert info.message == "m" * 256
    assert (info.virtual_size, info.sparse, info.memory) == (1 << 40, 1, 32)


@pytest.mark.parametrize("uuid", [raw.NULL_UUID, b"", UUID[:-1], UUID[:-1] + b"g", b"-" + UUID[1:]])
def test_uuid_that_is_none(opened, uuid):
    assert opened(raw.lsmt(DATA, INDEX, uuid=uuid)).info().uuid == ""


def test_layer_without_segments(opened):
    info = opened(raw.lsmt(b"", b"")).info()
    assert (info.segments, info.memory, info.stream_size) == (0, 0, 8192)


@pytest.mark.parametrize(
    "index, segments",
    [
        (INDEX + raw.entry(raw.PADDING, 0, 0) * 254, 2),
        (raw.entry(raw.PADDING, 7, 0) + INDEX, 2),
        (raw.entry(0, 0, 0) + INDEX + raw.entry(5, 0, 8), 2),
        (raw.entry(0, 1, 8, tag=255) + raw.entry(1, 1, 8, tag=3), 2),
        (raw.entry(0, SECTORS, 8) + raw.entry(SECTORS, 1, END, zeroed=1), 2),
        (raw.entry(0, 16383, 8, zeroed=1), 1),
        (raw.entry((1 << 50) - 2, 2, 8), 1),
    ],
    ids=[
        "padding",
        "padding first",
        "entries of no length",
        "tags",
        "up to the end of data",
        "longest",
        "last sectors",
    ],
)
def test_index_of_each_kind(opened, index, segments):
    assert opened(raw.lsmt(DATA, index)).info().segments == segments


def test_million_entries(opened):
    index = raw.entry(raw.PADDING, 0, 0) * 999_999 + raw.entry(3, 1, 8)
    info = opened(raw.lsmt(DATA, index)).info()
    assert (info.segments, info.memory) == (1, 16)


@pytest.mark.parametrize(
    "data",
    [
        raw.lsmt(DATA, INDEX, header_flags=3),
        raw.lsmt(DATA, INDEX, header_flags=0x13, trailer_flags=0x16),
        raw.lsmt(DATA, INDEX, gap=b"\xff" * 480),
        raw.lsmt(DATA + b"odd", INDEX),
        raw.patched(raw.lsmt(DATA, INDEX), -4096 + 24, "I", 0),
        raw.patched(raw.lsmt(DATA, INDEX), -4096 + 28, "I", 0xFFFFFFFE),
        raw.patched(raw.lsmt(DATA, INDEX), -4096 + 130, "4s", b"\xff" * 4),
        raw.patched(raw.lsmt(DATA, INDEX), -8, "8s", b"garbage!"),
    ],
    ids=[
        "sealed",
        "sealed, was sparse",
        "index ends before the trailer",
        "index at an odd offset",
        "size of the record",
        "unknown flags",
        "version",
        "behind the message",
    ],
)
def test_lsmt_with_what_must_be_ignored(opened, data):
    assert opened(data).info().segments == 2


# ---- damage that only reading finds


def damaged_block(number, payload=None, algo=raw.LZ4, flip=0):
    """A ZFile of LSMT in blocks of 16 KiB, one of them replaced."""
    plain = [LSMT[at : at + 16384] for at in range(0, len(LSMT), 16384)]
    blocks = [raw.stored_block(raw.compress(algo, block)) for block in plain]
    if payload is not None:
        blocks[number] = raw.stored_block(payload)
    blocks[number] = bytes([blocks[number][0] ^ flip]) + blocks[number][1:]
    return raw.zfile(LSMT, algo=algo, block_size=16384, blocks=blocks)


TWICE = raw.compress(raw.ZSTD, LSMT[16384:24576]) + raw.compress(raw.ZSTD, LSMT[24576:32768])


@pytest.mark.parametrize(
    "data, strerror",
    [
        (damaged_block(1, flip=1), "Structure needs cleaning"),
        (damaged_block(1, flip=1, algo=raw.ZSTD), "Structure needs cleaning"),
        (damaged_block(1, b"\xff" * 100), "Input/output error"),
        (damaged_block(1, raw.compress(raw.LZ4, LSMT[:16000])), "Input/output error"),
        (damaged_block(1, raw.compress(raw.LZ4, LSMT[:17000])), "Input/output error"),
        (damaged_block(1, b"\xff" * 100, raw.ZSTD), "Input/output error"),
        (damaged_block(1, raw.compress(raw.ZSTD, LSMT[:16000]), raw.ZSTD), "Input/output error"),
        (damaged_block(1, raw.compress(raw.ZSTD, LSMT[:17000]), raw.ZSTD), "Input/output error"),
        (damaged_block(1, TWICE, raw.ZSTD), "Input/output error"),
        (damaged_block(1, b"\x27\xb5\x2f\xfd" + bytes(60), raw.ZSTD), "Input/output error"),
    ],
    ids=[
        "lz4: checksum",
        "zstd: checksum",
        "lz4: nonsense",
        "lz4: short",
        "lz4: long",
        "zstd: nonsense",
        "zstd: short",
        "zstd: long",
        "zstd: two frames",
        "zstd: old format",
    ],
)
def test_damaged_block_fails_and_its_neighbours_do_not(opened, data, strerror):
    layer = opened(data)
    with pytest.raises(OSError, match=strerror):
        native_test.layer_pread(layer, 16384, 16384)
    assert native_test.layer_pread(layer, 16384, 0) == LSMT[:16384]
    assert native_test.layer_pread(layer, 100, 32768) == LSMT[32768:32868]


def test_part_that_a_short_block_lacks_is_not_made_up(opened):
    layer = opened(damaged_block(1, raw.compress(raw.LZ4, LSMT[16384:32000])))
    with pytest.raises(OSError, match="Input/output error"):
        native_test.layer_pread(layer, 100, 32768 - 200)


def test_damaged_block_within_the_index_is_told_when_opening(opened):
    last = len(LSMT) // 16384
    with pytest.raises(OSError, match="reading the LSMT trailer.*Structure needs cleaning"):
        opened(damaged_block(last, flip=1))
