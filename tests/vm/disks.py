# SPDX-License-Identifier: Apache-2.0
"""What tests of writable disks do with them."""
import contextlib


def attached(guest, config, number=1):
    return guest.call("disk.attach", number, config)["disk"]


def assert_clean(guest, disk):
    checked = guest.call("writable.check", disk)
    assert checked["status"] == 0, checked["output"]


@contextlib.contextmanager
def small_folder(guest, place):
    """A file system of 24 MiB at place."""
    guest.call("kernel.command", "mkdir", "-p", place)
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place]
    assert guest.call("kernel.command", *command)["status"] == 0
    yield
    guest.call("mounts.unmount", place)
