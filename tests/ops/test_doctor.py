# SPDX-License-Identifier: Apache-2.0
"""overlaybd-ctl doctor: each thing that can be wrong is found, and what to do is said."""

import json
import socket

import pytest

from overlaybd_tcmu.ffi import libtcmu
from overlaybd_tcmu.tcmu import kernel
from overlaybd_tcmu.tools import ctl, doctor


@pytest.fixture
def host(service, monkeypatch, tmp_path):
    """A host on which nothing is wrong but that no daemon runs; examine() looks at it."""
    monkeypatch.setenv(kernel.SYSROOT_VARIABLE, str(tmp_path))
    monkeypatch.setenv(libtcmu.VARIABLE, service.environment[libtcmu.VARIABLE])
    (tmp_path / "sys/module/tcm_loop").mkdir()
    (tmp_path / "sys/kernel/config/target/core").mkdir(parents=True)
    service.cred = tmp_path / "cred.json"
    service.cred.write_text("{}")
    service.cred.chmod(0o600)
    service.settings = {
        "credentialConfig": {"mode": "file", "path": str(service.cred)},
        "cacheConfig": {"cacheType": "file", "cacheDir": str(tmp_path / "cache")},
    }
    service.configure(**service.settings)
    return service


def examine(host):
    """{subject: worst finding} of what is not in order."""
    found = {}
    for one in doctor.examine(str(host.config_path)):
        assert one.level == doctor.OK or one.advice or one.subject == "configuration"
        if one.level != doctor.OK and one.subject != "files":
            found[one.subject] = one
    return found


def test_a_host_in_order(host):
    assert {name: one.text for name, one in examine(host).items()} == {"service": "does not run"}
    host.start()
    assert examine(host) == {}


def test_the_program(host, capsys):
    arguments = ["--config", str(host.config_path), "doctor"]
    assert ctl.main(arguments) == ctl.EXIT_OK
    assert "-> systemctl start overlaybd-tcmu" in capsys.readouterr().out
    (host.folder / "sys/module/tcm_loop").rmdir()
    host.config_path.write_text("{")
    assert ctl.main(["--json", *arguments]) == ctl.EXIT_FOUND
    findings = json.loads(capsys.readouterr().out)["findings"]
    levels = {one["subject"]: one["level"] for one in findings}
    assert levels["configuration"] == doctor.ERROR


def test_modules_that_are_not_loaded(host, tmp_path):
    (tmp_path / "sys/module/tcm_loop").rmdir()
    assert examine(host)["kernel module"].level == doctor.WARNING
    for file in host.parameters.iterdir():
        file.unlink()
    host.parameters.rmdir()
    host.parameters.parent.rmdir()
    texts = [one.text for one in doctor.examine(str(host.config_path)) if one.level == "error"]
    assert texts == ["target_core_user is not loaded"]


def test_announcements_left_blocked(host):
    (host.parameters / "block_netlink").write_text("1")
    assert "nothing can be attached" in examine(host)["kernel"].text


def test_libtcmu_that_is_missing(host, monkeypatch):
    monkeypatch.setenv(libtcmu.VARIABLE, "/none/libtcmu.so")
    libtcmu.library.cache_clear()
    try:
        assert "libtcmu" in examine(host)
    finally:
        libtcmu.library.cache_clear()


def test_configfs_that_is_missing(host, tmp_path):
    (tmp_path / "sys/kernel/config/target/core").rmdir()
    assert examine(host)["configfs"].level == doctor.ERROR


def test_devices_that_wait_for_a_daemon(host):
    host.add_live("/x/config.v1.json")
    assert examine(host)["service"].text == "does not run, and 1 devices wait for it"


def test_a_lock_of_a_process_that_is_gone(host, tmp_path):
    (tmp_path / "run/overlaybd-tcmu.lock").write_text("1\n")  # init has other files open
    assert examine(host)["service"].text == "does not run"


def test_a_clock_in_the_past(host, monkeypatch):
    monkeypatch.setattr(doctor.time, "time", lambda: 0.0)
    assert "timedatectl" in examine(host)["clock"].advice


def test_credentials_that_others_may_read(host):
    host.cred.chmod(0o644)
    assert examine(host)["credentials"].advice == f"chmod 600 {host.cred}"
    host.cred.unlink()
    assert "credentials" not in examine(host)


def test_a_folder_without_room(host, monkeypatch):
    monkeypatch.setattr(doctor, "FREE_LEAST", 1 << 60)
    assert {"log", "cache", "audit log"} <= set(examine(host))


def test_a_folder_that_is_a_file(host, tmp_path):
    (tmp_path / "cache").write_text("")
    assert examine(host)["cache"].text == f"{tmp_path}/cache is no folder"


def test_ports(host, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        exporter = {"enable": True, "port": other.getsockname()[1]}
        host.configure(**host.settings, exporterConfig=exporter)
        assert "another program listens" in examine(host)["exporter"].text
    api = {"enable": True, "address": f"unix://{tmp_path}/api.sock"}
    host.configure(**host.settings, serviceConfig=api)
    assert "API" not in examine(host)
    host.configure(**host.settings)
    host.start()
    host.configure(**host.settings, serviceConfig=api)
    assert "restart the service" in examine(host)["API"].advice


def test_what_cannot_be_looked_at(host, monkeypatch):
    def broken(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.kernel, "path_of", broken)
    assert "run it as root" in examine(host)["modules"].advice
