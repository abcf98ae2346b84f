# SPDX-License-Identifier: Apache-2.0
"""
The service as an operator has it: installed by dpkg, run by systemd. What is done to it is waited
for by what it says in its log, since asking systemd takes longer than a restart.
"""
import os
import re
import signal
import time

from guest import programs, service

NAME = "overlaybd-tcmu.service"
WAIT_S = 120


def install(package):
    quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    return programs.output("dpkg", "-i", package, env=quiet)


def version():
    """Of the package, as dpkg has it, and its state."""
    return programs.output(
        "dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}", "overlaybd-tcmu"
    )


def systemctl(*arguments):
    return programs.output("systemctl", *arguments)


def show(*names):
    said = systemctl("show", "--property", ",".join(names), NAME)
    return dict(line.split("=", 1) for line in said.splitlines())


def pid():
    return int(show("MainPID")["MainPID"])


def _readies():
    return len(re.findall(r"ready adopted=", service.log()))


def wait_ready(count, timeout_s=WAIT_S):
    """Waits until it has said so many times that it is ready."""
    deadline = time.monotonic() + timeout_s
    while _readies() < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready after {timeout_s} s: {show('ActiveState', 'Result')}")
        time.sleep(0.05)


def kill():
    """kill -9, and back again by systemd's hand alone."""
    before = _readies()
    os.kill(pid(), signal.SIGKILL)
    wait_ready(before + 1)


def restart():
    systemctl("restart", NAME)


def upgrade(package):
    """A newer package over the running one, whose scripts restart it."""
    install(package)


def journal():
    """What systemd and the service said on stderr about it."""
    return programs.output("journalctl", "--no-pager", "-o", "cat", "-u", NAME)


def adoptions():
    """For each start: devices adopted, ms in which nothing could be attached, ms until ready."""
    found = re.findall(r"adopted count=(\d+) elapsed_ms=([\d.]+)", service.log())
    ready = re.findall(r"ready adopted=\d+ waiting=\d+ elapsed_ms=([\d.]+)", service.log())
    return [
        {"count": int(count), "blocked_ms": float(ms), "ready_ms": float(later)}
        for (count, ms), later in zip(found, ready)
    ]


def opened_early():
    """Images that the last start opened before it had taken over every device."""
    lines = service.log().rpartition("current version: ")[2].rpartition("dev open name=")[0]
    return lines.count("dev opened name=")


def usage():
    """Bytes of memory, threads and open files of the process."""
    number = pid()
    return {
        **service.memory_of(number),
        "threads": len(os.listdir(f"/proc/{number}/task")),
        "files": len(os.listdir(f"/proc/{number}/fd")),
    }
