# SPDX-License-Identifier: Apache-2.0
"""What the disk answers to commands, byte for byte, and with which sense data it refuses them."""

import struct

import pytest

from overlaybd_tcmu.ffi import native

from . import tcmu_device as scsi


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    path = tmp_path_factory.mktemp("scsi") / "layer"
    scsi.write_layer(path, bytes(range(256)) * (scsi.MAPPED // 256))
    return path


@pytest.fixture(scope="module")
def disk(layer):
    with scsi.Device([layer]) as one:
        yield one


# ---- modes

RECOVERY = bytes([1, 10]) + bytes(10)
CACHING = bytes([8, 18]) + bytes(18)
CONTROL = bytes([10, 10, 2, 0, 0, 0x40, 0, 0, 255, 255, 0, 0])
PAGES = {1: RECOVERY, 8: CACHING, 10: CONTROL, 0x3F: RECOVERY + CACHING + CONTROL}


def six(pages):
    return bytes([3 + len(pages), 0, 0x80, 0]) + pages


def ten(pages):
    return struct.pack(">HBBHH", 6 + len(pages), 0, 0x80, 0, 0) + pages


@pytest.mark.parametrize("page", PAGES)
def test_mode_pages(disk, page):
    assert scsi.good(disk.ask(scsi.mode_sense_6(page), 255)) == six(PAGES[page])
    assert scsi.good(disk.ask(scsi.mode_sense_10(page), 255)) == ten(PAGES[page])
    assert scsi.good(disk.ask(scsi.mode_sense_6(page, allocated=7), 255)) == six(PAGES[page])[:7]


def test_nothing_can_be_changed(disk):
    blank = RECOVERY + CACHING + CONTROL[:2] + bytes(10)
    assert scsi.good(disk.ask(scsi.mode_sense_6(0x3F, control=1), 255)) == six(blank)


def test_defaults_are_the_current_values(disk):
    assert scsi.good(disk.ask(scsi.mode_sense_6(0x3F, control=2), 255)) == six(PAGES[0x3F])


def test_nothing_is_saved(disk):
    assert scsi.refused(disk.ask(scsi.mode_sense_6(0x3F, control=3), 255)) == (scsi.ILLEGAL, 0x3900)


def test_all_subpages_are_the_pages(disk):
    assert scsi.good(disk.ask(scsi.mode_sense_10(0x3F, subpage=255), 255)) == ten(PAGES[0x3F])


@pytest.mark.parametrize("page, subpage", [(0, 0), (2, 0), (0x1C, 0), (8, 1), (0x3F, 1)])
def test_other_mode_pages_are_refused(disk, page, subpage):
    assert scsi.refused(disk.ask(scsi.mode_sense_6(page, subpage), 255)) == (
        scsi.ILLEGAL,
        scsi.INVALID_FIELD,
    )


@pytest.mark.parametrize(
    "pages", [b"", CACHING, CONTROL, RECOVERY + CONTROL, RECOVERY + CACHING + CONTROL]
)
def test_mode_select_of_what_is_already_so(disk, pages):
    for select, head in ((scsi.mode_select_6, bytes(4)), (scsi.mode_select_10, bytes(8))):
        data = head + pages
        assert scsi.good(disk.ask(select(len(data)), data=data)) == data


def test_mode_select_of_nothing(disk):
    assert disk.ask(scsi.mode_select_6(0)).status == 0


CHANGED = CACHING[:2] + b"\4" + CACHING[3:]


@pytest.mark.parametrize(
    "data, flags, expected",
    [
        (bytes(4) + CHANGED, 0x10, 0x2600),
        (bytes(4) + CONTROL[:1] + b"\x09" + CONTROL[2:11], 0x10, 0x1A00),
        (bytes(4) + CACHING, 0x00, scsi.INVALID_FIELD),
        (bytes(4) + CACHING, 0x11, scsi.INVALID_FIELD),
        (bytes(4) + b"\2\1\0", 0x10, scsi.INVALID_FIELD),
        (bytes(4) + b"\0", 0x10, scsi.INVALID_FIELD),
        (bytes(4) + CACHING[:10], 0x10, 0x1A00),
        (bytes(4) + CACHING[:1], 0x10, 0x1A00),
        (bytes(3), 0x10, 0x1A00),
        (b"\0\0\0\x08" + bytes(8) + CACHING, 0x10, 0x2600),
        (bytes(200), 0x10, scsi.INVALID_FIELD),
    ],
)
def test_mode_select_of_anything_else_is_refused(disk, data, flags, expected):
    answer = disk.ask(scsi.mode_select_6(len(data), flags), data=data)
    assert scsi.refused(answer) == (scsi.ILLEGAL, expected)


def test_mode_select_with_less_data_than_it_says(disk):
    assert scsi.refused(disk.ask(scsi.mode_select_6(24), data=bytes(12))) == (scsi.ILLEGAL, 0x1A00)


# ---- the rest


def test_unit_is_ready(disk):
    assert disk.ask(bytes(6)).status == 0


@pytest.mark.parametrize("opcode", [0x35, 0x91])
def test_nothing_is_to_be_synchronized(disk, opcode):
    assert disk.ask(bytes([opcode]) + bytes(15)).status == 0


@pytest.mark.parametrize("opcode", scsi.WRITES)
def test_writes_are_refused_as_write_protected(disk, opcode):
    before = scsi.good(disk.ask(scsi.read_10(0, 1), 512))
    assert scsi.refused(disk.ask(bytes([opcode]) + bytes(15), data=b"x" * 512)) == (
        scsi.DATA_PROTECT,
        0x2700,
    )
    assert scsi.good(disk.ask(scsi.read_10(0, 1), 512)) == before


def test_every_other_opcode_is_answered_as_invalid(disk):
    for opcode in sorted(set(range(256)) - set(scsi.KNOWN) - set(scsi.WRITES)):
        answer = disk.ask(bytes([opcode]) + bytes(15), 512)
        assert scsi.refused(answer) == (scsi.ILLEGAL, scsi.INVALID_OPCODE), hex(opcode)


# ---- reads


@pytest.mark.parametrize("read", scsi.READS)
@pytest.mark.parametrize("lba, blocks", [(0, 1), (1, 7), (2040, 16), (4000, 96)])
def test_reads(disk, read, lba, blocks):
    mapped = bytes(range(256)) * (scsi.MAPPED // 256) + bytes(scsi.SIZE - scsi.MAPPED)
    answer = disk.ask(read(lba, blocks), blocks * 512, pieces=3)
    assert scsi.good(answer) == mapped[lba * 512 :][: blocks * 512]


def test_read_6_of_0_blocks_reads_256(disk):
    assert scsi.good(disk.ask(scsi.read_6(0, 0), 256 * 512)) == bytes(range(256)) * 512


@pytest.mark.parametrize("read", scsi.READS[1:])
def test_read_of_nothing(disk, read):
    assert disk.ask(read(5, 0)).status == 0
    assert disk.ask(read(scsi.BLOCKS, 0)).status == 0


@pytest.mark.parametrize(
    "cdb",
    [
        scsi.read_6(scsi.BLOCKS - 1, 2),
        scsi.read_10(scsi.BLOCKS, 1),
        scsi.read_10(0xFFFFFFFF, 0xFFFF),
        scsi.read_12(0, scsi.BLOCKS + 1),
        scsi.read_16((1 << 64) - 1, 1),
        scsi.read_16((1 << 55) + 1, 1),
        scsi.read_10(scsi.BLOCKS + 1, 0),
    ],
)
def test_reads_past_the_end_are_refused(disk, cdb):
    assert scsi.refused(disk.ask(cdb, 1024)) == (scsi.ILLEGAL, scsi.OUT_OF_RANGE)


def test_read_with_protection_information_is_refused(disk):
    cdb = bytearray(scsi.read_10(0, 1))
    cdb[1] = 0x20
    assert scsi.refused(disk.ask(cdb, 512)) == (scsi.ILLEGAL, scsi.INVALID_FIELD)


def test_read_into_a_smaller_buffer(disk):
    assert scsi.good(disk.ask(scsi.read_10(1, 4), 1000, pieces=3)) == (bytes(range(256)) * 4)[:1000]


def test_read_into_a_larger_buffer_says_how_much(disk):
    answer = disk.ask(scsi.read_10(1, 1), 2048, pieces=3)
    assert answer.read_count == 512
    assert answer.data == bytes(range(256)) * 2 + b"\xee" * 1536


def test_read_into_no_buffer(disk):
    assert disk.ask(scsi.read_10(0, 1)).status == 0


def test_failed_read_is_a_medium_error_that_says_where(layer, tmp_path):
    path = tmp_path / "cut"
    path.write_bytes(layer.read_bytes())
    with scsi.Device([path]) as one:
        with open(path, "r+b") as file:
            file.truncate(4096 + scsi.MAPPED // 2)
        assert scsi.good(one.ask(scsi.read_10(100, 8), 4096))
        answer = one.ask(scsi.read_10(1536, 8), 4096)
        assert scsi.refused(answer) == (scsi.MEDIUM, 0x1100)
        assert answer.sense[0] == 0xF0
        assert answer.sense[3:7] == struct.pack(">I", 1536)
        assert scsi.good(one.ask(scsi.read_10(3000, 8), 4096)) == bytes(4096)


def test_counts(layer):
    with scsi.Device([layer]) as one:
        one.ask(scsi.read_10(0, 1), 512)
        one.ask(scsi.inquiry(), 36)
        one.ask(b"\xff" + bytes(15))
        stats = one.tcmu.stats()
    assert isinstance(stats, native.TcmuStats)
    assert (stats.commands, stats.reads, stats.others, stats.rejected) == (3, 1, 1, 1)
    assert stats.inflight == 0 and stats.notifies == 3 and stats.wakeups >= 1
