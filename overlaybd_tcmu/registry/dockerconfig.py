# SPDX-License-Identifier: Apache-2.0
"""
The docker config format: which entry is for a repository, and what it says.

    {"auths": {"host[:port][/path]": {"auth": base64("user:password")}           or
                                     {"username": ..., "password": ...}         or
                                     {"identitytoken": ...}},
     "credHelpers": {"host": "name"}, "credsStore": "name"}

The entry with the longest matching name wins, by whole path components; a scheme, "/v1/" or "/v2/"
in a name does not matter, and Docker Hub has several names. A program "docker-credential-<name>" is
asked when credHelpers has one for the host, or credsStore when no entry has a password.

Messages name entries and files, never what is in them.
"""

import base64
import binascii
import dataclasses
import json
import os
import re
import signal
import subprocess
from typing import Any, Dict, List, Optional, Tuple

HELPER_S = 10.0  # a program that asks a cloud takes a second or two
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_OUTPUT = 64 << 10
_HUB = "registry-1.docker.io"
_HUB_NAMES = {"docker.io", "index.docker.io", "registry.hub.docker.com", _HUB}
_HUB_KEY = "https://index.docker.io/v1/"  # what helpers know it as


@dataclasses.dataclass(frozen=True)
class Credential:
    """Who to be. Only its source may be shown."""

    user: str = dataclasses.field(repr=False)
    password: str = dataclasses.field(repr=False)
    identity_token: str = dataclasses.field(default="", repr=False)
    source: str = ""  # the entry that matched, and where it is

    def basic(self) -> str:
        """The value of an Authorization header."""
        pair = f"{self.user}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


class Unusable(Exception):
    """A configuration or a helper program that cannot be used; its text is fit for a log."""


def find(document: Any, host: str, repository: str, where: str) -> Optional[Credential]:
    """The credential for a repository ("library/x") of a host ("h", "h:port"), if there is one."""
    if not isinstance(document, dict):
        raise Unusable(f"{where}: must be an object")
    auths, helpers = _section(document, "auths", where), _section(document, "credHelpers", where)
    names = _candidates(host, repository)
    by_name = {_normal(key): key for key in helpers}
    for name in names:
        if name in by_name:
            return _ask(helpers[by_name[name]], name, f"credHelpers of {where}")
    trouble = ""
    for key in _matching(auths, names):
        try:
            found = _credential(auths[key], f'entry "{key}" of {where}')
        except Unusable as error:
            trouble = trouble or str(error)
            continue
        if found is not None:
            return found
    if document.get("credsStore"):
        return _ask(document["credsStore"], names[-1], f"credsStore of {where}")
    if trouble:
        raise Unusable(trouble)
    return None


def _section(document: Dict[str, Any], name: str, where: str) -> Dict[str, Any]:
    value = document.get(name) or {}
    if not isinstance(value, dict):
        raise Unusable(f"{where}: {name} must be an object")
    return value


def _normal(key: str) -> str:
    """A name of the configuration as candidates are written."""
    name = re.sub(r"^[A-Za-z]+://", "", key).rstrip("/")
    name = re.sub(r"/v[12]$", "", name)
    host, slash, path = name.partition("/")
    host = host.lower()
    if host in _HUB_NAMES:
        host = _HUB
    return host + slash + path


def _candidates(host: str, repository: str) -> List[str]:
    """Names that fit, the longest first; the last one is the host."""
    first = _normal(host)
    parts = [part for part in repository.split("/") if part]
    return ["/".join([first] + parts[:count]) for count in range(len(parts), -1, -1)]


def _matching(auths: Dict[str, Any], names: List[str]) -> List[str]:
    """Keys of auths that fit, the best first; of equal ones the file's first."""
    rank = {name: number for number, name in enumerate(names)}
    keys = [key for key in auths if _normal(key) in rank]
    return sorted(keys, key=lambda key: rank[_normal(key)])


def _credential(entry: Any, source: str) -> Optional[Credential]:
    """What an entry says; None when it is empty, as those of a credsStore are."""
    if not isinstance(entry, dict):
        raise Unusable(f"{source}: must be an object")
    values = [entry.get(name, "") for name in ("auth", "username", "password", "identitytoken")]
    if not all(isinstance(value, str) for value in values):
        raise Unusable(f"{source}: has something else than strings")
    auth, user, password, identity = values
    if auth:
        user, password = _decoded(auth, source)
    if identity:
        return Credential(user, "", identity, source)
    return Credential(user, password, "", source) if user or password else None


def _decoded(auth: str, source: str) -> Tuple[str, str]:
    try:
        text = base64.b64decode(auth, validate=False).decode()
    except (binascii.Error, ValueError):  # not chained: its text quotes what could not be decoded
        raise Unusable(f"{source}: auth is not base64 of text") from None
    user, colon, password = text.partition(":")
    if not colon:
        raise Unusable(f"{source}: auth decodes to something without a colon")
    return user, password.rstrip("\0")


def _ask(helper: Any, host: str, where: str) -> Optional[Credential]:
    """What docker-credential-<helper> knows; None when it knows nothing of the host."""
    if not isinstance(helper, str) or not _HELPER_NAME.fullmatch(helper):
        raise Unusable(f"{where}: not the name of a helper")
    program = f"docker-credential-{helper}"
    key = _HUB_KEY if host == _HUB else host
    output, status = _run(program, key, where)
    if status:
        if b"credentials not found" in output:
            return None
        raise Unusable(f"{program} ({where}) failed with exit status {status}")
    try:
        answer = json.loads(output)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError):
        raise Unusable(f"{program} ({where}) answered something else than credentials") from None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise Unusable(f"{program} ({where}) answered something else than credentials")
    source = f"{program} ({where})"
    if user == "<token>":
        return Credential("", "", secret, source)
    return Credential(user, secret, "", source)


def _run(program: str, key: str, where: str) -> Tuple[bytes, int]:
    """Standard output and exit status. The program and all it started end within HELPER_S."""
    try:
        process = subprocess.Popen(
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # may name secrets
            start_new_session=True,
        )
    except OSError as error:
        raise Unusable(f"{program} ({where}) cannot be run: {error.strerror}") from None
    with process:
        try:
            output, _ = process.communicate(key.encode(), HELPER_S)
        except subprocess.TimeoutExpired:
            # It has not been waited for, so the number is still its own.
            os.killpg(process.pid, signal.SIGKILL)
            raise Unusable(f"{program} ({where}) gave no answer in {HELPER_S:.0f} s") from None
    if len(output) > _HELPER_OUTPUT:
        raise Unusable(f"{program} ({where}) answered more than {_HELPER_OUTPUT} bytes")
    return output, process.returncode
