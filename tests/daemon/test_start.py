# SPDX-License-Identifier: Apache-2.0
"""Arguments, exit statuses, and everything that keeps the daemon from starting: one line each."""

import json
import os
import pathlib
import signal

import pytest

import overlaybd_tcmu
from overlaybd_tcmu import daemon
from overlaybd_tcmu.ffi import libtcmu, load


def assert_fails(done, status, complaint):
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("overlaybd-tcmu: ")
    assert complaint in done.stderr


def test_version(service):
    done = service.run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"overlaybd-tcmu {overlaybd_tcmu.__version__}\n"


def test_help_documents_every_exit_status(service):
    done = service.run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for status in range(daemon.EXIT_OK, daemon.EXIT_STUCK + 1):
        assert f"\n  {status}  " in done.stdout


def test_show_config_prints_the_effective_configuration(service):
    service.config_path.write_text(json.dumps({"logLevel": 3, "ioEngine": 2}))
    done = service.run("--show-config", str(service.config_path))
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert shown["logConfig"]["logLevel"] == 3
    assert shown["ioEngine"] == 2
    assert shown["cacheConfig"]["cacheType"] == "file"


def test_show_config_warns_about_unknown_keys(service):
    service.config_path.write_text('{"ioengine": 2}')
    done = service.run("--show-config", str(service.config_path))
    assert done.returncode == 0
    path = service.config_path
    assert done.stderr == f"overlaybd-tcmu: warning: {path}: ioengine: unknown key, ignored\n"


@pytest.mark.parametrize("arguments", [["--none"], ["a", "b"]])
def test_wrong_arguments(service, arguments):
    done = service.run(*arguments)
    assert done.returncode == daemon.EXIT_CONFIG
    assert done.stderr.startswith("usage: overlaybd-tcmu")


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("{", "is not JSON"),
        ('{"ioEngine": 3}', "ioEngine: must be one of 0, 1, 2, not 3"),
        ('{"download": {"enable": "yes"}}', 'download.enable: must be a boolean, not "yes"'),
        ('{"logPath": "/none/x.log"}', "logConfig.logPath: cannot be opened"),
    ],
)
def test_wrong_configuration_names_file_and_key(service, text, complaint):
    service.config_path.write_text(text)
    assert_fails(service.run(str(service.config_path)), daemon.EXIT_CONFIG, complaint)


def test_missing_configuration_names_the_file(service):
    done = service.run("/none/overlaybd.json")
    assert_fails(done, daemon.EXIT_CONFIG, "/none/overlaybd.json: cannot be read: No such file")


def test_missing_module_says_how_to_load_it(service):
    os.rename(service.parameters.parent, service.folder / "away")
    done = service.run(str(service.config_path))
    assert_fails(done, daemon.EXIT_NO_TCMU, "modprobe target_core_user")
    assert "|FATAL|" in service.log()


def test_missing_libtcmu_is_named(service):
    service.environment[libtcmu.VARIABLE] = "/none/libtcmu.so.2"
    done = service.run(str(service.config_path))
    assert_fails(done, daemon.EXIT_NO_TCMU, "/none/libtcmu.so.2: cannot be loaded")


def test_missing_core_is_named(service):
    service.environment[load.NATIVE_VARIABLE] = "/none/libobd.so"
    done = service.run(str(service.config_path))
    assert_fails(done, daemon.EXIT_FAILED, "/none/libobd.so: no such file")


def test_libtcmu_that_fails_leaves_netlink_unblocked(service):
    service.environment["FAKE_TCMU_SOCKET"] = "/none/socket"
    done = service.run(str(service.config_path))
    assert_fails(done, daemon.EXIT_NO_TCMU, "tcmulib init failed")
    assert (service.parameters / "block_netlink").read_text() == "0"
    assert (service.parameters / "reset_netlink").read_text() == "1"


def test_second_daemon_is_refused_and_names_the_first(service):
    service.start()
    done = service.run(str(service.config_path))
    assert_fails(done, daemon.EXIT_RUNNING, f"process {service.process.pid}")
    assert service.stop() == 0


def test_lock_goes_with_a_killed_daemon(service):
    service.start()
    service.stop(signal.SIGKILL)
    os.unlink(service.folder / "tcmu")
    service.start()
    assert service.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_it(service, number):
    service.start()
    assert service.stop(number) == 0
    assert service.errors == ""
    assert ":stopped\n" in service.log()


def test_unknown_keys_are_warned_about_in_the_log(service):
    service.configure(onFire=True)
    service.start()
    assert service.stop() == 0
    assert "|WARN |" in service.log()
    assert "config onFire: unknown key, ignored" in service.log()


def test_log_moved_away_is_opened_anew_at_hangup(service):
    service.start()
    moved = service.folder / "moved.log"
    os.rename(service.log_path, moved)
    service.send_signal(signal.SIGHUP)
    assert service.stop() == 0
    assert "name=SIGTERM" in service.log()
    assert "ready adopted=0" in moved.read_text()


def test_audit_log_that_cannot_be_opened_is_no_reason_to_stop(service):
    service.configure(auditPath="/none/audit.log")
    service.start()
    assert service.stop() == 0
    assert "audit log is off path=/none/audit.log" in service.log()


def test_what_the_daemon_does_not_need_is_not_loaded(service):
    heavy = "{'requests', 'urllib3', 'lz4', 'zstandard', 'cachetools', 'jsonschema', 'http'}"
    script = f"import sys, overlaybd_tcmu.daemon; print({heavy} & set(sys.modules))"
    assert service.run(program=("-c", script)).stdout == "set()\n"


def test_idle_daemon_is_small(service):
    service.start()
    status = pathlib.Path(f"/proc/{service.process.pid}/status").read_text()
    (resident,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    assert int(resident.split()[1]) < 40 * 1024
    print(resident)
