# SPDX-License-Identifier: Apache-2.0
"""The plain LSMT reader and writers: bytes as the format has them, the rules of commit and seal."""

import errno

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.formats import commit, lsmt, stream, view, writable

KIB4 = 8  # sectors
UUID = "01234567-89AB-4DEF-8123-456789ABCDEF"


def sectors(count, fill):
    return bytes([fill]) * (count * 512)


def loaded(raw):
    return lsmt.load(stream.Memory(raw))


def pair_of(pair):
    return writable.load_pair(stream.Memory(pair.data), stream.Memory(pair.index))


# ---- bytes


@pytest.mark.parametrize(
    "segment, raw",
    [
        (lsmt.Segment(0, 8272, 8), "0000000000004081 0800000000000000"),
        (lsmt.Segment(8272, 120, 8280, True), "502000000000e001 5820000000008000"),
        (lsmt.Segment(134217600, 128, 1058072), "80ffff0700000002 1825100000000000"),
        (lsmt.Segment(1000, 64, 4660, False, 3), "e803000000000001 3412000000000003"),
        (lsmt.Segment(2048, 16383, 8, True, 255), "000800000000fcff 08000000000080ff"),
        (lsmt.PADDING, "ffffffffffff0300 0000000000000000"),
    ],
)
def test_entry(segment, raw):
    assert segment.pack() == bytes.fromhex(raw)
    assert list(lsmt.parse_index(segment.pack() + b"torn")) == [segment]


def test_record():
    record = lsmt.Record(6, 541798400, 8448, 64 << 30, UUID.lower(), "", b"message")
    raw = record.pack()
    assert len(raw) == 4096
    assert raw[:32].hex() == "4c534d5400010200657e63d29444084ca2d2c8ec4fcfae8a8601000006000000"
    assert raw[32:56].hex() == "00304b20000000000021000000000000" "0000000010000000"
    assert raw[56:130] == UUID.encode() + b"\0" + b"00000000-0000-0000-0000-000000000000\0"
    assert raw[130:142] == b"\0\0\1\1message\0"
    assert not any(raw[142:])
    assert lsmt.Record.parse(raw) == lsmt.Record(6, 541798400, 8448, 64 << 30, UUID, "", b"message")


@pytest.mark.parametrize("uuid", ["", UUID[:-1], UUID[:-1] + "g", "-" + UUID[1:], "\xe9" * 36])
def test_uuid_that_is_none(uuid):
    raw = bytearray(lsmt.Record(7).pack())
    raw[56:93] = uuid.encode("latin-1").ljust(37, b"\0")
    assert lsmt.Record.parse(raw).uuid == ""


def test_uuid_with_a_digit_for_a_dash():
    raw = bytearray(lsmt.Record(7, uuid=UUID).pack())
    raw[56 + 8 : 56 + 9] = b"0"
    assert lsmt.Record.parse(raw).uuid == UUID[:8] + "0" + UUID[9:]


def test_longest_message():
    assert lsmt.Record.parse(lsmt.Record(7, message=b"m" * 256).pack()).message == b"m" * 256
    with pytest.raises(errors.FormatError, match="257 bytes, at most 256") as caught:
        lsmt.Record(7, message=b"m" * 257).pack()
    assert caught.value.errno == errno.ENOBUFS


# ---- commit


def test_commit_of_nothing():
    raw = commit.commit([pair_of(writable.Pair(1 << 20))])
    assert len(raw) == 8192
    trailer = loaded(raw).trailer
    assert (trailer.index_offset, trailer.index_size, trailer.virtual_size) == (4096, 0, 1 << 20)


def test_commit_of_one_write():
    pair = writable.Pair(1 << 20)
    pair.write(sectors(KIB4, 65), 0)
    raw = commit.commit([pair_of(pair)])
    assert len(raw) == 16384
    assert raw[4096:8192] == sectors(KIB4, 65)
    assert raw[8192:8208].hex() == "0000000000002000" "0800000000000000"
    assert raw[8208:12288] == bytes.fromhex("ffffffffffff03000000000000000000") * 255
    layer = loaded(raw)
    assert (layer.trailer.index_offset, layer.trailer.index_size) == (8192, 256)
    assert (layer.header.flags, layer.trailer.flags) == (7, 6)


