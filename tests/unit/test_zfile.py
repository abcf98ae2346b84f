# SPDX-License-Identifier: Apache-2.0
"""The plain ZFile and tar: what is written is read again, and is laid out as the formats say."""

import errno
import io
import struct
import tarfile

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.formats import crc32c, layer, lsmt, stream, tar, zfile

PLAIN = b"".join(struct.pack("<Q", number * number) for number in range(5000)) + b"odd"
MAGIC = bytes.fromhex("5a46696c65000100" "74756a692e79796640416c6962616261")


def decoded(raw):
    return zfile.ZFile(stream.Memory(raw))


# ---- CRC


@pytest.mark.parametrize("seed, crc", [(0, 0x58E3FA20), (100007, 0x3C9BD4E0)])
def test_crc_of_the_usual_nine_digits(seed, crc):
    assert crc32c.raw(b"123456789", seed) == crc


def test_crc_goes_on_from_its_seed():
    assert crc32c.raw(b"6789", crc32c.raw(b"12345", 7)) == crc32c.raw(b"123456789", 7)


# ---- ZFile


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("block_size", [512, 4096, 65536])
@pytest.mark.parametrize("algo", [zfile.LZ4, zfile.ZSTD])
def test_what_is_encoded_is_decoded(algo, block_size, verify, final):
    raw = zfile.encode(PLAIN, algo, block_size, verify=verify, final=final)
    read = decoded(raw)
    assert stream.read(read) == PLAIN
    assert (read.record.algo, read.record.block_size) == (algo, block_size)
    assert bool(read.record.verify) == verify
    assert bool(read.record.flags & zfile.FINAL) == final


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 8192])
def test_last_block_may_be_shorter(size):
    read = decoded(zfile.encode(PLAIN[:size]))
    assert len(read.offsets) - 1 == -(-size // 4096)
    assert stream.read(read) == PLAIN[:size]


def test_any_part(rng):
    read = decoded(zfile.encode(PLAIN))
    for _ in range(100):
        start = rng.randrange(len(PLAIN))
        count = rng.randrange(len(PLAIN) - start + 1)
        assert read.pread(count, start) == PLAIN[start : start + count]


def test_reading_beyond_the_end_is_refused():
    with pytest.raises(errors.FormatError):
        decoded(zfile.encode(PLAIN)).pread(1, len(PLAIN))


def test_layout_of_an_empty_one():
    raw = zfile.encode(b"")
    assert len(raw) == 1024
    header, trailer = raw[:512], raw[512:]
    assert header[:24] == trailer[:24] == MAGIC
    assert struct.unpack_from("<I4xQQQQI", header, 24) == (96, 0x1B, 512, 0, 0, 0)
    assert struct.unpack_from("<I4xQQQQI", trailer, 24) == (96, 0x16, 512, 0, 0, 0)


def test_layout_of_two_blocks():
    raw = zfile.encode(b"a" * 5000, final=False)
    header = zfile.Record.parse(raw)
    assert (header.flags, header.index_offset, header.original_size) == (0x13, 0, 0)
    trailer = zfile.Record.parse(raw[-512:])
    assert (trailer.flags, trailer.index_size, trailer.original_size) == (0x16, 2, 5000)
    index = raw[trailer.index_offset : -512]
    first, second = struct.unpack("<II", index)
    assert 512 + first + second == trailer.index_offset
    assert trailer.index_crc == crc32c.raw(index)
    payload, crc = raw[512 : 508 + first], raw[508 + first : 512 + first]
    assert crc == struct.pack("<I", crc32c.raw(payload, 100007))


def test_digest_is_of_the_whole_record():
    header = zfile.encode(PLAIN)[:512]
    assert zfile.has_digest(header)
    assert not zfile.has_digest(header[:511] + b"\1")


@pytest.mark.parametrize("algo", [zfile.LZ4, zfile.ZSTD])
@pytest.mark.parametrize(
    "damage, code",
    [
        (lambda payload: bytes([payload[0] ^ 1]) + payload[1:], errno.EUCLEAN),
        (lambda payload: payload[:-1] + bytes([payload[-1] ^ 1]), errno.EUCLEAN),
    ],
)
def test_damaged_block_is_found_and_its_neighbours_are_read(algo, damage, code):
    raw = zfile.encode(PLAIN, algo)
    read = decoded(raw)
    start, end = read.offsets[1], read.offsets[2]
    hurt = decoded(raw[:start] + damage(raw[start:end]) + raw[end:])
    with pytest.raises(errors.FormatError) as caught:
        hurt.pread(1, 4096)
    assert (caught.value.errno, caught.value.offset) == (code, start)
    assert hurt.pread(4096, 0) + hurt.pread(100, 8192) == PLAIN[:4096] + PLAIN[8192:8292]


@pytest.mark.parametrize(
    "algo, payload",
    [
        (zfile.LZ4, zfile.compress(zfile.LZ4, PLAIN[:4000])),
        (zfile.LZ4, zfile.compress(zfile.LZ4, PLAIN[:5000])),
        (zfile.LZ4, b"\xff" * 50),
        (zfile.ZSTD, zfile.compress(zfile.ZSTD, PLAIN[:4000])),
        (zfile.ZSTD, zfile.compress(zfile.ZSTD, PLAIN[:5000])),
        (zfile.ZSTD, zfile.compress(zfile.ZSTD, PLAIN[:4096])[:-1]),
        (zfile.ZSTD, zfile.compress(zfile.ZSTD, PLAIN[:4096]) + b"\0"),
        (zfile.ZSTD, zfile.compress(zfile.ZSTD, PLAIN[:2048]) * 2),
        (zfile.ZSTD, b""),
    ],
)
def test_payload_of_another_length_is_refused(algo, payload):
    assert zfile.decompress(algo, payload, 4096) is None


# ---- tar


def test_tar_is_what_tar_programs_read():
    raw = tar.wrap(PLAIN)
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        (member,) = archive.getmembers()
        assert (member.name, member.size, member.mode) == ("overlaybd.commit", len(PLAIN), 0o100644)
        assert (member.uname, member.gname, member.mtime) == ("root", "root", 0)
        assert archive.extractfile(member).read() == PLAIN


@pytest.mark.parametrize("size", [0, 1, 511, 512, 99_999, 100_000])
def test_tar_layout(size):
    raw = tar.wrap(bytes(size))
    record = b"size=%d\n" % size
    assert raw[512:1024].rstrip(b"\0").endswith(record)
    assert int(raw[512:1024].split(b" ")[0]) == len(raw[512:1024].rstrip(b"\0"))
    assert len(raw) == 1536 + -(-size // 512) * 512 + 1024
    assert raw[1024 + 124 : 1024 + 136] == b"          0 "
    assert raw[124:136] == b"%11o " % len(raw[512:1024].rstrip(b"\0"))


def test_tar_of_nothing_needs_the_members_own_size():
    assert stream.read(tar.unwrap(stream.Memory(tar.wrap(b"")))) == b""


def test_payload_of_a_tar():
    assert stream.read(tar.unwrap(stream.Memory(tar.wrap(PLAIN)))) == PLAIN


@pytest.mark.parametrize("raw", [b"", bytes(511), bytes(512), PLAIN])
def test_what_is_no_tar(raw):
    assert tar.unwrap(stream.Memory(raw)) is None


# ---- nesting


@pytest.mark.parametrize("wrap", [bytes, tar.wrap])
@pytest.mark.parametrize("encode", [bytes, zfile.encode])
def test_wrappers_are_found_by_content(wrap, encode):
    record = lsmt.Record(7, virtual_size=512)
    trailer = lsmt.Record(6, 4608, 1, 512)
    raw = record.pack() + b"s" * 512 + lsmt.Segment(0, 1, 8).pack() + trailer.pack()
    found = layer.load(stream.Memory(wrap(encode(raw))))
    assert stream.read(found.stream) == raw
    assert found.segments == [lsmt.Segment(0, 1, 8)]


# ---- streams


def test_file_is_a_stream(tmp_path):
    (tmp_path / "file").write_bytes(PLAIN)
    with stream.File(tmp_path / "file") as file:
        assert stream.read(file) == PLAIN
        with pytest.raises(errors.FormatError, match="2 bytes wanted"):
            file.pread(2, len(PLAIN) - 1)
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(errors.FormatError, match="has become shorter"):
            file.pread(1, 0)


def test_part_of_a_stream_ends_where_it_ends():
    part = stream.Part(stream.Memory(b"0123456789"), 3, 4)
    assert stream.read(part) == b"3456"
    assert part.pread(2, 1) == b"45"
    for count, offset in ((5, 0), (1, 4), (1, -1)):
        with pytest.raises(errors.FormatError):
            part.pread(count, offset)
