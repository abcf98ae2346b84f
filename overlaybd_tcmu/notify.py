# SPDX-License-Identifier: Apache-2.0
"""Tells systemd (Type=notify) how far we are. A leaf."""

import logging
import os
import socket

log = logging.getLogger("notify")


def send(state: str) -> None:
    """READY=1, STOPPING=1; nothing happens when nobody asked for it."""
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
