# SPDX-License-Identifier: Apache-2.0
"""What the kernel makes of the disk: limits, write protection, identity."""
import errno

import pytest

from . import images, session

STACK = images.STACKS["lz4-4k"]
PLACE = "/mnt/image"


@pytest.fixture
def attached(guest):
    guest.call("service.start")
    guest.disk = guest.call("disk.attach", 1, STACK.config_path)["disk"]
    guest.generic = guest.call("disk.generic_of", 1)  # takes commands whatever the disk allows
    return guest


def sg(guest, *argv):
    """What a program of sg3-utils says."""
    return guest.call("kernel.command", *argv)["output"]


def test_queue_limits(attached):
    queue = attached.call("kernel.queue", attached.disk)
    assert int(queue["size"]) * 512 == 1 << 30
    assert queue["ro"] == "1"
    assert queue["rotational"] == "0"
    assert queue["logical_block_size"] == "512"
    assert queue["discard_max_bytes"] == "0"
    assert queue["write_zeroes_max_bytes"] == "0"
    assert queue["write_cache"] == "write through"
    # The kernel fails a command larger than the data area, 4 MiB here: nor can it be raised above.
    assert 512 <= int(queue["max_sectors_kb"]) <= 4096
    with pytest.raises(session.GuestError, match="Invalid argument"):
        attached.call(
            "files.write_bytes", f"/sys/block/{attached.disk}/queue/max_sectors_kb", "8192"
        )


def test_read_only_to_its_tools(attached):
    said = attached.call("kernel.command", "blockdev", "--getro", f"/dev/{attached.disk}")
    assert said == {"status": 0, "output": "1\n"}


def test_write_is_refused(attached):
    refused = attached.call("kernel.write_errno", f"/dev/{attached.disk}")
    assert refused in (errno.EROFS, errno.EPERM, errno.EACCES)


def test_write_command_is_answered_write_protected(attached):
    # Past the block layer, straight to the device: WRITE(10) of one sector.
    cdb = "2a 00 00 00 00 00 00 00 01 00".split()
    said = attached.call(
        "kernel.command",
        *("sg_raw", "-s", "512", "-i", "/dev/zero"),
        attached.generic,
        *cdb,
    )
    assert "Data Protect" in said["output"] or "data protect" in said["output"]
    assert attached.call("reads.compare_random", attached.disk, STACK.view_path, 1, 10)


def test_mount_falls_back_to_read_only(attached):
    attached.call("kernel.command", "mkdir", "-p", PLACE)
    said = attached.call("kernel.command", "mount", f"/dev/{attached.disk}", PLACE)
    assert said["status"] == 0
    assert "read-only" in said["output"]
    attached.expected = ["Can't open blockdev"]  # the try before the fall-back
    with pytest.raises(session.GuestError, match="Read-only file system"):
        attached.call("files.write_json", f"{PLACE}/new", {})


def test_standard_inquiry(attached):
    said = sg(attached, "sg_inq", attached.generic)
    assert "Vendor identification: LIO-ORG" in said
    assert "Product identification: TCMU device" in said
    assert "PDT=0" in said
    assert "CmdQue=1" in said


def test_supported_pages(attached):
    said = attached.call("kernel.command", "sg_vpd", "-p", "sv", f"/dev/{attached.disk}")["output"]
    for page in ("[sv]", "[sn]", "[di]", "[bl]", "[bdc]", "[lbpv]"):
        assert page in said


def test_block_limits_page(attached):
    said = attached.call("kernel.command", "sg_vpd", "-p", "bl", f"/dev/{attached.disk}")["output"]
    fields = _fields(said)
    assert 0 < int(fields["Maximum transfer length"].split()[0]) * 512 <= 4 << 20
    assert fields["Maximum unmap LBA count"].startswith("0")


def test_rotation_page(attached):
    said = attached.call("kernel.command", "sg_vpd", "-p", "bdc", f"/dev/{attached.disk}")["output"]
    assert "Non-rotating medium" in said


def test_provisioning_page_offers_no_discard(attached):
    said = attached.call("kernel.command", "sg_vpd", "-p", "lbpv", f"/dev/{attached.disk}")
    assert "(LBPU): 0" in said["output"]
    assert "(LBPWS): 0" in said["output"]
    assert "(LBPWS10): 0" in said["output"]


def test_capacity_by_both_commands(attached):
    for arguments in ([], ["--16"]):
        said = sg(attached, "sg_readcap", *arguments, attached.generic)
        assert "Number of logical blocks=2097152" in said
        assert "Logical block length=512" in said


def test_unknown_command_is_an_illegal_request(attached):
    assert "Illegal Request" in sg(attached, "sg_raw", attached.generic, "c1", *["00"] * 11)


def test_read_past_the_end_is_refused(attached):
    cdb = "28 00 00 20 00 00 00 00 01 00".split()
    assert "out of range" in sg(attached, "sg_raw", "-r", "512", attached.generic, *cdb)


def test_serial_number(guest):
    guest.call("service.start")
    guest.call("disk.attach", 3, STACK.config_path, serial="0123456789abcdef")
    generic = guest.call("disk.generic_of", 3)
    assert "0123456789abcdef" in sg(guest, "sg_vpd", "-p", "sn", generic)


def _fields(text):
    """The lines "name: value" of a report."""
    pairs = [line.partition(":") for line in text.splitlines()]
    return {name.strip(): value.strip() for name, _, value in pairs}
