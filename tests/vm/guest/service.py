# SPDX-License-Identifier: Apache-2.0
"""
Starts, stops, kills and looks at the daemon. One at a time is "the" daemon; run() is for those that
are to fail.

It starts as systemd would start it: with the capabilities the unit leaves it, and READY=1 on the
notify socket (Type=notify) is what start() waits for.
"""
import json
import os
import signal
import socket
import subprocess
import tempfile
import time

DAEMON = "/opt/overlaybd/bin/overlaybd-tcmu"
UNIT = "/opt/overlaybd/overlaybd-tcmu.service"
SHIPPED = "/etc/overlaybd/overlaybd.json"
CONFIG = "/run/overlaybd.json"
LOG = "/var/log/overlaybd.log"
AUDIT = "/var/log/overlaybd-audit.log"
OUTPUT = "/var/log/overlaybd-output.log"
READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60

_daemon = None


def start(settings=None):
    """
    Starts it with the configuration as shipped, or that changed by settings, and returns when it
    says that it is ready.
    """
    global _daemon
    if _daemon is not None and _daemon.poll() is None:
        raise RuntimeError(f"already running as {_daemon.pid}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, open(OUTPUT, "ab") as output:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(folder + "/notify")
            ready.settimeout(0.05)
            _daemon = subprocess.Popen(
                [*_confined(), DAEMON, *([_config(settings)] if settings else [])],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, NOTIFY_SOCKET=folder + "/notify"),
            )
            _wait_ready(ready, started)
    return {"pid": _daemon.pid, "seconds": time.monotonic() - started}


def _confined():
    """What runs a program with the unit's CapabilityBoundingSet and NoNewPrivileges."""
    with open(UNIT) as file:
        settings = dict(line.strip().split("=", 1) for line in file if "=" in line)
    names = settings["CapabilityBoundingSet"].lower().replace("cap_", "+").split()
    return ["setpriv", "--bounding-set", ",".join(["-all", *names]), "--no-new-privs"]


def _config(settings):
    with open(SHIPPED) as file:
        config = json.load(file)
    config.update(settings)
    with open(CONFIG, "w") as file:
        json.dump(config, file)
    return CONFIG


def _wait_ready(ready, started):
    while time.monotonic() - started < READY_TIMEOUT_S:
        try:
            if b"READY=1" in ready.recv(4096).split(b"\n"):
                return
        except socket.timeout:
            pass
        if _daemon.poll() is not None:
            raise RuntimeError(f"it ended with status {_daemon.returncode}:\n{output()[-3000:]}")
    _daemon.kill()
    raise TimeoutError(f"not ready after {READY_TIMEOUT_S} s:\n{output()[-3000:]}")


def stop(number=signal.SIGTERM, timeout_s=STOP_TIMEOUT_S):
    """Signals it and waits for its end. Returns its status and how long it took."""
    started = time.monotonic()
    _daemon.send_signal(number)
    status = _daemon.wait(timeout_s)
    return {"status": status, "seconds": time.monotonic() - started}


def kill():
    return stop(signal.SIGKILL)


def running():
    return _daemon is not None and _daemon.poll() is None


def run(arguments, timeout_s=20):
    """Another daemon process, to its end."""
    done = subprocess.run(
        [DAEMON, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=timeout_s,
        text=True,
    )
    return {"status": done.returncode, "output": done.stdout, "errors": done.stderr}


def clean_up():
    """Ends it if it still runs, and removes what it wrote."""
    if running():
        kill()
    for path in (LOG, AUDIT, OUTPUT):
        if os.path.exists(path):
            os.unlink(path)


def read(path):
    """A file's text; empty when there is none."""
    if not os.path.exists(path):
        return ""
    with open(path, errors="replace") as file:
        return file.read()


def output():
    return read(OUTPUT)


def log():
    return read(LOG)


def audit():
    return read(AUDIT)


def memory():
    """Bytes: resident in all, and its own writable part (what each further device adds to)."""
    return memory_of(_daemon.pid)


def memory_of(number):
    """The same, of any process."""
    fields = {}
    with open(f"/proc/{number}/smaps_rollup") as lines:
        next(lines)
        for line in lines:
            key, value, *_ = line.split()
            fields[key.rstrip(":")] = int(value) * 1024
    return {"rss": fields["Rss"], "anonymous": fields["Anonymous"]}


def open_files():
    """Paths of its open descriptors."""
    folder = f"/proc/{_daemon.pid}/fd"
    return sorted(os.readlink(f"{folder}/{name}") for name in os.listdir(folder))


def threads():
    return len(os.listdir(f"/proc/{_daemon.pid}/task"))
