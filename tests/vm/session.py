# SPDX-License-Identifier: Apache-2.0
"""The host's hand in the guest: calls functions of tests/vm/guest by name.

    guest = session.Guest(vm)
    guest.call("disk.attach", 1, "/root/image/config.v1.json")
    pending = guest.start("mounts.manifest", "/mnt/a")      # goes on in a thread of the guest
    pending.result()
"""
from __future__ import annotations

import itertools
import json
import threading
from typing import Any, Callable, Dict, Optional

from . import payload
from .harness import machine

CALL_TIMEOUT_S = 180.0


class GuestError(Exception):
    """A function in the guest raised; the fields are those of its exception."""

    def __init__(self, call: str, answer: Dict[str, Any]) -> None:
        self.name: str = answer["error"]
        self.errno: Optional[int] = answer["errno"]
        self.text: str = answer["text"]
        super().__init__(f"{call}: {self.name}: {self.text}\n{answer['trace']}")


class Pending:
    """A call on its way."""

    def __init__(self, call: str) -> None:
        self._call = call
        self._answer: Optional[Dict[str, Any]] = None
        self._answered = threading.Event()

    def result(self, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        if not self._answered.wait(timeout_s):
            raise TimeoutError(f"{self._call}: no answer after {timeout_s:g} s")
        assert self._answer is not None
        if "error" in self._answer:
            raise GuestError(self._call, self._answer)
        return self._answer["value"]

    @property
    def done(self) -> bool:
        return self._answered.is_set()

    def take(self, answer: Dict[str, Any]) -> None:
        self._answer = answer
        self._answered.set()


class Guest:
    """A machine with our service in it, or with what put brings there."""

    def __init__(
        self, vm: machine.Machine, put: Callable[[machine.Machine], None] = payload.put
    ) -> None:
        self.vm = vm
        put(vm)
        self._numbers = itertools.count(1)
        self._pending: Dict[int, Pending] = {}
        self._rest = b""
        self._server = vm.popen(
            ["python3", "-m", "guest.serve"], cwd="/opt/vm", output_sink=self._take
        )

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Runs guest/<module>.<function> and returns what it returns."""
        return self.start(name, *args, **kwargs).result()

    def start(self, name: str, *args: Any, **kwargs: Any) -> Pending:
        number = next(self._numbers)
        pending = self._pending[number] = Pending(name)
        request = {"id": number, "call": name, "args": args, "kwargs": kwargs}
        self._server.write(json.dumps(request).encode() + b"\n")
        return pending

    def server_errors(self) -> str:
        """What the guest's server said on stderr; empty unless it is broken."""
        return self._server.errors.decode(errors="replace")

    def _take(self, data: bytes) -> None:
        """For the machine's reader thread: whole lines are answers."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self._pending.pop(answer["id"]).take(answer)
