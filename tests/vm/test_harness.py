# SPDX-License-Identifier: Apache-2.0
"""The machine itself: what a test says of the service is worth no more than this."""
import os
import select
import signal
import subprocess
import sys

import pytest

from .harness import errors, machine

# Starts a machine, says which process it is, and waits to be killed.
OWNER = """
import sys
from tests.vm.harness import machine
vm = machine.Machine(memory_mib=256, cpus=1)
vm.start()
print(vm.process_id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def vm(guest):
    return guest.vm


def test_output_and_status(vm):
    command = vm.popen("echo out; echo err >&2; exit 7")
    assert command.wait(10) == 7
    assert (bytes(command.output), bytes(command.errors)) == (b"out\n", b"err\n")


def test_failure_tells_what_was_said(vm):
    with pytest.raises(errors.CommandFailed, match="status 3 .*\nbad luck"):
        vm.run("echo bad luck >&2; exit 3")


def test_missing_program(vm):
    with pytest.raises(errors.CommandFailed, match="127"):
        vm.run(["no-such-program"])


def test_input_larger_than_any_pipe(vm):
    data = os.urandom(3 << 20)
    assert vm.run("sha256sum", input_data=data) == vm.run("tee /tmp/a | sha256sum", input_data=data)
    assert vm.run("stat -c %s /tmp/a") == f"{len(data)}\n"


def test_timeout_kills_the_command(vm):
    with pytest.raises(errors.VmTimeout):
        vm.run("exec sleep 1000", timeout_s=0.2)
    vm.run("while pgrep -x sleep; do :; done", timeout_s=10)


def test_signal(vm):
    command = vm.popen(["sleep", "1000"])
    command.kill(signal.SIGTERM)
    assert command.wait(10) == -signal.SIGTERM


def test_files_there_and_back(vm, tmp_path):
    data = os.urandom(100_000)
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "file").write_bytes(data)
    with open(tmp_path / "a" / "sparse", "wb") as file:
        file.truncate(1 << 30)
        file.seek(5 << 20)
        file.write(b"data")
    vm.put(tmp_path / "a", "/tmp/put")
    vm.get("/tmp/put", tmp_path / "b")
    assert (tmp_path / "b" / "deep" / "file").read_bytes() == data
    sparse = os.stat(tmp_path / "b" / "sparse")
    assert sparse.st_size == 1 << 30
    assert sparse.st_blocks < 100


def test_panic_shows_the_console():
    with machine.Machine(memory_mib=256, cpus=1) as vm:
        command = vm.popen("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
        with pytest.raises(errors.VmDied, match="Kernel panic"):
            command.wait(30)


def test_machine_dies_with_its_owner(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ, TMPDIR=str(tmp_path)),
    )
    with owner:
        qemu = os.pidfd_open(int(owner.stdout.readline()))
        owner.kill()
    poll = select.poll()
    poll.register(qemu, select.POLLIN)  # readable when the process has ended
    assert poll.poll(10_000)
    os.close(qemu)