@pytest.mark.parametrize("count, entries", [(0, 0), (1, 256), (256, 256), (257, 512)])
def test_index_is_padded_to_256_entries(count, entries):
    pair = writable.Pair(1 << 30)
    for number in range(count):
        pair.write(sectors(1, 66), number * 4096)
    layer = loaded(commit.commit([pair_of(pair)]))
    assert len(layer.segments) == count
    assert layer.trailer.index_size == entries


def test_commit_compacts_what_was_overwritten():
    pair = writable.Pair(1 << 20)
    pair.write(sectors(8, 65), 4096)
    pair.write(sectors(4, 66), 4096)
    pair.write(sectors(8, 67), 0)
    layer = loaded(commit.commit([pair_of(pair)]))
    # Pieces side by side in disk and file become one segment.
    assert layer.segments == [lsmt.Segment(0, 16, 8)]
    assert layer.stream.pread(16 * 512, 4096) == sectors(8, 67) + sectors(4, 66) + sectors(4, 65)


def test_longest_segment_of_a_commit():
    pair = writable.Pair(64 << 20)
    for number in range(5):
        pair.write(sectors(8192, number), number * 8192 * 512)
    lengths = [segment.length for segment in loaded(commit.commit([pair_of(pair)])).segments]
    # 255 pieces of 64 sectors; one more would reach 16384.
    assert lengths == [16320, 16320, 5 * 8192 - 2 * 16320]


def test_discarded_range_stays_zeroed():
    pair = writable.Pair(64 << 20)
    pair.write(sectors(16, 65), 0)
    pair.discard(8 * 512, 4 * 512)
    layer = loaded(commit.commit([pair_of(pair)]))
    assert layer.segments == [
        lsmt.Segment(0, 4, 8),
        lsmt.Segment(4, 8, 12, True),
        lsmt.Segment(12, 4, 12),
    ]


def test_zeroed_segments_are_not_joined_beyond_the_longest():
    pair = writable.Pair(64 << 20)
    pair.discard(20000 * 512, 0)
    layer = loaded(commit.commit([pair_of(pair)]))
    assert [segment.length for segment in layer.segments] == [16383, 20000 - 16383]


def test_uuid_is_given_and_the_parent_inherited():
    pair = writable.Pair(1 << 20, uuid=UUID, parent_uuid=UUID)
    header = loaded(commit.commit([pair_of(pair)], message=b"m")).header
    assert (header.uuid, header.parent_uuid, header.message) == ("", UUID, b"m")
    header = loaded(commit.commit([pair_of(pair)], uuid=UUID, parent_uuid="")).header
    assert (header.uuid, header.parent_uuid) == (UUID, "")


def test_merging_names_the_layer_from_the_top():
    lower, upper = writable.Pair(1 << 20, parent_uuid=UUID), writable.Pair(2 << 20)
    lower.write(sectors(8, 65), 0)
    upper.write(sectors(4, 66), 2048)
    merged = loaded(commit.commit([pair_of(lower), pair_of(upper)]))
    raw = merged.stream.pread(32, merged.trailer.index_offset)
    assert list(lsmt.parse_index(raw)) == [
        lsmt.Segment(0, 4, 8, tag=1),
        lsmt.Segment(4, 4, 12, tag=0),
    ]
    assert (merged.virtual_size, merged.header.parent_uuid) == (2 << 20, UUID)
    assert merged.stream.pread(8 * 512, 4096) == sectors(4, 65) + sectors(4, 66)


# ---- the writable pair


