# SPDX-License-Identifier: Apache-2.0
"""
URLs: what of one may be used, and what of one may be shown.

What a URL says behind "?" may be a signature, before "@" a password: neither is ever shown.
"""

import functools
import re
import urllib.parse
from typing import Optional

_KEPT = 1024  # of what is worked out for each request; taking a URL apart takes 15 us
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
# Printable and not a delimiter that has to be escaped: whatever else there is could end the request
# line early.
_BEFORE_USER = re.compile(r"^((?:.*?://)?).*@", re.DOTALL)
_CLEAN = re.compile(r"[!-~]*")


def problem(url: str) -> str:
    """Why a URL cannot be requested; "" when it can."""
    if not _CLEAN.fullmatch(url):
        return "has characters that no URL has"
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return "has an impossible host or port"
    if parts.scheme not in _PORTS:
        return "is neither http nor https"
    host = parts.netloc.rpartition("@")[2]
    if port is not None or host.endswith(":"):
        host = host.rpartition(":")[0]
    if not _HOST.fullmatch(host) or port == 0:
        return "has an impossible host or port"
    return ""


@functools.lru_cache(_KEPT)
def origin_of(url: str) -> str:
    """ "https://host:port" in lower case; the port is left out when it is the scheme's."""
    parts = urllib.parse.urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def host_of(origin: str) -> str:
    """As a Host header has it."""
    return origin.partition("://")[2]


@functools.lru_cache(_KEPT)
def target_of(url: str) -> str:
    """Path and query, exactly as they are."""
    parts = urllib.parse.urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def shown(url: str) -> str:
    """A URL as it may be written into a log or an error."""
    return origin_of(url) + urllib.parse.urlsplit(url).path


def stripped(text: str) -> str:
    """As it is written, but for what is never shown; of what is no URL, too."""
    return re.split("[?#]", _BEFORE_USER.sub(r"\1", text))[0]


def resolved(base: str, location: str) -> Optional[str]:
    """An absolute or relative Location as a URL that can be requested; None when it is none."""
    try:
        joined = urllib.parse.urldefrag(urllib.parse.urljoin(base, location)).url
    except ValueError:
        return None
    return None if problem(joined) else joined


def with_query(url: str, query: str) -> str:
    """query added to what the URL may have already."""
    if not query:
        return url
    return url + ("&" if urllib.parse.urlsplit(url).query else "?") + query
