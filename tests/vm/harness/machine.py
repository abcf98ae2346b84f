# SPDX-License-Identifier: Apache-2.0
"""One machine: the QEMU process, its console, and commands and files in and out.

    with machine.Machine() as vm:
        vm.put("some/folder", "/opt/thing")
        print(vm.run("uname -r"))

The console is a file; its end is part of every error, so a kernel panic shows where it is noticed.
QEMU dies with the thread that started it, whatever ends that (a test runner killed with -9 leaves
nothing behind).
"""
from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Callable, List, Mapping, Optional, Sequence, Type, Union

from . import acceleration, connection, errors, initrd, protocol, rootfs

QEMU = "qemu-system-x86_64"
BOOT_TIMEOUT_S = 90.0
KVM_TRIAL_S = 15.0
STOP_TIMEOUT_S = 60.0
CONSOLE_TAIL_BYTES = 6000
KERNEL_ARGUMENTS = "console=ttyS0 panic=-1 quiet mitigations=off"

CommandLine = Union[str, Sequence[str]]


class Machine:
    def __init__(
        self,
        memory_mib: int = 1536,
        cpus: int = 2,
        accelerator: Optional[str] = None,
        kernel_arguments: str = "",
        boot_timeout_s: float = BOOT_TIMEOUT_S,
        init: str = "agent",
    ) -> None:
        if not shutil.which(QEMU):
            raise errors.VmMissing(f"{QEMU} is not installed")
        self.boot_s = 0.0
        self._root = rootfs.build()
        self.accelerator = accelerator or acceleration.choose(rootfs.cache_folder(), kvm_works)
        self._memory_mib = memory_mib
        self._cpus = cpus
        self._kernel_arguments = kernel_arguments
        self._boot_timeout_s = boot_timeout_s
        self._init = init
        self._folder: Optional[tempfile.TemporaryDirectory[str]] = None
        self._qemu: Optional[subprocess.Popen[bytes]] = None
        self._connection: Optional[connection.Connection] = None

    # ---- life

    def __enter__(self) -> Machine:
        self.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Boots, and returns when the guest takes commands."""
        started = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="overlaybd-vm-")
        try:
            self._start_qemu(pathlib.Path(self._folder.name))
            if not self._wire.wait_ready(self._boot_timeout_s):
                raise errors.VmDied("the guest did not come up", self.console_tail())
        except BaseException:
            self.kill()
            raise
        self.boot_s = time.monotonic() - started

    def stop(self) -> None:
        """Powers the guest off; what does not go by itself is killed."""
        if self._qemu is not None and self._qemu.poll() is None and self._connection is not None:
            try:
                self._wire.send(0, protocol.POWER_OFF)
                self._qemu.wait(STOP_TIMEOUT_S)
            except (errors.VmDied, subprocess.TimeoutExpired):
                pass
        self.kill()

    def kill(self) -> None:
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
            self._qemu = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @property
    def alive(self) -> bool:
        return self._qemu is not None and self._qemu.poll() is None

    @property
    def process_id(self) -> int:
        assert self._qemu is not None
        return self._qemu.pid

    def console_tail(self) -> str:
        if self._folder is None:
            return ""
        console = pathlib.Path(self._folder.name) / "console"
        data = console.read_bytes() if console.exists() else b""
        return data[-CONSOLE_TAIL_BYTES:].decode(errors="replace")

    # ---- commands

    def popen(
        self,
        command: CommandLine,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        output_sink: Optional[Callable[[bytes], object]] = None,
        errors_sink: Optional[Callable[[bytes], object]] = None,
    ) -> connection.Command:
        """Starts a command: an argument list, or a line for bash."""
        argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
        return self._wire.start(argv, env, cwd, output_sink, errors_sink)

    def run(self, command: CommandLine, timeout_s: float = 60, input_data: bytes = b"") -> str:
        """Runs a command and returns its stdout; raises CommandFailed for another status than 0."""
        started = self.popen(command)
        started.write(input_data)
        started.close_input()
        try:
            return started.check(timeout_s)
        except errors.VmTimeout:
            started.kill()
            raise

    # ---- files, as tar streams on the same wire

    def put(
        self, source: Union[str, os.PathLike[str]], target: str, timeout_s: float = 120
    ) -> None:
        """
        Copies a file into the guest's folder target, or what is in a folder. Holes stay holes.
        """
        path = pathlib.Path(source)
        folder, names = (path, ["."]) if path.is_dir() else (path.parent, [path.name])
        unpack = self.popen(["sh", "-ec", 'mkdir -p "$0"; exec tar -xSf - -C "$0"', target])
        pack = ["tar", "-cShf", "-", "--exclude=__pycache__", "--owner=0", "--group=0"]
        with subprocess.Popen([*pack, "-C", str(folder), *names], stdout=subprocess.PIPE) as tar:
            assert tar.stdout is not None
            while True:
                data = tar.stdout.read(protocol.CHUNK_BYTES)
                if not data:
                    break
                unpack.write(data)
        unpack.close_input()
        unpack.check(timeout_s)
        if tar.returncode:
            raise errors.VmError(f"tar of {source} ended with status {tar.returncode}")

    def get(
        self, source: str, target: Union[str, os.PathLike[str]], timeout_s: float = 120
    ) -> None:
        """Copies what is in the guest's folder source into the folder target."""
        pathlib.Path(target).mkdir(parents=True, exist_ok=True)
        unpack = ["tar", "-xSf", "-", "--no-same-owner", "-C", str(target)]
        with subprocess.Popen(unpack, stdin=subprocess.PIPE) as tar:
            assert tar.stdin is not None
            pack = self.popen(["tar", "-cSf", "-", "-C", source, "."], output_sink=tar.stdin.write)
            pack.check(timeout_s)
        if tar.returncode:
            raise errors.VmError(f"tar into {target} ended with status {tar.returncode}")

    # ---- inside

    @property
    def _wire(self) -> connection.Connection:
        if self._connection is None:
            raise errors.VmError("the machine is not running")
        return self._connection

    def _start_qemu(self, folder: pathlib.Path) -> None:
        (folder / "initrd").write_bytes(initrd.build(self._root.boot, self._init))
        log = open(folder / "qemu.log", "wb")
        with log:
            # setpriv and not prctl in a hook between fork and exec: that is unsafe once we have
            # threads.
            self._qemu = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._command_line(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, TMPDIR=str(folder)),
            )
        self._connection = self._connect(folder)

    def _connect(self, folder: pathlib.Path) -> connection.Connection:
        while True:
            try:
                return connection.Connection(str(folder / "agent"), self.console_tail)
            except (FileNotFoundError, ConnectionRefusedError):
                assert self._qemu is not None
                if self._qemu.poll() is not None:
                    said = (folder / "qemu.log").read_text(errors="replace")
                    raise errors.VmError(f"{QEMU} did not start: {said}") from None
                time.sleep(0.01)

    def _command_line(self, folder: pathlib.Path) -> List[str]:
        append = [KERNEL_ARGUMENTS, acceleration.kernel_arguments(self.accelerator)]
        disk = f"file={self._root.image},format=raw,if=virtio,snapshot=on,cache=unsafe"
        return [
            *(QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *acceleration.qemu_arguments(self.accelerator),
            *("-smp", str(self._cpus), "-m", str(self._memory_mib)),
            *("-kernel", str(self._root.kernel), "-initrd", str(folder / "initrd")),
            *("-append", " ".join([*append, self._kernel_arguments])),
            *("-serial", f"file:{folder / 'console'}"),
            *("-drive", disk),
            *(
                "-chardev",
                f"socket,id=agent,path={folder / 'agent'},server=on,wait=off",
            ),
            *("-device", "virtio-serial-pci"),
            *("-device", f"virtserialport,chardev=agent,name={protocol.PORT_NAME}"),
            *("-device", "virtio-rng-pci"),
        ]


def kvm_works() -> bool:
    """Boots a machine with KVM to see whether the guest gets as far as its agent."""
    trial = Machine(accelerator=acceleration.KVM, boot_timeout_s=KVM_TRIAL_S)
    try:
        trial.start()
        return trial.run("echo alive", timeout_s=KVM_TRIAL_S) == "alive\n"
    except errors.VmError:
        return False
    finally:
        trial.kill()
