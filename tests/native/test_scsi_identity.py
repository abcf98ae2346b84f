# SPDX-License-Identifier: Apache-2.0
"""What the disk says of itself, byte for byte: INQUIRY, capacity, the list of its commands."""

import struct

import pytest

from overlaybd_tcmu import errors

from . import tcmu_device as scsi

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


# ---- INQUIRY


def test_standard_inquiry(disk):
    data = scsi.good(disk.ask(scsi.inquiry(), 255))
    assert data == bytes.fromhex("000005021f080002") + b"LIO-ORG TCMU device     0002"


@pytest.mark.parametrize("allocated", [0, 1, 4, 5, 35, 36, 37, 255])
def test_allocation_length_cuts(disk, allocated):
    answer = disk.ask(scsi.inquiry(allocated=allocated), 255)
    whole = scsi.good(disk.ask(scsi.inquiry(), 255))
    assert answer.status == 0
    assert answer.data == whole[:allocated].ljust(255, b"\xee")


def test_buffer_smaller_than_the_allocation_length_is_respected(disk):
    answer = disk.ask(scsi.inquiry(allocated=255), 20, pieces=3)
    assert answer.data == scsi.good(disk.ask(scsi.inquiry(), 255))[:20]


def test_page_without_evpd_is_refused(disk):
    assert scsi.refused(disk.ask(bytes([0x12, 0, 0x80, 0, 255, 0]), 255)) == (
        scsi.ILLEGAL,
        scsi.INVALID_FIELD,
    )


def test_list_of_pages(disk):
    assert scsi.good(disk.ask(scsi.inquiry(0), 255)) == bytes.fromhex("00000006 008083b0b1b2")


def test_every_listed_page_is_there_and_no_other(disk):
    listed = scsi.good(disk.ask(scsi.inquiry(0), 255))[4:]
    for page in range(256):
        answer = disk.ask(scsi.inquiry(page, 1024), 1024)
        if page in listed:
            data = scsi.good(answer)
            assert data[:2] == bytes([0, page])
            assert len(data) == 4 + struct.unpack_from(">H", data, 2)[0]
        else:
            assert scsi.refused(answer) == (scsi.ILLEGAL, scsi.INVALID_FIELD)


def test_serial(disk):
    assert scsi.good(disk.ask(scsi.inquiry(0x80), 255)) == b"\0\x80\0\x0e01ab-cdef-2345"


def test_designators(disk):
    data = scsi.good(disk.ask(scsi.inquiry(0x83), 255))
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
        assert scsi.good(one.ask(scsi.inquiry(0x80), 255)) == b"\0\x80\0\0"
        data = scsi.good(one.ask(scsi.inquiry(0x83, 1024), 1024))
        assert data == b"\0\x83\1\0" + b"\2\0\0\xfc" + b"x" * 251 + b"\0"


def test_long_serial_is_cut(layer, tmp_path):
    (tmp_path / "serial").write_text("T10 VPD Unit Serial Number: " + "7" * 254 + "\n")
    with scsi.Device([layer], {"serial_path": str(tmp_path / "serial")}) as one:
        assert scsi.good(one.ask(scsi.inquiry(0x80, 1024), 1024)) == b"\0\x80\0\xfc" + b"7" * 252
        assert b"LIO-ORG " + b"7" * 200 + b"\0" in scsi.good(
            one.ask(scsi.inquiry(0x83, 1024), 1024)
        )


