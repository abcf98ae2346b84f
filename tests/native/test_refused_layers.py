# SPDX-License-Identifier: Apache-2.0
"""
Every reason to refuse a layer: the errno, and a line that names file and field. The plain reader of
overlaybd_tcmu/formats refuses it too, with the same errno.
"""

import errno
import re
import struct

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import layer as model
from overlaybd_tcmu.formats import stream as streams

from . import raw_layers as raw

SECTORS = 40
DATA = bytes(range(256)) * 2 * SECTORS
END = 8 + SECTORS
INDEX = raw.entry(0, SECTORS, 8)
LSMT = raw.lsmt(DATA, INDEX)
HUGE = (1 << 64) - 512


def assert_refused(tmp_path, data, code, match):
    path = tmp_path / "layer"
    path.write_bytes(data)
    with pytest.raises(errors.NativeError, match=f"^{re.escape(str(path))}: .*{match}") as caught:
        native.Layer.open(str(path)).close()
    assert errno.errorcode[caught.value.code] == errno.errorcode[code]
    with pytest.raises(errors.FormatError) as refused:
        model.load(streams.Memory(data))
    assert errno.errorcode[refused.value.errno] == errno.errorcode[code]


def rows(*given):
    return [pytest.param(data, code, match, id=name) for name, data, code, match in given]


# ---- LSMT


def header(offset, layout, *values):
    return raw.patched(LSMT, offset, layout, *values)


def trailer(offset, layout, *values):
    return raw.patched(LSMT, offset - 4096, layout, *values)


@pytest.mark.parametrize(
    "data, code, match",
    rows(
        ("empty", b"", errno.EINVAL, "0 bytes at offset 0"),
        ("511 bytes", LSMT[:511], errno.EINVAL, "511 bytes at offset 0"),
        ("no room for a header", LSMT[:4095], errno.EINVAL, "LSMT stream of 4095 bytes"),
        ("no room for a trailer", LSMT[:8191], errno.EINVAL, "LSMT stream of 8191 bytes"),
        ("cut", LSMT[:-1], errno.EINVAL, "no LSMT magic in the trailer"),
        ("magic0", header(0, "B", 0x4D), errno.EINVAL, "no LSMT magic in the header at offset 0"),
        ("magic1", header(23, "B", 0), errno.EINVAL, "no LSMT magic in the header"),
        ("header bit", header(28, "I", 6), errno.EINVAL, "flags at offset 28: 0x6"),
        ("index file", header(28, "I", 1), errno.EINVAL, "flags at offset 28: 0x1"),
        ("trailer magic", trailer(0, "B", 0), errno.EINVAL, "no LSMT magic in the trailer"),
        ("trailer header bit", trailer(28, "I", 7), errno.EINVAL, "flags .*0x7 .*trailer"),
        ("trailer of an index", trailer(28, "I", 4), errno.EINVAL, "flags .*0x4 .*trailer"),
        ("trailer not sealed", trailer(28, "I", 2), errno.EINVAL, "flags .*0x2 .*trailer"),
    ),
)
def test_lsmt_records(tmp_path, data, code, match):
    assert_refused(tmp_path, data, code, match)


@pytest.mark.parametrize(
    "data, code, match",
    rows(
        ("too many", trailer(40, "Q", 1_000_001), errno.EFBIG, "index_size: 1000001 entries"),
        ("far too many", trailer(40, "Q", 1 << 60), errno.EFBIG, "index_size: 1152921504606846976"),
        ("one too many", trailer(40, "Q", 2), errno.EINVAL, "index_offset 24576 and index_size 2"),
        ("in the header", trailer(32, "Q", 4095), errno.EINVAL, "index_offset 4095"),
        ("in the trailer", trailer(32, "Q", len(LSMT) - 4095), errno.EINVAL, "index_offset 24593"),
        ("wraps", trailer(32, "QQ", HUGE, 0), errno.EINVAL, "index_offset 184467"),
        ("odd size", trailer(48, "Q", 1000), errno.EINVAL, "virtual_size: 1000 is not"),
        ("huge size", trailer(48, "Q", HUGE), errno.EINVAL, "virtual_size: 184467.* is more"),
    ),
)
def test_lsmt_trailer_fields(tmp_path, data, code, match):
    assert_refused(tmp_path, data, code, match)


