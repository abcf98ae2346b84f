# SPDX-License-Identifier: Apache-2.0
"""What the kernel says about a disk, and what it complained about."""
import mmap
import os
import pathlib
import subprocess

from guest import programs

EXPECTED = (
    # The snapshotter mounts with "discard" whatever the disk can do; ext4 says so each time.
    'mounting with "discard" option, but the device does not support discard',
    # An emulated CPU is slow, and slower beside others.
    "hrtimer: interrupt took",
    "perf: interrupt took too long",
    "clocksource: ",
    "workqueue: ",
    # What a test expects by its words, the kernel may count instead.
    "callbacks suppressed",
    # A node in /dev that is opened a moment after its disk has gone.
    "block device autoloading is deprecated",
)


def mark(name):
    """Notes in the kernel's log that a test begins here."""
    with open("/dev/kmsg", "w") as log:
        log.write(f"<4>vm-test: {name}\n")


def complaints():
    """Warnings and worse since the last mark."""
    levels = "--level=emerg,alert,crit,err,warn"
    said = subprocess.run(["dmesg", levels], check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = said.rpartition("vm-test: ")[2].splitlines()[1:]
    return [line for line in lines if not any(part in line for part in EXPECTED)]


def log(lines=60):
    said = subprocess.run(["dmesg"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return "\n".join(said.splitlines()[-lines:])


def queue(disk):
    """The block layer's view: name to value of /sys/block/<disk>/queue, and ro."""
    folder = pathlib.Path("/sys/block") / disk
    facts = {}
    for entry in (folder / "queue").iterdir():
        if entry.is_file():
            try:
                facts[entry.name] = entry.read_text().strip()
            except OSError:  # some can only be written
                continue
    facts["ro"] = (folder / "ro").read_text().strip()
    facts["size"] = (folder / "size").read_text().strip()
    return facts


def command(*argv, timeout_s=60):
    return programs.outcome(*argv, timeout=timeout_s)


def module_parameter(name):
    return pathlib.Path("/sys/module/target_core_user/parameters", name).read_text().strip()


def set_module_parameter(name, value):
    pathlib.Path("/sys/module/target_core_user/parameters", name).write_text(value)


def write_errno(path, offset=0, count=4096):
    """Tries to write to a disk around the page cache; the errno, 0 when it worked."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    except OSError as error:
        return error.errno
    try:
        os.pwritev(fd, [mmap.mmap(-1, count)], offset)
        return 0
    except OSError as error:
        return error.errno
    finally:
        os.close(fd)
