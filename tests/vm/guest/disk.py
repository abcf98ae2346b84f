# SPDX-License-Identifier: Apache-2.0
"""
Attaches and detaches disks as containerd's overlaybd snapshotter does: the same files, strings and
order.

    core      /sys/kernel/config/target/core/user_999999999/dev_<id>     the backstore, ours
    loopback  /sys/kernel/config/target/loopback/naa.199<id, 13 digits>   its SCSI target

Every write opens with O_CREAT|O_TRUNC and makes one write without a newline, because that is what
the kernel sees from Go. Patience is the snapshotter's too, so a daemon that is too slow for it
fails here; only where many disks come at once on an emulated CPU may the caller ask for more
rounds.
"""
import concurrent.futures
import errno
import os
import pathlib
import time

TARGET = pathlib.Path("/sys/kernel/config/target")
HBA = 999999999
TIMEOUT = "2147483"  # INT32_MAX / 1000 seconds: the kernel keeps it in milliseconds
ENABLE_TRIES = 100
ENABLE_PAUSE_S = 0.05
DISCOVERY_ROUNDS = 50
DISCOVERY_PAUSE_S = 0.01
CROWD_ROUNDS = 1000


def core(number):
    return TARGET / "core" / f"user_{HBA}" / f"dev_{number}"


def name(number):
    return f"naa.199{number:013d}"


def loopback(number):
    return TARGET / "loopback" / name(number)


def lun(number):
    return loopback(number) / "tpgt_1" / "lun" / "lun_0"


def link(number):
    return lun(number) / f"dev_{number}"


def attach(number, config, device_id="", serial="", rounds=DISCOVERY_ROUNDS):
    """Returns the disk's name ("sda") and how long it took; undoes all it did when a step fails."""
    started = time.monotonic()
    try:
        _enable(number, config, device_id, serial)
        enabled = time.monotonic()
        disk = export(number, rounds)
    except BaseException:
        detach(number)
        raise
    return {
        "disk": disk,
        "enable_s": enabled - started,
        "attach_s": time.monotonic() - started,
    }


def export(number, rounds=DISCOVERY_ROUNDS):
    """The disk's name, of a device that is enabled already."""
    _link(number)
    disk = _discover(number, rounds)
    wait_node(disk)
    return disk


def leave_half_made(number, config, enabled):
    """What a snapshotter leaves that is killed before it enables the device, or after that."""
    if enabled:
        _enable(number, config, "", "")
    else:
        _configure(number, config, "", "")


def attach_all(pairs):
    """Attaches [[number, config], ...], each in a thread of its own."""
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(pairs)) as executor:
        futures = [executor.submit(attach, *pair, rounds=CROWD_ROUNDS) for pair in pairs]
        slowest_s = max(future.result()["attach_s"] for future in futures)
    return {"seconds": time.monotonic() - started, "slowest_s": slowest_s}


def detach_all(numbers):
    with concurrent.futures.ThreadPoolExecutor(len(numbers)) as executor:
        list(executor.map(detach, numbers))


def detach(number):
    """What is not there is no error, so a second time does nothing."""
    for path in (
        link(number),
        lun(number),
        loopback(number) / "tpgt_1",
        loopback(number),
    ):
        _remove(path)
    _remove(core(number))


def _configure(number, config, device_id, serial):
    os.makedirs(core(number), 0o700, exist_ok=True)
    suffix = f";{device_id}" if device_id else ""
    write(core(number) / "control", f"dev_config=overlaybd/{config}{suffix}")
    write(core(number) / "control", "max_data_area_mb=4")
    if serial:  # the snapshotter gives none
        write(core(number) / "wwn" / "vpd_unit_serial", serial)


def _enable(number, config, device_id, serial):
    _configure(number, config, device_id, serial)
    for attempt in range(ENABLE_TRIES):
        try:
            write(core(number) / "enable", "1")
            break
        except OSError as error:
            if error.errno != errno.EAGAIN or attempt == ENABLE_TRIES - 1:
                raise
            time.sleep(ENABLE_PAUSE_S)
    # The kernel takes this only while nothing exports the device, hence before the link.
    write(core(number) / "attrib" / "cmd_time_out", TIMEOUT)


def _link(number):
    os.makedirs(loopback(number), 0o700, exist_ok=True)
    os.makedirs(lun(number), 0o700, exist_ok=True)
    write(loopback(number) / "tpgt_1" / "nexus", name(number))
    os.symlink(core(number), link(number))  # the kernel scans the new disk inside this call


def _discover(number, rounds):
    address = (loopback(number) / "tpgt_1" / "address").read_text().rstrip("\n")
    folder = pathlib.Path(f"/sys/class/scsi_device/{address}:0/device/block")
    for _ in range(rounds):
        try:
            (disk,) = os.listdir(folder)
            write(pathlib.Path("/sys/block") / disk / "device" / "timeout", TIMEOUT)
            return disk
        except (
            FileNotFoundError,
            ValueError,
        ):  # not there yet, or there and still empty
            time.sleep(DISCOVERY_PAUSE_S)
    raise TimeoutError(f"no disk at {address} after {rounds} rounds")


def write(path, text):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _remove(path):
    try:
        if os.path.islink(path):
            os.unlink(path)
        else:
            os.rmdir(path)
    except FileNotFoundError:
        pass


def disk_of(number):
    """The name of an attached device's disk."""
    address = (loopback(number) / "tpgt_1" / "address").read_text().rstrip("\n")
    (disk,) = os.listdir(f"/sys/class/scsi_device/{address}:0/device/block")
    return disk


def generic_of(number):
    """The node through which an attached device takes any SCSI command."""
    address = (loopback(number) / "tpgt_1" / "address").read_text().rstrip("\n")
    return f"/dev/bsg/{address}:0"


def attached():
    """Numbers of the devices that exist."""
    folder = TARGET / "core" / f"user_{HBA}"
    if not folder.exists():
        return []
    return sorted(int(entry.name[4:]) for entry in folder.glob("dev_*"))


def wait_node(disk, timeout_s=10):
    """
    Waits until the disk can be opened and the kernel knows its size: the class folder shows it a
    moment earlier, and a node that has lost its disk stays a moment longer.
    """
    deadline = time.monotonic() + timeout_s
    size = pathlib.Path("/sys/block") / disk / "size"
    while time.monotonic() < deadline:
        try:
            os.close(os.open(f"/dev/{disk}", os.O_RDONLY))
            if int(size.read_text()):
                return int(size.read_text()) * 512
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
                raise
        time.sleep(0.005)
    raise TimeoutError(f"/dev/{disk} has no size after {timeout_s} s")
