# SPDX-License-Identifier: Apache-2.0
"""What the daemon asks the kernel for while a disk is attached."""
import collections
import os
import re
import signal
import subprocess
import tempfile
import time

from guest import disk

PATIENCE_S = 60


def of_attach(pid, number, config):
    """
    {system call: how often} of a process from before `enable` is written until the disk's first
    sector has been read.
    """
    with tempfile.NamedTemporaryFile("r") as log:
        command = ["strace", "-f", "-qq", "-o", log.name, "-p", str(pid)]
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            _wait_traced(pid)
            name = disk.attach(number, config, rounds=disk.CROWD_ROUNDS)["disk"]
            with open(f"/dev/{name}", "rb", buffering=0) as file:
                file.read(512)
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(PATIENCE_S)
        return dict(collections.Counter(re.findall(r"^\d+ +(\w+)\(", log.read(), re.MULTILINE)))


def _wait_traced(pid):
    """Until each of its threads is watched."""
    deadline = time.monotonic() + PATIENCE_S
    while not all(_tracer(pid, thread) for thread in os.listdir(f"/proc/{pid}/task")):
        if time.monotonic() > deadline:
            raise TimeoutError("strace did not get hold of the daemon")
        time.sleep(0.01)


def _tracer(pid, thread):
    with open(f"/proc/{pid}/task/{thread}/status") as file:
        return int(re.search(r"^TracerPid:\s+(\d+)", file.read(), re.MULTILINE)[1])