@pytest.mark.parametrize(
    "index, match",
    [
        (raw.entry(9, 1, 8) + raw.entry(0, 1, 8), "offset 24592 .*begins before"),
        (raw.entry(0, 2, 8) + raw.entry(1, 1, 8), "begins before"),
        (raw.entry(1, 1, 8) + raw.entry(raw.PADDING, 0, 0) + raw.entry(1, 1, 8), "begins before"),
        (raw.entry(0, 2, 8, zeroed=1) + raw.entry(1, 1, 8), "begins before"),
        (raw.entry(0, 1, 7), "offset 24576 .*outside"),
        (raw.entry(0, 1, END), "outside"),
        (raw.entry(0, 2, END - 1), "outside"),
        (raw.entry(0, 1, (1 << 55) - 1), "outside"),
        (raw.entry(0, 1, 7, zeroed=1), "outside"),
        (raw.entry(0, 1, END + 1, zeroed=1), "outside"),
        (raw.entry((1 << 50) - 2, 3, 8), "beyond sector"),
    ],
    ids=[
        "descending",
        "overlapping",
        "overlapping across padding",
        "overlapping a zeroed one",
        "data in the header",
        "data at the index",
        "data reaches into the index",
        "data far away",
        "zeroed in the header",
        "zeroed behind the index",
        "beyond the last sector",
    ],
)
def test_lsmt_entries(tmp_path, index, match):
    assert_refused(tmp_path, raw.lsmt(DATA, index), errno.EINVAL, match)


def test_entry_that_is_wrong_behind_the_first_chunk_is_found(tmp_path):
    index = raw.entry(raw.PADDING, 0, 0) * 5000 + raw.entry(0, 1, 7)
    assert_refused(tmp_path, raw.lsmt(DATA, index), errno.EINVAL, "offset 104576 .*outside")


# ---- ZFile: the record in use is the trailer, or the header when it is final

