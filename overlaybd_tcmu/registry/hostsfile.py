# SPDX-License-Identifier: Apache-2.0
"""
containerd's registry host configuration, /etc/containerd/certs.d:

    <folder>/<host>_<port>_/  or  <host>:<port>/  or  <host>/     the first that exists,
    <folder>/_default/                                             else this one
        hosts.toml      server = "https://..."
                        [host."https://mirror"]
                          capabilities = ["pull", "resolve"]
                          ca = "file" or ["file", ...]
                          client = "file" or [["certificate", "key"], ...]
                          skip_verify = true
                          override_path = true
                          [host."https://mirror".header]
                            name = "value" or ["value", ...]
        *.crt, *.cert with *.key      Docker's form, where there is no hosts.toml

What stands at the top level of hosts.toml is about the server itself. A hosts.toml that cannot be
used is logged and passed over, as containerd does. Files are read when a blob is opened, and again
when they changed. `_lock` guards what was read and is held while local files are read.
"""

import dataclasses
import logging
import os
import re
import sys
import threading
import urllib.parse
from typing import Any, Dict, List, Tuple

import cachetools

from . import tls, url

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

log = logging.getLogger("registry.hosts")

_CAPABILITIES = {"pull", "resolve", "push"}
_FILE_LIMIT = 1 << 20
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t -~]*")


class _Wrong(Exception):
    """What is wrong with a hosts.toml, naming the key and no value."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """How to speak to one host."""

    base: str = ""  # what comes before "/<repository>/blobs/"; "": where the image says
    pulls: bool = True
    trust: tls.Tls = tls.Tls()
    headers: Tuple[Tuple[str, str], ...] = dataclasses.field(default=(), repr=False)


@dataclasses.dataclass(frozen=True)
class Hosts:
    """What is known of a registry: mirrors in the order to try them, then the server itself."""

    path: str = ""
    mirrors: Tuple[Entry, ...] = ()
    server: Entry = Entry()


class Folder:
    """certs.d; thread-safe."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._read: "cachetools.LRUCache[str, Tuple[Any, Hosts]]" = cachetools.LRUCache(256)

    def look_up(self, host: str) -> Hosts:
        """Of "host" or "host:port", as an image names its registry."""
        folder = self._find(host)
        if not folder:
            return Hosts()
        stamp = _stamp(folder)
        with self._lock:
            known = self._read.get(folder)
            if known is None or known[0] != stamp:
                known = stamp, _read(folder)
                self._read[folder] = known
            return known[1]

    def _find(self, host: str) -> str:
        name, colon, port = host.rpartition(":")
        names = [f"{name}_{port}_"] if colon and port.isdigit() else []
        for one in names + [host, "_default"]:
            folder = os.path.join(self._path, one)
            if self._path and os.path.isdir(folder):
                return folder
        return ""


def _stamp(folder: str) -> Any:
    """Changes when anything in the folder does."""
    stamps = []
    try:
        for name in sorted(os.listdir(folder)):
            status = os.stat(os.path.join(folder, name))
            stamps.append((name, status.st_mtime_ns, status.st_size, status.st_ino))
    except OSError as error:
        stamps.append((str(error.filename), error.errno or 0, 0, 0))
    return stamps


def _read(folder: str) -> Hosts:
    path = os.path.join(folder, "hosts.toml")
    try:
        with open(path, "rb") as file:
            text = file.read(_FILE_LIMIT + 1)
        if len(text) > _FILE_LIMIT:
            raise _Wrong(f"more than {_FILE_LIMIT} bytes")
        if text:
            return _parse(path, folder, tomllib.loads(text.decode()))
    except FileNotFoundError:
        pass
    except OSError as error:
        log.error("hosts not read path=%s error=%s", path, error.strerror)
    except UnicodeDecodeError:
        log.error("hosts passed over path=%s error=not UTF-8", path)
    except (tomllib.TOMLDecodeError, _Wrong, RecursionError) as error:
        log.error("hosts passed over path=%s error=%s", path, error)
    return _read_certificates(folder)


