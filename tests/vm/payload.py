# SPDX-License-Identifier: Apache-2.0
"""
What is copied into the machine: the service as "make install" lays it out, tests/vm/guest as
/opt/vm/guest, and for its registry tests/support as /opt/vm/support.
"""
from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile

from .harness import machine

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUEST = ROOT / "tests" / "vm" / "guest"
SUPPORT = ROOT / "tests" / "support"


def put(vm: machine.Machine) -> None:
    with tempfile.TemporaryDirectory(prefix="overlaybd-payload-") as folder:
        _install(folder)
        vm.put(folder, "/")
    vm.put(GUEST, "/opt/vm/guest")
    vm.put(SUPPORT, "/opt/vm/support")


def _install(folder: str) -> None:
    # We may have been started by make; its flags are not for this one.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-s", "install", f"DESTDIR={folder}"]
    subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
