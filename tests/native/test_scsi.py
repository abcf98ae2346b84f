# SPDX-License-Identifier: Apache-2.0
"""What the disk answers to each command, byte for byte, and with which sense data it refuses."""

import struct

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native

from . import tcmu_device as scsi

ILLEGAL, DATA_PROTECT, MEDIUM = 5, 7, 3
INVALID_OPCODE, INVALID_FIELD, OUT_OF_RANGE = 0x2000, 0x2400, 0x2100
CFGSTRING = "overlaybd//images/config.v1.json"


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    path = tmp_path_factory.mktemp("scsi") / "layer"
    scsi.write_layer(path, bytes(range(256)) * (scsi.MAPPED // 256))
    return path


@pytest.fixture(scope="module")
def disk(layer, tmp_path_factory):
    serial = tmp_path_factory.mktemp("wwn") / "vpd_unit_serial"
    serial.write_text("T10 VPD Unit Serial Number: 01ab-cdef-2345\n")
    options = {"max_transfer": 1 << 20, "cfgstring": CFGSTRING, "serial_path": str(serial)}
    with scsi.Device([layer], options) as one:
        yield one


def good(answer):
    assert (answer.status, answer.sense) == (0, bytes(18))
    return answer.data[: answer.read_count]


def refused(answer):
    assert answer.status == 2
    assert answer.sense[0] & 0x7F == 0x70 and answer.sense[7] == 10
    return answer.key, answer.asc


# ---- INQUIRY


def test_standard_inquiry(disk):
    data = good(disk.ask(scsi.inquiry(), 255))
    assert data == bytes.fromhex("000005021f080002") + b"LIO-ORG TCMU device     0002"


@pytest.mark.parametrize("allocated", [0, 1, 4, 5, 35, 36, 37, 255])
def test_allocation_length_cuts(disk, allocated):
    answer = disk.ask(scsi.inquiry(allocated=allocated), 255)
    whole = good(disk.ask(scsi.inquiry(), 255))
    assert answer.status == 0
    assert answer.data == whole[:allocated].ljust(255, b"\xee")


def test_buffer_smaller_than_the_allocation_length_is_respected(disk):
    answer = disk.ask(scsi.inquiry(allocated=255), 20, pieces=3)
    assert answer.data == good(disk.ask(scsi.inquiry(), 255))[:20]


def test_page_without_evpd_is_refused(disk):
    assert refused(disk.ask(bytes([0x12, 0, 0x80, 0, 255, 0]), 255)) == (ILLEGAL, INVALID_FIELD)


def test_list_of_pages(disk):
    assert good(disk.ask(scsi.inquiry(0), 255)) == bytes.fromhex("00000006 008083b0b1b2")


def test_every_listed_page_is_there_and_no_other(disk):
    listed = good(disk.ask(scsi.inquiry(0), 255))[4:]
    for page in range(256):
        answer = disk.ask(scsi.inquiry(page, 1024), 1024)
        if page in listed:
            data = good(answer)
            assert data[:2] == bytes([0, page])
            assert len(data) == 4 + struct.unpack_from(">H", data, 2)[0]
        else:
            assert refused(answer) == (ILLEGAL, INVALID_FIELD)


def test_serial(disk):
    assert good(disk.ask(scsi.inquiry(0x80), 255)) == b"\0\x80\0\x0e01ab-cdef-2345"


def test_designators(disk):
    data = good(disk.ask(scsi.inquiry(0x83), 255))
    t10 = b"\2\1\0\x17LIO-ORG 01ab-cdef-2345\0"
    naa = b"\1\3\0\x10" + bytes.fromhex("6001405" + "01abcdef2345".ljust(25, "0"))
    vendor = b"\2\0\0" + bytes([len(CFGSTRING) + 1]) + CFGSTRING.encode() + b"\0"
    assert data[4:] == t10 + naa + vendor


@pytest.mark.parametrize("serial", [None, "/nonexistent", "empty"])
def test_without_serial_there_are_no_world_wide_names(layer, tmp_path, serial):
    if serial == "empty":
        (tmp_path / "serial").write_text("T10 VPD Unit Serial Number: \n")
        serial = str(tmp_path / "serial")
    with scsi.Device([layer], {"serial_path": serial, "cfgstring": "x" * 300}) as one:
        assert good(one.ask(scsi.inquiry(0x80), 255)) == b"\0\x80\0\0"
        data = good(one.ask(scsi.inquiry(0x83, 1024), 1024))
        assert data == b"\0\x83\1\0" + b"\2\0\0\xfc" + b"x" * 251 + b"\0"


def test_long_serial_is_cut(layer, tmp_path):
    (tmp_path / "serial").write_text("T10 VPD Unit Serial Number: " + "7" * 254 + "\n")
    with scsi.Device([layer], {"serial_path": str(tmp_path / "serial")}) as one:
        assert good(one.ask(scsi.inquiry(0x80, 1024), 1024)) == b"\0\x80\0\xfc" + b"7" * 252
        assert b"LIO-ORG " + b"7" * 200 + b"\0" in good(one.ask(scsi.inquiry(0x83, 1024), 1024))


def test_block_limits(disk):
    data = good(disk.ask(scsi.inquiry(0xB0), 255))
    expected = bytearray(64)
    struct.pack_into(">BBHB", expected, 0, 0, 0xB0, 60, 1)
    struct.pack_into(">I", expected, 8, (1 << 20) // 512)
    assert data == expected  # no discard, no WRITE SAME: the disk is read-only


def test_characteristics_and_provisioning(disk):
    assert good(disk.ask(scsi.inquiry(0xB1), 255)) == b"\0\xb1\0\x3c\0\1" + bytes(58)
    assert good(disk.ask(scsi.inquiry(0xB2), 255)) == b"\0\xb2\0\4" + bytes(4)


# ---- capacity


def test_capacity(disk):
    assert good(disk.ask(scsi.capacity_10(), 8)) == struct.pack(">II", scsi.BLOCKS - 1, 512)
    expected = struct.pack(">QI", scsi.BLOCKS - 1, 512) + bytes(20)
    assert good(disk.ask(scsi.capacity_16(), 32)) == expected
    assert good(disk.ask(scsi.capacity_16(12), 32)) == expected[:12]


def test_capacity_beyond_2_tib(layer, tmp_path):
    scsi.write_layer(tmp_path / "top", bytes(512), size=5 << 40)
    with scsi.Device([layer, tmp_path / "top"]) as one:
        assert good(one.ask(scsi.capacity_10(), 8)) == struct.pack(">II", 0xFFFFFFFF, 512)
        assert good(one.ask(scsi.capacity_16(), 32))[:12] == struct.pack(">QI", (5 << 31) - 1, 512)
        answer = one.ask(scsi.read_16((5 << 31) - 1, 1), 512)
        assert good(answer) == bytes(512)
        assert refused(one.ask(scsi.read_16((5 << 31) - 1, 2), 1024)) == (ILLEGAL, OUT_OF_RANGE)


def test_blocks_of_4096(layer):
    with scsi.Device([layer], {"block_size": 4096, "max_transfer": 1 << 20}) as one:
        expected = struct.pack(">II", scsi.SIZE // 4096 - 1, 4096)
        assert good(one.ask(scsi.capacity_10(), 8)) == expected
        assert good(one.ask(scsi.inquiry(0xB0), 255))[8:12] == struct.pack(">I", 256)
        assert good(one.ask(scsi.read_10(255, 2), 8192)) == bytes(range(256)) * 16 + bytes(4096)


@pytest.mark.parametrize("size", [0, 1, 511, 520, 1024, 8192])
def test_other_block_sizes_are_refused(layer, size):
    with pytest.raises(errors.NativeError, match="hw_block_size"):
        scsi.Device([layer], {"block_size": size})


def test_other_service_actions_are_refused(disk):
    for action in range(32):
        if action != 0x10:
            cdb = bytes([0x9E, action]) + bytes(14)
            assert refused(disk.ask(cdb, 32)) == (ILLEGAL, INVALID_OPCODE)


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
    assert good(disk.ask(scsi.mode_sense_6(page), 255)) == six(PAGES[page])
    assert good(disk.ask(scsi.mode_sense_10(page), 255)) == ten(PAGES[page])
    assert good(disk.ask(scsi.mode_sense_6(page, allocated=7), 255)) == six(PAGES[page])[:7]


def test_nothing_can_be_changed(disk):
    blank = RECOVERY + CACHING + CONTROL[:2] + bytes(10)
    assert good(disk.ask(scsi.mode_sense_6(0x3F, control=1), 255)) == six(blank)


def test_defaults_are_the_current_values(disk):
    assert good(disk.ask(scsi.mode_sense_6(0x3F, control=2), 255)) == six(PAGES[0x3F])


def test_nothing_is_saved(disk):
    assert refused(disk.ask(scsi.mode_sense_6(0x3F, control=3), 255)) == (ILLEGAL, 0x3900)


def test_all_subpages_are_the_pages(disk):
    assert good(disk.ask(scsi.mode_sense_10(0x3F, subpage=255), 255)) == ten(PAGES[0x3F])


@pytest.mark.parametrize("page, subpage", [(0, 0), (2, 0), (0x1C, 0), (8, 1), (0x3F, 1)])
def test_other_mode_pages_are_refused(disk, page, subpage):
    assert refused(disk.ask(scsi.mode_sense_6(page, subpage), 255)) == (ILLEGAL, INVALID_FIELD)


@pytest.mark.parametrize(
    "pages", [b"", CACHING, CONTROL, RECOVERY + CONTROL, RECOVERY + CACHING + CONTROL]
)
def test_mode_select_of_what_is_already_so(disk, pages):
    for select, head in ((scsi.mode_select_6, bytes(4)), (scsi.mode_select_10, bytes(8))):
        data = head + pages
        assert good(disk.ask(select(len(data)), data=data)) == data


def test_mode_select_of_nothing(disk):
    assert disk.ask(scsi.mode_select_6(0)).status == 0


CHANGED = CACHING[:2] + b"\4" + CACHING[3:]


@pytest.mark.parametrize(
    "data, flags, expected",
    [
        (bytes(4) + CHANGED, 0x10, 0x2600),
        (bytes(4) + CONTROL[:1] + b"\x09" + CONTROL[2:11], 0x10, 0x1A00),
        (bytes(4) + CACHING, 0x00, INVALID_FIELD),
        (bytes(4) + CACHING, 0x11, INVALID_FIELD),
        (bytes(4) + b"\2\1\0", 0x10, INVALID_FIELD),
        (bytes(4) + b"\0", 0x10, INVALID_FIELD),
        (bytes(4) + CACHING[:10], 0x10, 0x1A00),
        (bytes(4) + CACHING[:1], 0x10, 0x1A00),
        (bytes(3), 0x10, 0x1A00),
        (b"\0\0\0\x08" + bytes(8) + CACHING, 0x10, 0x2600),
        (bytes(200), 0x10, INVALID_FIELD),
    ],
)
def test_mode_select_of_anything_else_is_refused(disk, data, flags, expected):
    answer = disk.ask(scsi.mode_select_6(len(data), flags), data=data)
    assert refused(answer) == (ILLEGAL, expected)


def test_mode_select_with_less_data_than_it_says(disk):
    assert refused(disk.ask(scsi.mode_select_6(24), data=bytes(12))) == (ILLEGAL, 0x1A00)


# ---- the rest


def test_unit_is_ready(disk):
    assert disk.ask(bytes(6)).status == 0


@pytest.mark.parametrize("opcode", [0x35, 0x91])
def test_nothing_is_to_be_synchronized(disk, opcode):
    assert disk.ask(bytes([opcode]) + bytes(15)).status == 0


WRITES = (0x0A, 0x2A, 0xAA, 0x8A, 0x2E, 0xAE, 0x8E, 0x41, 0x93, 0x42)


@pytest.mark.parametrize("opcode", WRITES)
def test_writes_are_refused_as_write_protected(disk, opcode):
    before = good(disk.ask(scsi.read_10(0, 1), 512))
    assert refused(disk.ask(bytes([opcode]) + bytes(15), data=b"x" * 512)) == (DATA_PROTECT, 0x2700)
    assert good(disk.ask(scsi.read_10(0, 1), 512)) == before


KNOWN = (0x00, 0x08, 0x12, 0x15, 0x1A, 0x25, 0x28, 0x35, 0x55, 0x5A, 0x88, 0x91, 0x9E, 0xA3, 0xA8)


def test_every_other_opcode_is_answered_as_invalid(disk):
    for opcode in sorted(set(range(256)) - set(KNOWN) - set(WRITES)):
        answer = disk.ask(bytes([opcode]) + bytes(15), 512)
        assert refused(answer) == (ILLEGAL, INVALID_OPCODE), hex(opcode)


# ---- which commands there are


def ask_opcodes(disk, option, opcode=0, action=0, allocated=512):
    return disk.ask(scsi.report_opcodes(option, opcode, action, allocated), allocated)


def test_list_of_commands(disk):
    data = good(ask_opcodes(disk, 0))
    assert struct.unpack_from(">I", data)[0] == len(data) - 4
    rows = [struct.unpack_from(">BxHxBH", data, at) for at in range(4, len(data), 8)]
    listed = {opcode for opcode, _, _, _ in rows}
    assert listed == {*KNOWN, 0xA0}  # REPORT LUNS: the kernel answers it
    for opcode, action, flags, length in rows:
        assert (action, flags) == {0x9E: (0x10, 1), 0xA3: (0x0C, 1)}.get(opcode, (0, 0))
        assert length == {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}[opcode >> 5]


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - {0x9E, 0xA3}))
def test_one_command(disk, opcode):
    data = good(ask_opcodes(disk, 1, opcode))
    assert data == good(ask_opcodes(disk, 3, opcode))
    if opcode in (*KNOWN, 0xA0):
        assert data[1] == 3 and data[4] == opcode
        assert struct.unpack_from(">H", data, 2)[0] == len(data) - 4
    else:  # WRITE SAME among them: the kernel offers no zeroing then
        assert data == b"\0\1\0\0"


def test_commands_with_service_actions(disk):
    for opcode, known in ((0x9E, 0x10), (0xA3, 0x0C)):
        for action in range(32):
            data = good(ask_opcodes(disk, 2, opcode, action))
            assert data[1] == (3 if action == known else 1)


@pytest.mark.parametrize("option, opcode", [(1, 0x9E), (1, 0xA3), (2, 0x28), (4, 0), (7, 0)])
def test_wrong_questions_about_commands(disk, option, opcode):
    assert refused(ask_opcodes(disk, option, opcode)) == (ILLEGAL, INVALID_FIELD)


def test_other_maintenance_is_refused(disk):
    for action in sorted(set(range(32)) - {0x0C}):
        answer = disk.ask(bytes([0xA3, action]) + bytes(10), 512)
        assert refused(answer) == (ILLEGAL, INVALID_OPCODE)


# ---- reads


@pytest.mark.parametrize("read", scsi.READS)
@pytest.mark.parametrize("lba, blocks", [(0, 1), (1, 7), (2040, 16), (4000, 96)])
def test_reads(disk, read, lba, blocks):
    mapped = bytes(range(256)) * (scsi.MAPPED // 256) + bytes(scsi.SIZE - scsi.MAPPED)
    answer = disk.ask(read(lba, blocks), blocks * 512, pieces=3)
    assert good(answer) == mapped[lba * 512 :][: blocks * 512]


def test_read_6_of_0_blocks_reads_256(disk):
    assert good(disk.ask(scsi.read_6(0, 0), 256 * 512)) == bytes(range(256)) * 512


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
    assert refused(disk.ask(cdb, 1024)) == (ILLEGAL, OUT_OF_RANGE)


def test_read_with_protection_information_is_refused(disk):
    cdb = bytearray(scsi.read_10(0, 1))
    cdb[1] = 0x20
    assert refused(disk.ask(cdb, 512)) == (ILLEGAL, INVALID_FIELD)


def test_read_into_a_smaller_buffer(disk):
    assert good(disk.ask(scsi.read_10(1, 4), 1000, pieces=3)) == (bytes(range(256)) * 4)[:1000]


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
        assert good(one.ask(scsi.read_10(100, 8), 4096))
        answer = one.ask(scsi.read_10(1536, 8), 4096)
        assert refused(answer) == (MEDIUM, 0x1100)
        assert answer.sense[0] == 0xF0
        assert answer.sense[3:7] == struct.pack(">I", 1536)
        assert good(one.ask(scsi.read_10(3000, 8), 4096)) == bytes(4096)


def test_counts(layer):
    with scsi.Device([layer]) as one:
        one.ask(scsi.read_10(0, 1), 512)
        one.ask(scsi.inquiry(), 36)
        one.ask(b"\xff" + bytes(15))
        stats = one.tcmu.stats()
    assert isinstance(stats, native.TcmuStats)
    assert (stats.commands, stats.reads, stats.others, stats.rejected) == (3, 1, 1, 1)
    assert stats.inflight == 0 and stats.notifies == 3 and stats.wakeups >= 1
