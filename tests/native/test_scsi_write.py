# SPDX-License-Identifier: Apache-2.0
"""A disk with a writable layer: writes, discards, flushes, and what it says of itself."""

import os
import resource
import signal
import struct
import subprocess

import pytest

from overlaybd_tcmu.ffi import native

from . import tcmu_device as scsi

SIZE = 8 << 20
BLOCKS = SIZE // 512


def write_6(lba, blocks):
    return struct.pack(">I", 0x0A << 24 | lba) + bytes([blocks & 255, 0])


def write_10(lba, blocks, flags=0):
    return struct.pack(">BBIBHB", 0x2A, flags, lba, 0, blocks, 0)


def write_12(lba, blocks, flags=0):
    return struct.pack(">BBIIBB", 0xAA, flags, lba, blocks, 0, 0)


def write_16(lba, blocks, flags=0):
    return struct.pack(">BBQIBB", 0x8A, flags, lba, blocks, 0, 0)


WRITES = (write_6, write_10, write_12, write_16)


def write_same_10(lba, blocks, flags=0):
    return struct.pack(">BBIBHB", 0x41, flags, lba, 0, blocks, 0)


def write_same_16(lba, blocks, flags=0):
    return struct.pack(">BBQIBB", 0x93, flags, lba, blocks, 0, 0)


def unmap(ranges, count=None):
    """The CDB and the parameter list."""
    data = b"".join(struct.pack(">QI4x", *one) for one in ranges)
    data = struct.pack(">HH4x", 6 + len(data), len(data)) + data
    return struct.pack(">BB5xHB", 0x42, 0, len(data) if count is None else count, 0), data


def synchronize(opcode=0x35):
    return bytes([opcode]) + bytes(15)


