# SPDX-License-Identifier: Apache-2.0
"""Tells systemd (Type=notify) how far we are, and that we live (WatchdogSec). A leaf."""

import logging
import os
import socket
from typing import Optional

log = logging.getLogger("notify")


def send(state: str) -> None:
    """READY=1, STOPPING=1, WATCHDOG=1; nothing happens when nobody asked for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(state.encode(), address)
    except OSError as error:
        log.warning("not notified state=%s error=%s", state, error.strerror)


def watchdog_s() -> Optional[float]:
    """How often WATCHDOG=1 has to come, by half of what is demanded; None: nobody waits for it."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        limit_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return None
    return limit_s / 2 if limit_s > 0 else None