ZFILE = raw.zfile(LSMT)
FINAL = raw.zfile(LSMT, final=True)
BLOCKS = -(-len(LSMT) // 4096)
INDEX_AT = len(ZFILE) - 512 - 4 * BLOCKS


def zheader(offset, layout, *values):
    return raw.digested(raw.patched(ZFILE, offset, layout, *values))


def ztrailer(offset, layout, *values):
    return raw.patched(ZFILE, offset - 512, layout, *values)


@pytest.mark.parametrize(
    "data, code, match",
    rows(
        ("510 bytes", ZFILE[:510], errno.EINVAL, "510 bytes at offset 0"),
        ("magic0", zheader(0, "B", 0), errno.EINVAL, "LSMT stream of"),
        ("magic1", zheader(23, "B", 0), errno.EINVAL, "LSMT stream of"),
        ("header bit", zheader(32, "B", 0x12), errno.EINVAL, "flags at offset 32: 0x12"),
        ("digest", raw.patched(ZFILE, 28, "I", 1), errno.EBADMSG, "digest 0x00000001"),
        ("digest of all", raw.patched(ZFILE, 511, "B", 1), errno.EBADMSG, "header .*digest"),
        ("index file", zheader(32, "B", 0x11), errno.EINVAL, "flags at offset 32: 0x11"),
        ("no trailer", ZFILE[:1023], errno.EINVAL, "1023 bytes .* no trailer"),
        ("cut", ZFILE[:-1], errno.EINVAL, "no ZFile magic in the trailer"),
        ("trailer magic0", ztrailer(0, "B", 0), errno.EINVAL, "no ZFile magic in the trailer"),
        ("trailer magic1", ztrailer(23, "B", 0), errno.EINVAL, "no ZFile magic in the trailer"),
        ("trailer header bit", ztrailer(32, "B", 0x17), errno.EINVAL, "flags .*0x17"),
        ("trailer of an index", ztrailer(32, "B", 0x14), errno.EINVAL, "flags .*0x14"),
        ("trailer not sealed", ztrailer(32, "B", 0x12), errno.EINVAL, "flags .*0x12"),
        ("no LSMT in it", raw.zfile(bytes(8192)), errno.EINVAL, "no LSMT magic in the header"),
        ("nothing in it", raw.zfile(b""), errno.EINVAL, "LSMT stream of 0 bytes"),
    ),
)
def test_zfile_records(tmp_path, data, code, match):
    assert_refused(tmp_path, data, code, match)


@pytest.mark.parametrize("record", ["trailer", "header"])
@pytest.mark.parametrize(
    "offset, layout, values, code, match",
    [
        (48, "Q", [1_000_000_001], errno.EFBIG, "index_size: 1000000001"),
        (48, "Q", [1 << 62], errno.EFBIG, "index_size: 4611686018427387904"),
        (48, "Q", [1_000_000_000], errno.EINVAL, "index_size 1000000000 reach beyond"),
        (40, "Q", [INDEX_AT + 513], errno.EINVAL, f"index_offset {INDEX_AT + 513} and"),
        (40, "QQ", [HUGE, 200], errno.EINVAL, "index_offset 184467.* reach beyond"),
        (40, "Q", [511], errno.EINVAL, "index_offset 511 lies before the data at offset 512"),
        (84, "I", [1 << 20], errno.EINVAL, "before the data at offset 1049088 .dict_size 1048576"),
        (84, "I", [0xFFFFFFFF], errno.EINVAL, "dict_size 4294967295"),
        (84, "I", [1], errno.EIO, "ends beyond the data"),
        (40, "Q", [INDEX_AT - 1], errno.EBADMSG, "index_crc"),
        (40, "Q", [513], errno.EIO, "8 blocks in 1 bytes"),
        (56, "Q", [BLOCKS * 4096 + 1], errno.EINVAL, "index_size: 8, but .* bytes are 9 blocks"),
        (56, "Q", [(BLOCKS - 1) * 4096], errno.EINVAL, "index_size: 8, but .* bytes are 7 blocks"),
        (
            56,
            "Q",
            [(1 << 64) - 1],
            errno.EINVAL,
            "index_size: 8, but .* bytes are 4503599627370496 blocks",
        ),
        (64, "I", [1], errno.EBADMSG, "index_crc says 0x00000001"),
        (72, "I", [0], errno.EINVAL, "block_size: 0 is not a power"),
        (72, "I", [256], errno.EINVAL, "block_size: 256"),
        (72, "I", [5000], errno.EINVAL, "block_size: 5000"),
        (72, "I", [131072], errno.EINVAL, "block_size: 131072"),
        (72, "I", [1 << 31], errno.EINVAL, "block_size: 2147483648"),
        (76, "B", [0], errno.EINVAL, "algo: 0"),
        (76, "B", [3], errno.EINVAL, "algo: 3"),
    ],
)
def test_zfile_fields(tmp_path, record, offset, layout, values, code, match):
    if record == "trailer":
        data = ztrailer(offset, layout, *values)
    else:
        data = raw.digested(raw.patched(FINAL, offset, layout, *values))
    assert_refused(tmp_path, data, code, match)


def lengths_of(data):
    return list(struct.unpack(f"<{BLOCKS}I", data[INDEX_AT : INDEX_AT + 4 * BLOCKS]))


def with_length(number, length, verify=1):
    lengths = lengths_of(ZFILE)
    lengths[number] = length
    return raw.zfile(LSMT, lengths=lengths, verify=verify)


@pytest.mark.parametrize(
    "data, code, match",
    rows(
        ("only a CRC", with_length(1, 4), errno.EIO, "block 1 has a stored length of 4"),
        ("nothing", with_length(1, 0, verify=0), errno.EIO, "block 1 has a stored length of 0"),
        ("too long", with_length(0, 4197), errno.ERANGE, "block 0 .* 4197, at most 4196"),
        ("far too long", with_length(2, 0xFFFFFFFF), errno.ERANGE, "block 2 .* 4294967295"),
        ("beyond data", with_length(0, 4196), errno.EIO, "block . ends beyond the data"),
        (
            "group",
            raw.zfile(b"x" * 65536, block_size=512, blocks=[bytes(580)] * 128),
            errno.ERANGE,
            "block 113 begins 65540 bytes after its group",
        ),
        ("index", raw.patched(ZFILE, INDEX_AT, "I", 9), errno.EBADMSG, "index at offset .*CRC"),
        ("index, final", raw.patched(FINAL, INDEX_AT, "I", 9), errno.EBADMSG, "index .*CRC"),
    ),
)
def test_zfile_index(tmp_path, data, code, match):
    assert_refused(tmp_path, data, code, match)


# ---- tar

TOO_LONG = raw.pax_record(b"size", len(LSMT)) + raw.pax_record(b"x" * 500, 1)


def pax(text):
    return raw.pax_tar(LSMT, text)


@pytest.mark.parametrize(
    "data, code, match",
    rows(
        ("member beyond the end", raw.tar(LSMT, 1 << 20), errno.EINVAL, "member of 1048576 bytes"),
        ("no payload", raw.tar_header(0), errno.EINVAL, "0 bytes at offset 512"),
        ("directory", raw.tar_header(0, b"5") + LSMT, errno.EINVAL, "type 0x35 at offset 156"),
        ("long name", raw.tar_header(5, b"L") + LSMT, errno.EINVAL, "type 0x4c at offset 156"),
        (
            "two pax headers",
            raw.pax_tar(LSMT, member=raw.tar_header(9, b"g")),
            errno.EINVAL,
            "type 0x67 at offset 1180",
        ),
        ("binary size", raw.tar_header(b"\x80" + bytes(11)) + LSMT, errno.EINVAL, "size .*binary"),
        ("binary pax size", raw.pax_tar(LSMT, size=b"\x80" + bytes(11)), errno.EINVAL, "pax rec"),
        ("pax of no bytes", raw.pax_tar(LSMT, size=0), errno.EINVAL, "pax records of 0 bytes"),
        ("pax too long", pax(TOO_LONG), errno.EINVAL, "pax records of 5.. bytes, 1 to 512"),
        ("pax beyond the end", pax(b"size=1\n")[:1000], errno.EINVAL, "ends at offset 1000"),
        ("pax without a member", pax(b"9 size=1\n")[:1200], errno.EINVAL, "ends at offset 1200"),
        (
            "pax member",
            raw.pax_tar(LSMT, member=bytes(512)),
            errno.EINVAL,
            "member header at offset",
        ),
        ("pax size beyond", pax(b"17 size=99999999\n"), errno.EINVAL, "member of 99999999 bytes"),
        ("pax no length", pax(b"size=1\n"), errno.EINVAL, "malformed pax"),
        ("pax length 0", pax(b"0 size=1\n"), errno.EINVAL, "malformed pax"),
        ("pax length short", pax(b"4 size=1\n"), errno.EINVAL, "malformed pax"),
        ("pax length long", pax(b"99 size=1\n"), errno.EINVAL, "malformed pax"),
        ("pax length huge", pax(b"99999999999999999999 s=1\n"), errno.EINVAL, "malformed pax"),
        ("pax no newline", pax(b"8 size=1"), errno.EINVAL, "malformed pax"),
        ("pax size no number", pax(b"9 size=x\n"), errno.EINVAL, "malformed pax"),
        ("pax size negative", pax(b"10 size=-1\n"), errno.EINVAL, "malformed pax"),
        ("pax size huge", pax(b"28 size=99999999999999999999\n"), errno.EINVAL, "malformed pax"),
        ("GNU format", raw.tar_header(9, magic=b"ustar  ") + LSMT, errno.EINVAL, "no LSMT magic"),
        ("wrong sum", raw.patched(raw.tar(LSMT), 0, "B", 0), errno.EINVAL, "no LSMT magic"),
        (
            "never closed",
            raw.tar_header(9, b"x", b"")
            + b"9 size=0\n".ljust(512, b"\0")
            + raw.tar_header(0, magic=b"xxtarxx")
            + LSMT,
            errno.EINVAL,
            "no LSMT magic",
        ),
    ),
)
def test_tar(tmp_path, data, code, match):
    assert_refused(tmp_path, data, code, match)