def test_block_limits(disk):
    data = scsi.good(disk.ask(scsi.inquiry(0xB0), 255))
    expected = bytearray(64)
    struct.pack_into(">BBHB", expected, 0, 0, 0xB0, 60, 1)
    struct.pack_into(">I", expected, 8, (1 << 20) // 512)
    assert data == expected  # no discard, no WRITE SAME: the disk is read-only


def test_characteristics_and_provisioning(disk):
    assert scsi.good(disk.ask(scsi.inquiry(0xB1), 255)) == b"\0\xb1\0\x3c\0\1" + bytes(58)
    assert scsi.good(disk.ask(scsi.inquiry(0xB2), 255)) == b"\0\xb2\0\4" + bytes(4)


# ---- capacity


def test_capacity(disk):
    assert scsi.good(disk.ask(scsi.capacity_10(), 8)) == struct.pack(">II", scsi.BLOCKS - 1, 512)
    expected = struct.pack(">QI", scsi.BLOCKS - 1, 512) + bytes(20)
    assert scsi.good(disk.ask(scsi.capacity_16(), 32)) == expected
    assert scsi.good(disk.ask(scsi.capacity_16(12), 32)) == expected[:12]


def test_capacity_beyond_2_tib(layer, tmp_path):
    scsi.write_layer(tmp_path / "top", bytes(512), size=5 << 40)
    with scsi.Device([layer, tmp_path / "top"]) as one:
        assert scsi.good(one.ask(scsi.capacity_10(), 8)) == struct.pack(">II", 0xFFFFFFFF, 512)
        assert scsi.good(one.ask(scsi.capacity_16(), 32))[:12] == struct.pack(
            ">QI", (5 << 31) - 1, 512
        )
        answer = one.ask(scsi.read_16((5 << 31) - 1, 1), 512)
        assert scsi.good(answer) == bytes(512)
        assert scsi.refused(one.ask(scsi.read_16((5 << 31) - 1, 2), 1024)) == (
            scsi.ILLEGAL,
            scsi.OUT_OF_RANGE,
        )


def test_blocks_of_4096(layer):
    with scsi.Device([layer], {"block_size": 4096, "max_transfer": 1 << 20}) as one:
        expected = struct.pack(">II", scsi.SIZE // 4096 - 1, 4096)
        assert scsi.good(one.ask(scsi.capacity_10(), 8)) == expected
        assert scsi.good(one.ask(scsi.inquiry(0xB0), 255))[8:12] == struct.pack(">I", 256)
        assert scsi.good(one.ask(scsi.read_10(255, 2), 8192)) == bytes(range(256)) * 16 + bytes(
            4096
        )


@pytest.mark.parametrize("size", [0, 1, 511, 520, 1024, 8192])
def test_other_block_sizes_are_refused(layer, size):
    with pytest.raises(errors.NativeError, match="hw_block_size"):
        scsi.Device([layer], {"block_size": size})


def test_other_service_actions_are_refused(disk):
    for action in range(32):
        if action != 0x10:
            cdb = bytes([0x9E, action]) + bytes(14)
            assert scsi.refused(disk.ask(cdb, 32)) == (scsi.ILLEGAL, scsi.INVALID_OPCODE)


# ---- which commands there are


def ask_opcodes(disk, option, opcode=0, action=0, allocated=512):
    return disk.ask(scsi.report_opcodes(option, opcode, action, allocated), allocated)


def test_list_of_commands(disk):
    data = scsi.good(ask_opcodes(disk, 0))
    assert struct.unpack_from(">I", data)[0] == len(data) - 4
    rows = [struct.unpack_from(">BxHxBH", data, at) for at in range(4, len(data), 8)]
    listed = {opcode for opcode, _, _, _ in rows}
    assert listed == {*scsi.KNOWN, 0xA0}  # REPORT LUNS: the kernel answers it
    for opcode, action, flags, length in rows:
        assert (action, flags) == {0x9E: (0x10, 1), 0xA3: (0x0C, 1)}.get(opcode, (0, 0))
        assert length == {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}[opcode >> 5]


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - {0x9E, 0xA3}))
def test_one_command(disk, opcode):
    data = scsi.good(ask_opcodes(disk, 1, opcode))
    assert data == scsi.good(ask_opcodes(disk, 3, opcode))
    if opcode in (*scsi.KNOWN, 0xA0):
        assert data[1] == 3 and data[4] == opcode
        assert struct.unpack_from(">H", data, 2)[0] == len(data) - 4
    else:  # WRITE SAME among them: the kernel offers no zeroing then
        assert data == b"\0\1\0\0"


def test_commands_with_service_actions(disk):
    for opcode, known in ((0x9E, 0x10), (0xA3, 0x0C)):
        for action in range(32):
            data = scsi.good(ask_opcodes(disk, 2, opcode, action))
            assert data[1] == (3 if action == known else 1)


@pytest.mark.parametrize("option, opcode", [(1, 0x9E), (1, 0xA3), (2, 0x28), (4, 0), (7, 0)])
def test_wrong_questions_about_commands(disk, option, opcode):
    assert scsi.refused(ask_opcodes(disk, option, opcode)) == (scsi.ILLEGAL, scsi.INVALID_FIELD)


def test_other_maintenance_is_refused(disk):
    for action in sorted(set(range(32)) - {0x0C}):
        answer = disk.ask(bytes([0xA3, action]) + bytes(10), 512)
        assert scsi.refused(answer) == (scsi.ILLEGAL, scsi.INVALID_OPCODE)