def test_pair_is_replayed_in_order():
    pair = writable.Pair(1 << 20)
    for fill, (offset, count) in enumerate([(0, 8), (4, 8), (2, 1), (11, 1), (11, 3)], start=65):
        pair.write(sectors(count, fill), offset * 512)
    disk = view.View([pair_of(pair)])
    assert disk.pread(16 * 512, 0)[::512] == b"AACABBBBBBBEEE\0\0"


@pytest.mark.parametrize("stray", [b"", b"\1", bytes(15)])
def test_torn_entry_at_the_end_of_an_index_is_left_out(stray):
    pair = writable.Pair(1 << 20)
    pair.write(sectors(1, 65), 0)
    pair.index += stray
    assert pair_of(pair).segments == [lsmt.Segment(0, 1, 8)]


def test_padding_in_an_index_file_is_dropped():
    pair = writable.Pair(1 << 20)
    pair.index += lsmt.PADDING.pack() * 3
    pair.write(sectors(1, 65), 0)
    assert pair_of(pair).segments == [lsmt.Segment(0, 1, 8)]


def test_write_of_more_than_4_mib_is_several_entries():
    pair = writable.Pair(16 << 20)
    pair.write(sectors(8193, 65), 512)
    entries = list(lsmt.parse_index(pair.index[4096:]))
    assert entries == [lsmt.Segment(1, 8192, 8), lsmt.Segment(8193, 1, 8200)]


def test_write_of_half_a_sector_is_refused():
    with pytest.raises(errors.FormatError) as caught:
        writable.Pair(1 << 20).write(bytes(512), 256)
    assert caught.value.errno == errno.EFAULT


@pytest.mark.parametrize(
    "offset, value, match",
    [
        (0, 0, "no LSMT magic in the index file"),
        (28, 3, "flags 0x3 are not those of this kind's index file's header"),
        (28, 5, "flags 0x5"),
        (32, 0, "index_offset 64 of an index file is not 4096"),
        (32, 64, "index_offset 4160"),
    ],
)
def test_damaged_index_file_is_refused(offset, value, match):
    pair = writable.Pair(1 << 20)
    pair.index[offset] = value
    if (offset, value) == (32, 0):
        pair.index[32:40] = (64).to_bytes(8, "little")
    with pytest.raises(errors.FormatError, match=match) as caught:
        pair_of(pair)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "entry",
    [lsmt.Segment(0, 1, 7), lsmt.Segment(0, 2, 8), lsmt.Segment(0, 0, 10)],
    ids=["in the header", "data that never arrived", "of no length, beyond the data"],
)
def test_entry_without_its_data_makes_a_pair_unreadable(entry):
    pair = writable.Pair(1 << 20)
    pair.write(sectors(1, 65), 0)
    pair.index += entry.pack()
    with pytest.raises(errors.FormatError, match="outside the layer's data"):
        pair_of(pair)


def test_sealed_layer():
    pair = writable.Pair(1 << 20, uuid=UUID)
    pair.write(sectors(8, 65), 4096)
    pair.write(sectors(8, 66), 0)
    raw = writable.seal(pair_of(pair))
    layer = loaded(raw)
    assert (layer.header.flags, layer.trailer.flags) == (3, 6)
    assert (layer.trailer.index_size, layer.trailer.index_offset) == (2, 4096 * 3)
    assert len(raw) == 4096 * 3 + 512 + 4096
    assert layer.segments == [lsmt.Segment(0, 8, 16), lsmt.Segment(8, 8, 8)]
    assert commit.commit([layer]) == commit.commit([pair_of(pair)])


def test_sparse_layer(tmp_path):
    path = tmp_path / "sparse"
    header = lsmt.Record(19, virtual_size=1 << 30).pack()
    with open(path, "wb") as file:
        file.write(header)
        file.truncate((1 << 30) + 4096)
        file.seek(4096 + (1 << 20))
        file.write(sectors(8, 65))
    with stream.File(path) as file:
        layer = writable.load_sparse(path, file)
        assert layer.segments == [lsmt.Segment(2048, 8, 2056)]
        assert view.View([layer]).pread(4097, (1 << 20) - 1) == b"\0" + sectors(8, 65)
