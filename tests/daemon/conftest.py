# SPDX-License-Identifier: Apache-2.0
"""The real daemon as a process of its own, with a folder for /sys and /run and a fake libtcmu."""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from overlaybd_tcmu.ffi import libtcmu
from overlaybd_tcmu.tcmu import kernel

from ..support import tcmu_kernel

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TIMEOUT_S = 60
IDLE_THREADS = 3  # main, signals, events
RING = 64 << 10  # of a device of the fake libtcmu


@pytest.fixture(scope="session")
def fake_libtcmu(tmp_path_factory):
    """Path of the stand-in for libtcmu, freshly compiled."""
    path = tmp_path_factory.mktemp("fake") / "libtcmu.so.2"
    source = HERE / "fake_libtcmu.c"
    compiler = os.environ.get("CC", "cc")
    flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]
    subprocess.run([compiler, *flags, path, source], check=True, timeout=60)
    return path


class Service:
    """One daemon and what surrounds it."""

    def __init__(self, folder, library):
        self.folder = folder
        self.process = None
        self.errors = ""
        self.parameters = folder / "sys/module/target_core_user/parameters"
        self.parameters.mkdir(parents=True)
        (folder / "run").mkdir()
        for name in ("block_netlink", "reset_netlink"):
            (self.parameters / name).write_text("0")
        self.log_path = folder / "overlaybd.log"
        self.audit_path = folder / "audit.log"
        self.config_path = folder / "overlaybd.json"
        self.configure()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "test"))
        self._socket.settimeout(TIMEOUT_S)
        self._numbers = itertools.count()
        self._asks = contextlib.ExitStack()
        self.environment = dict(
            os.environ,
            FAKE_TCMU_SOCKET=str(folder / "tcmu"),
            NOTIFY_SOCKET=str(folder / "notify"),
            **{libtcmu.VARIABLE: str(library), kernel.SYSROOT_VARIABLE: str(folder)},
        )

    def configure(self, **settings):
        log = {"logPath": str(self.log_path), "logLevel": 0}
        document = {"logConfig": log, "auditPath": str(self.audit_path), **settings}
        self.config_path.write_text(json.dumps(document))

    def run(self, *arguments, program=("-m", "overlaybd_tcmu.daemon")):
        """Another daemon process, to its end."""
        command = [sys.executable, *program, *arguments]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def start(self, program=("-m", "overlaybd_tcmu.daemon")):
        """Returns when it says that it is ready."""
        self.start_hung(program)
        self.ask("reject overlaybd//x")  # answered by the main loop: nothing of the start goes on

    def start_hung(self, program):
        """As start(), for one that answers no message."""
        command = [sys.executable, *program, str(self.config_path)]
        self.notify = self._bind("notify")
        self._asks.callback(self.notify.close)
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stderr=subprocess.PIPE, text=True
        )
        assert self.notify.recv(100) == b"READY=1"

    def _bind(self, name):
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bound.settimeout(TIMEOUT_S)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.folder / name)
        bound.bind(str(self.folder / name))
        return bound

    def begin(self, request):
        """Sends a request; returns what waits for its answer."""
        path = self.folder / f"asks{next(self._numbers)}"
        asks = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        asks.settimeout(TIMEOUT_S)
        asks.bind(str(path))
        asks.sendto(request.encode(), str(self.folder / "tcmu"))
        self._asks.callback(asks.close)

        def answer(timeout_s=TIMEOUT_S):
            asks.settimeout(timeout_s)
            return asks.recv(500).decode()

        return answer

    def begin_add(self, config_path):
        return self.begin(f"add overlaybd/{config_path}")

    def ask(self, request):
        """What the fake libtcmu answers."""
        self._socket.sendto(request.encode(), str(self.folder / "tcmu"))
        return self._socket.recv(500).decode()

    def add(self, config_path, device_id=""):
        suffix = f";{device_id}" if device_id else ""
        return int(self.ask(f"add overlaybd/{config_path}{suffix}"))

    def attach(self, number):
        """The kernel's side of a device: put commands in, get answers out."""
        self._socket.sendto(f"attach {number}".encode(), str(self.folder / "tcmu"))
        _, descriptors, _, _ = socket.recv_fds(self._socket, 10, 2)
        return tcmu_kernel.Kernel.attached(*descriptors, ring=RING)

    def add_live(self, *config_paths):
        """Devices that are there before the daemon is, as after a crash."""
        names = [f"overlaybd/{path}" for path in config_paths]
        self.environment["FAKE_TCMU_ADOPT"] = "\n".join(names)
        for number, name in enumerate(names):
            folder = self.folder / f"sys/class/uio/uio{number}"
            folder.mkdir(parents=True)
            (folder / "name").write_text(f"tcm-user/999999999/dev_{number}/{name}\n")

    def send_signal(self, number):
        self.process.send_signal(number)

    def stop(self, number=signal.SIGTERM):
        """The exit status."""
        if self.process is None:
            return None
        self.process.send_signal(number)
        self.errors = self.process.communicate(timeout=TIMEOUT_S)[1]
        status, self.process = self.process.returncode, None
        return status

    def kill(self):
        if self.process is not None:
            self.stop(signal.SIGKILL)
        self._asks.close()
        self._socket.close()

    def log(self):
        return self.log_path.read_text() if self.log_path.exists() else ""

    def follow(self):
        """Lines of the log as they are written; ends with the test's time limit."""
        with open(self.log_path) as file:
            while self.process.poll() is None:
                line = file.readline()
                if line:
                    yield line

    def open_files(self):
        """What the daemon has open, by path."""
        folder = f"/proc/{self.process.pid}/fd"
        found = []
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"{folder}/{name}"))
        return found

    def threads(self):
        """Names of the daemon's threads, as the kernel knows them."""
        found = []
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                found.append((task / "comm").read_text().strip())
        return sorted(found)

    def wait_idle(self):
        """Whether only the threads of a daemon without devices are left, soon."""
        until = time.monotonic() + TIMEOUT_S
        while len(self.threads()) != IDLE_THREADS and time.monotonic() < until:
            time.sleep(0.01)
        return len(self.threads()) == IDLE_THREADS


@pytest.fixture
def service(tmp_path, fake_libtcmu):
    """A daemon that can be started; killed at the end if it still runs."""
    one = Service(tmp_path, fake_libtcmu)
    yield one
    one.kill()