class Disk(scsi.Device):
    """A device over a new writable layer, alone."""

    def __init__(self, folder, options=None, size=SIZE, sparse=False, **kernel):
        self.pair = str(folder / "data"), str(folder / "index")
        if not os.path.exists(self.pair[0]):
            native.create_upper(*self.pair, size, sparse)
        upper = native.Upper(*self.pair)
        super().__init__([], options, {"helpers": 1, "upper": upper}, **kernel)

    def write(self, data, lba=0, cdb=write_10):
        return self.ask(cdb(lba, len(data) // 512), data=data)

    def read(self, lba, blocks):
        return scsi.good(self.ask(scsi.read_10(lba, blocks), blocks * 512))


@pytest.fixture
def disk(tmp_path):
    with Disk(tmp_path) as one:
        yield one


def pattern(blocks, letter=b"p"):
    return b"".join(letter + b"%07d" % number + bytes(504) for number in range(blocks))


# ---- what it says of itself


def test_provisioning_and_limits(disk):
    page = scsi.good(disk.ask(scsi.inquiry(0xB2), 255))
    assert page[:8] == bytes([0, 0xB2, 0, 4, 0, 0xE4, 2, 0])
    limits = scsi.good(disk.ask(scsi.inquiry(0xB0), 255))
    assert struct.unpack(">IIIIQ", limits[20:44]) == (2**32 - 1, 1, 8, 1 << 31, 2**32 - 1)
    capacity = scsi.good(disk.ask(scsi.capacity_16(), 32))
    assert capacity[:16] == struct.pack(">QIBBBB", BLOCKS - 1, 512, 0, 0, 0xC0, 0)


def test_write_cache_is_on_and_writes_are_allowed(disk):
    caching = bytes([8, 18, 4]) + bytes(17)
    assert scsi.good(disk.ask(scsi.mode_sense_6(8), 255)) == bytes([23, 0, 0, 0]) + caching
    assert disk.ask(scsi.mode_select_6(24), data=bytes([0, 0, 0, 0]) + caching).status == 0


def test_write_cache_cannot_be_switched_off(disk):
    off = bytes(4) + bytes([8, 18]) + bytes(18)
    assert scsi.refused(disk.ask(scsi.mode_select_6(24), data=off)) == (scsi.ILLEGAL, 0x2600)


@pytest.mark.parametrize("opcode", [0x0A, 0x2A, 0xAA, 0x8A, 0x41, 0x93, 0x42])
def test_opcodes_are_reported_where_they_work(disk, opcode):
    data = scsi.good(disk.ask(scsi.report_opcodes(1, opcode), 512))
    assert data[1] == 3 and data[4] == opcode
    everything = scsi.good(disk.ask(scsi.report_opcodes(0), 512))
    assert opcode in everything[4::8]


def test_read_only_by_request(tmp_path):
    with Disk(tmp_path, {"read_only": True}) as one:
        assert scsi.refused(one.write(pattern(1))) == (scsi.DATA_PROTECT, 0x2700)
        assert scsi.good(one.ask(scsi.inquiry(0xB2), 255))[5] == 0
        assert scsi.good(one.ask(scsi.mode_sense_6(8), 255))[2] == 0x80


# ---- writes


@pytest.mark.parametrize("cdb", WRITES)
@pytest.mark.parametrize("lba, blocks, pieces", [(0, 1, 1), (7, 3, 3), (100, 200, 7)])
def test_what_is_written_is_read(disk, cdb, lba, blocks, pieces):
    data = pattern(blocks)
    assert disk.ask(cdb(lba, blocks), data=data, pieces=pieces).status == 0
    assert disk.read(lba, blocks) == data
    assert disk.read(0, lba) == bytes(lba * 512) if lba else True
    assert disk.read(lba + blocks, 1) == bytes(512)


def test_write_6_of_0_blocks_writes_256(disk):
    data = pattern(256)
    assert disk.ask(write_6(1, 0), data=data).status == 0
    assert disk.read(0, 258) == bytes(512) + data + bytes(512)


def test_write_of_nothing(disk):
    assert disk.ask(write_10(0, 0)).status == 0
    assert disk.image.stats().writes == 0


def test_megabyte_is_one_entry(disk):
    data = pattern(2048)
    assert disk.write(data).status == 0
    assert disk.read(0, 2048) == data
    assert os.stat(disk.pair[0]).st_size == 4096 + len(data)


def test_last_block(disk):
    assert disk.write(pattern(1), BLOCKS - 1).status == 0
    assert disk.read(BLOCKS - 1, 1) == pattern(1)


@pytest.mark.parametrize("lba, blocks", [(BLOCKS, 1), (BLOCKS - 1, 2), (2**32 - 1, 1)])
def test_writes_past_the_end_are_refused(disk, lba, blocks):
    answer = disk.ask(write_10(lba, blocks), data=bytes(1024))
    assert scsi.refused(answer) == (scsi.ILLEGAL, scsi.OUT_OF_RANGE)
    assert scsi.refused(disk.ask(write_same_10(lba, blocks), data=bytes(512)))
    cdb, data = unmap([(lba, blocks)])
    assert scsi.refused(disk.ask(cdb, data=data)) == (scsi.ILLEGAL, scsi.OUT_OF_RANGE)


@pytest.mark.parametrize("flags", [0x08, 0x20])
@pytest.mark.parametrize("cdb", WRITES[1:])
def test_what_is_not_offered_is_refused(disk, cdb, flags):
    """Force unit access, which MODE SENSE does not offer; protection information."""
    answer = disk.ask(cdb(0, 1, flags), data=pattern(1))
    assert scsi.refused(answer) == (scsi.ILLEGAL, scsi.INVALID_FIELD)
    assert disk.read(0, 1) == bytes(512)


def test_write_with_too_little_data_is_refused(disk):
    answer = disk.ask(write_10(0, 2), data=pattern(1))
    assert scsi.refused(answer) == (scsi.ILLEGAL, scsi.INVALID_FIELD)
    assert disk.read(0, 2) == bytes(1024)


def test_write_and_verify_is_no_command(disk):
    assert scsi.refused(disk.ask(bytes([0x2E]) + bytes(15), data=pattern(1))) == (
        scsi.ILLEGAL,
        scsi.INVALID_OPCODE,
    )


# ---- zeros


@pytest.mark.parametrize("flags", [0, 8])
@pytest.mark.parametrize("cdb", [write_same_10, write_same_16])
def test_write_same_of_zeros(disk, cdb, flags):
    disk.write(pattern(64))
    assert disk.ask(cdb(8, 16, flags), data=bytes(512)).status == 0
    assert disk.read(0, 64) == pattern(64)[:4096] + bytes(8192) + pattern(64)[12288:]
    assert disk.image.stats().discards == 1


def test_write_same_without_data(disk):
    disk.write(pattern(8))
    assert disk.ask(write_same_16(0, 8, flags=1)).status == 0
    assert disk.read(0, 8) == bytes(4096)


def test_write_same_of_a_pattern(disk):
    block = os.urandom(512)
    assert disk.ask(write_same_16(3, 5000), data=block).status == 0
    assert disk.read(0, 4) == bytes(1536) + block
    assert disk.read(5000, 5) == block * 3 + bytes(1024)


@pytest.mark.parametrize(
    "cdb, data",
    [
        (write_same_16(0, 0), bytes(512)),
        (write_same_16(0, 8, 0x10), bytes(512)),
        (write_same_16(0, 8, 0x20), bytes(512)),
        (write_same_16(0, 8), bytes(256)),
        (write_same_16(0, 8), b""),
        (write_same_16(0, 9000), b"x" * 512),
        (write_same_16(0, 8, 8), b"x" * 512),
    ],
)
def test_write_same_that_cannot_be(disk, cdb, data):
    assert scsi.refused(disk.ask(cdb, data=data)) == (scsi.ILLEGAL, scsi.INVALID_FIELD)


def test_unmap(disk):
    disk.write(pattern(64))
    cdb, data = unmap([(8, 16)])
    assert disk.ask(cdb, data=data).status == 0
    assert disk.read(0, 64) == pattern(64)[:4096] + bytes(8192) + pattern(64)[12288:]


@pytest.mark.parametrize(
    "cdb, data, expected",
    [
        (*unmap([]), None),
        (*unmap([(0, 0)]), None),
        (unmap([(0, 8)], 0)[0], b"", None),
        (*unmap([(0, 8), (16, 8)]), (scsi.ILLEGAL, 0x2600)),
        (unmap([(0, 8)], 7)[0], unmap([(0, 8)])[1], (scsi.ILLEGAL, 0x1A00)),
        (unmap([(0, 8)], 20)[0], unmap([(0, 8)])[1], (scsi.ILLEGAL, 0x1A00)),
        (unmap([(0, 8)])[0], unmap([(0, 8)])[1][:16], (scsi.ILLEGAL, 0x1A00)),
        (bytes([0x42, 1]) + unmap([(0, 8)])[0][2:], unmap([(0, 8)])[1], (scsi.ILLEGAL, 0x2400)),
    ],
)
def test_unmap_that_says_nothing_or_too_much(disk, cdb, data, expected):
    disk.write(pattern(8))
    answer = disk.ask(cdb, data=data)
    assert (scsi.refused(answer) if answer.status else None) == expected
    assert disk.read(0, 8) == pattern(8)


# ---- flushes


@pytest.mark.parametrize("opcode", [0x35, 0x91])
def test_synchronize_cache_confirms(disk, opcode):
    disk.write(pattern(1))
    assert disk.ask(synchronize(opcode)).status == 0
    with open(disk.pair[1], "rb") as file:
        header = file.read(4096)
    ends = [struct.unpack_from("<Q", header, at + 16)[0] for at in (2048, 2560)]
    assert sorted(ends) == [4096, 4112]


# ---- a disk of 4096-byte blocks


def test_large_blocks(tmp_path):
    with Disk(tmp_path, {"block_size": 4096}) as one:
        data = b"".join(pattern(8, letter) for letter in (b"a", b"b"))
        assert one.ask(write_10(1, 2), data=data).status == 0
        assert one.ask(write_same_10(2, 1), data=bytes(4096)).status == 0
        assert scsi.good(one.ask(scsi.read_10(0, 4), 16384)) == bytes(4096) + data[:4096] + bytes(
            8192
        )
        assert struct.unpack(">I", scsi.good(one.ask(scsi.inquiry(0xB0), 255))[28:32]) == (1,)


# ---- failures


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own with little room."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("cannot mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_is_told_as_such_and_can_be_emptied(small_disk):
    """0x0727/07: what the guest's kernel makes ENOSPC of."""
    with Disk(small_disk) as one:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(400 << 10))
        written = 0
        while (answer := one.write(pattern(64), written * 64)).status == 0:
            written += 1
        assert scsi.refused(answer) == (scsi.DATA_PROTECT, 0x2707)
        for number in range(written):
            assert one.read(number * 64, 64) == pattern(64)
        assert one.read(written * 64, 64) == bytes(64 * 512)
        ballast.unlink()
        assert one.write(pattern(64, b"q"), written * 64).status == 0
        assert one.ask(synchronize()).status == 0
        assert one.read(written * 64, 64) == pattern(64, b"q")


def test_discards_work_on_a_full_disk_and_give_space_back(small_disk):
    with Disk(small_disk) as one:
        lba = 0
        while one.write(pattern(64), lba).status == 0:
            lba += 64
        assert lba > 512
        for at in range(0, lba, 64):
            cdb, data = unmap([(at, 64)])
            assert one.ask(cdb, data=data).status == 0
        for _ in range(3):  # more than there is room for, but for what is overwritten
            assert one.write(pattern(512), 0).status == 0
            assert one.read(0, 512) == pattern(512)
    with Disk(small_disk) as one:
        assert one.read(0, 1024) == pattern(512) + bytes(512 * 512)


def test_other_failures_are_write_errors(tmp_path):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Disk(tmp_path) as one:
        assert one.write(pattern(8)).status == 0
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, old[1]))
        try:
            assert scsi.refused(one.write(pattern(256))) == (scsi.MEDIUM, 0x0C00)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, before)
        assert one.write(pattern(256)).status == 0
        assert one.read(0, 256) == pattern(256)


