# SPDX-License-Identifier: Apache-2.0
"""
Where a service of ours listens, and its clients connect: http://HOST:PORT or unix:///PATH. A leaf.
"""

import dataclasses
import ipaddress
import socket
import urllib.parse
from typing import Any, Optional

DEFAULT_PORT = 9862

# What sun_path holds, without the NUL.
LONGEST_PATH = 107


@dataclasses.dataclass(frozen=True)
class Address:
    """Either a path, of a unix socket, or host and port; an IPv6 host is without brackets."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether nobody outside this host can reach it."""
        return bool(self.path) or is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Literals and localhost; another name may mean anything tomorrow."""
    literal = literal_of(host)
    return literal.is_loopback if literal is not None else host.lower() == "localhost"


def literal_of(host: str) -> Optional[Any]:
    """The IP address that a host is written as, None for a name."""
    try:
        return ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return None


def parse(text: str) -> Address:
    """ValueError says what is wrong."""
    if text.startswith("unix://"):
        path = text[len("unix://") :]
        if not path.startswith("/"):
            raise ValueError("the path of a unix socket begins with /")
        if len(path.encode()) > LONGEST_PATH:
            raise ValueError(f"the path of a unix socket has at most {LONGEST_PATH} bytes")
        return Address(path=path)
    parts = urllib.parse.urlsplit(text)
    if parts.scheme != "http":
        raise ValueError("must be http://HOST:PORT or unix:///PATH")
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("has more than a host and a port")
    if not parts.hostname:
        raise ValueError("has no host")
    return Address(parts.hostname, DEFAULT_PORT if parts.port is None else parts.port)


def connect(address: Address, timeout_s: float) -> socket.socket:
    """A connected socket; OSError when nobody listens."""
    if not address.path:
        return socket.create_connection((address.host, address.port), timeout_s)
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(timeout_s)
        connected.connect(address.path)
    except OSError:
        connected.close()
        raise
    return connected
