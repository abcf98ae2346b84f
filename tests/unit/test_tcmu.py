# SPDX-License-Identifier: Apache-2.0
"""Configuration strings, the kernel's files, and the size of a command."""

import os

import pytest

from overlaybd_tcmu import errors, units
from overlaybd_tcmu.tcmu import device, handler, kernel


@pytest.fixture
def sysroot(tmp_path, monkeypatch):
    monkeypatch.setenv(kernel.SYSROOT_VARIABLE, str(tmp_path))
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.fixture
def module(sysroot):
    """The parameters of a loaded module, as files."""
    folder = sysroot / "sys/module/target_core_user/parameters"
    folder.mkdir(parents=True)
    for name in ("block_netlink", "reset_netlink"):
        (folder / name).write_text("0")
    return folder


def add_uio(sysroot, number, name):
    folder = sysroot / f"sys/class/uio/uio{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")


@pytest.mark.parametrize(
    "cfgstring, path, device_id",
    [
        ("overlaybd//var/c.json", "/var/c.json", ""),
        ("overlaybd/relative/c.json", "relative/c.json", ""),
        ("overlaybd//var/c.json;128", "/var/c.json", "128"),
        ("overlaybd//var/c.json;", "/var/c.json", ""),
        ("overlaybd//a;b;c", "/a", "b;c"),
        ("overlaybd//var/0000_sha256:aa/config.json", "/var/0000_sha256:aa/config.json", ""),
    ],
)
def test_configuration_string(cfgstring, path, device_id):
    assert handler.parse_cfgstring(cfgstring) == (path, device_id)


@pytest.mark.parametrize(
    "cfgstring", ["", "overlaybd", "overlaybd/", "overlaybd/;1", "over//a", "overlaybd2//a"]
)
def test_configuration_string_of_no_use(cfgstring):
    with pytest.raises(errors.ImageError, match="not overlaybd/<config path>"):
        handler.parse_cfgstring(cfgstring)


@pytest.mark.parametrize(
    "data_mb, block_size, hw_max_sectors, bytes_expected",
    [
        (4, 512, 128, 4 * units.MiB),
        (1, 512, 128, units.MiB),
        (1024, 512, 128, 4 * units.MiB),
        (4, 4096, 128, 4 * units.MiB),
        (4, 512, 256, 128 * units.KiB),
        (4, 4096, 64, 256 * units.KiB),
        (4, 512, 1 << 20, 4 * units.MiB),
        (0, 512, 128, 512),
    ],
)
def test_largest_command(data_mb, block_size, hw_max_sectors, bytes_expected):
    assert device.max_transfer(data_mb * units.MiB, block_size, hw_max_sectors) == bytes_expected


def test_largest_command_is_whole_blocks():
    assert device.max_transfer(10000, 4096, 128) == 8192


def test_missing_module_says_how_to_load_it(sysroot):
    with pytest.raises(errors.TcmuError, match="not loaded .run 'modprobe target_core_user'"):
        kernel.check_module()


def test_netlink_is_blocked_reset_and_unblocked(module):
    kernel.check_module()
    with kernel.netlink_blocked():
        assert (module / "block_netlink").read_text() == "1"
        assert (module / "reset_netlink").read_text() == "1"
    assert (module / "block_netlink").read_text() == "0"


def test_netlink_is_unblocked_after_a_failure(module):
    with pytest.raises(RuntimeError):
        with kernel.netlink_blocked():
            raise RuntimeError
    assert (module / "block_netlink").read_text() == "0"


def test_old_kernel_that_cannot_block_is_not_reset(module):
    (module / "block_netlink").unlink()
    with kernel.netlink_blocked():
        pass
    assert (module / "reset_netlink").read_text() == "0"


def test_lock_excludes_and_names_its_holder(sysroot):
    lock = kernel.InstanceLock()
    with pytest.raises(errors.AlreadyRunning, match=f"process {os.getpid()},"):
        kernel.InstanceLock()
    lock.close()
    kernel.InstanceLock().close()


def test_serial_is_found_below_its_device(sysroot):
    add_uio(sysroot, 3, "tcm-user/999999999/dev_1/overlaybd//var/c.json")
    expected = "sys/kernel/config/target/core/user_999999999/dev_1/wwn/vpd_unit_serial"
    assert kernel.serial_path("uio3") == str(sysroot / expected)


@pytest.mark.parametrize("name", ["another driver", "tcm-user/1"])
def test_serial_of_an_odd_device_is_unknown(sysroot, name):
    add_uio(sysroot, 0, name)
    assert kernel.serial_path("uio0") == ""
    assert kernel.serial_path("uio9") == ""