# ---- many at once


@pytest.mark.parametrize("sparse", [False, True])
def test_random_commands_in_flight(tmp_path, rng, sparse):
    """Those in flight at one time do not overlap; each finds what was complete before it came."""
    model = bytearray(SIZE)
    with Disk(tmp_path, sparse=sparse, ring=256 << 10, data=32 << 20) as one:
        for _ in range(150):
            reads = {}
            chunks = rng.sample(range(64), rng.randrange(1, 33))  # of 128 KiB
            for chunk in chunks:
                lba = chunk * 256 + rng.randrange(256)
                blocks = min(rng.choice([1, 8, 8, 8, 64, 256]), (chunk + 1) * 256 - lba)
                start, end = lba * 512, (lba + blocks) * 512
                roll = rng.random()
                if roll < 0.45:
                    data = rng.randbytes(blocks * 512)
                    one.kernel.queue(write_10(lba, blocks), data=data, pieces=1 + blocks // 8)
                    model[start:end] = data
                elif roll < 0.55:
                    cdb, data = unmap([(lba, blocks)])
                    one.kernel.queue(cdb, data=data)
                    model[start:end] = bytes(end - start)
                elif roll < 0.6:
                    one.kernel.queue(synchronize())
                else:
                    number = one.kernel.queue(scsi.read_10(lba, blocks), blocks * 512)
                    reads[number] = bytes(model[start:end])
            one.kernel.kick()
            for number, answer in one.kernel.answers(len(chunks)).items():
                data = scsi.good(answer)
                assert data == reads.get(number, data)
    with native.Image([], upper=native.Upper(*one.pair)) as image:
        assert image.pread(SIZE, 0) == model