def _read_certificates(folder: str) -> Hosts:
    """Docker's form."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        log.error("hosts not read path=%s error=%s", folder, error.strerror)
        return Hosts(folder)
    authorities = [os.path.join(folder, name) for name in names if name.endswith(".crt")]
    pairs = []
    for name in names:
        if name.endswith(".cert"):
            key = name[: -len(".cert")] + ".key"
            if key in names:
                pairs.append((os.path.join(folder, name), os.path.join(folder, key)))
            else:
                log.error("client certificate without a key path=%s", os.path.join(folder, name))
    settings = tls.Tls(ca_files=tuple(authorities), certificates=tuple(pairs))
    return Hosts(folder, (), Entry(trust=settings))


def _parse(path: str, folder: str, document: Dict[str, Any]) -> Hosts:
    hosts = document.get("host", {})
    if not isinstance(hosts, dict):
        raise _Wrong("host: must be a table")
    mirrors = []
    for name, section in hosts.items():  # in the order of the file
        if not isinstance(section, dict):
            raise _Wrong(f'host."{name}": must be a table')
        mirrors.append(_entry(name, section, folder, f'host."{name}".'))
    server = document.get("server", "")
    if not isinstance(server, str):
        raise _Wrong("server: must be a string")
    own = _entry(server, document, folder, "")
    for entry in mirrors + [own]:
        if entry.trust.skip_verify:
            log.warning("certificate not verified host=%s path=%s", entry.base or "server", path)
    return Hosts(path, tuple(mirrors), own)


def _entry(server: str, section: Dict[str, Any], folder: str, prefix: str) -> Entry:
    capabilities = _strings(section, "capabilities", prefix)
    unknown = {one.lower() for one in capabilities} - _CAPABILITIES
    if unknown:
        raise _Wrong(f"{prefix}capabilities: unknown: {', '.join(sorted(unknown))}")
    settings = tls.Tls(
        ca_files=tuple(os.path.join(folder, one) for one in _strings(section, "ca", prefix)),
        certificates=_pairs(section, folder, prefix),
        skip_verify=_flag(section, "skip_verify", prefix),
    )
    return Entry(
        base=_base(server, _flag(section, "override_path", prefix), prefix),
        pulls=not capabilities or "pull" in [one.lower() for one in capabilities],
        trust=settings,
        headers=_headers(section, prefix),
    )


def _base(server: str, override_path: bool, prefix: str) -> str:
    if not server:
        return ""
    address = server if "://" in server else "https://" + server
    if url.problem(address):
        raise _Wrong(f"{prefix or 'server'}: the URL {url.problem(address)}")
    parts = urllib.parse.urlsplit(address)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _Wrong(f"{prefix or 'server'}: the URL has more than scheme, host and path")
    path = re.sub(r"/+", "/", parts.path).rstrip("/")
    if not override_path and not path.endswith("/v2"):
        path += "/v2"
    return url.origin_of(address) + path


def _strings(section: Dict[str, Any], key: str, prefix: str) -> List[str]:
    value = section.get(key, [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise _Wrong(f"{prefix}{key}: must be a string or an array of strings")
    return values


def _flag(section: Dict[str, Any], key: str, prefix: str) -> bool:
    value = section.get(key, False)
    if not isinstance(value, bool):
        raise _Wrong(f"{prefix}{key}: must be true or false")
    return value


def _pairs(section: Dict[str, Any], folder: str, prefix: str) -> Tuple[Tuple[str, str], ...]:
    """client, in any of its three forms."""
    value: Any = section.get("client", [])
    pairs = []
    for one in value if isinstance(value, list) else [value]:
        pair = [one, ""] if isinstance(one, str) else one
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(name, str) for name in pair)
        ):
            raise _Wrong(f"{prefix}client: must be a file, files, or pairs of them")
        certificate, key = pair
        full_key = os.path.join(folder, key) if key else ""
        pairs.append((os.path.join(folder, certificate), full_key))
    return tuple(pairs)


def _headers(section: Dict[str, Any], prefix: str) -> Tuple[Tuple[str, str], ...]:
    value = section.get("header", {})
    if not isinstance(value, dict):
        raise _Wrong(f"{prefix}header: must be a table")
    found = []
    for name in value:
        values = _strings(value, name, prefix + "header.")
        if not _HEADER_NAME.fullmatch(name) or not all(map(_HEADER_VALUE.fullmatch, values)):
            raise _Wrong(f"{prefix}header: a name or value has impossible characters")
        found.append((name, ", ".join(values)))
    return tuple(found)
