# SPDX-License-Identifier: Apache-2.0
"""What README and docs/operating.md tell to type for a device by hand, typed as it stands there."""
import pathlib
import re
import textwrap

import pytest

from . import images

ROOT = pathlib.Path(__file__).resolve().parents[2]
STACK = images.STACKS["c-zstd-64k"]
NAMES = ("base.obd", "top.obd")
FOLDER = "/images"
TIMEOUT_S = 300

pytestmark = pytest.mark.timeout(600)


def blocks(path, heading):
    """The indented blocks below a heading, up to the next one of its kind."""
    text = (ROOT / path).read_text()
    section = re.split(r"^## ", text.partition(f"## {heading}\n")[2], flags=re.M)[0]
    found = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", section, re.M)
    return [textwrap.dedent(block).strip("\n") for block in found]


def typed(host, *lines):
    """By a shell that gives up at the first thing that fails; what it said."""
    script = "\n".join(lines)
    said = host.start("kernel.command", "sh", "-euc", script, timeout_s=TIMEOUT_S).result(TIMEOUT_S)
    assert said["status"] == 0, f"{script}\n{said['output']}"
    return said["output"]


@pytest.fixture
def image(host):
    """At the places the README names, with the configuration it shows."""
    commands, config = [
        block for block in blocks("README.md", "For operators") if "/images/" in block
    ][:2]
    host.call("files.write_bytes", f"{FOLDER}/config.v1.json", config)
    for name, lower in zip(NAMES, STACK.lowers):
        host.call("files.link", f"{images.GOLDEN}/{lower}", f"{FOLDER}/{name}")
    yield commands
    host.call("files.remove", FOLDER)


def test_readme(host, image):
    said = typed(host, image, "cat /images/result", "rmdir user_1/disk")
    assert said == "success"


def test_operating(host, image):
    attach, detach = blocks("docs/operating.md", "Devices by hand")
    look = [
        "disk=$(ls /sys/class/scsi_device/$address/device/block)",
        f"cmp -n 4194304 /dev/$disk {STACK.view_path}",
        "cat $core/attrib/cmd_time_out /sys/class/scsi_device/$address/device/timeout",
        "blockdev --flushbufs /dev/$disk",
    ]
    said = typed(host, attach, *look, detach)
    disk, *limits = said.split()
    assert re.fullmatch("sd[a-z]+", disk)
    assert limits == ["2147483", "2147483"]
