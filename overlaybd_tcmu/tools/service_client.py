# SPDX-License-Identifier: Apache-2.0
"""A client of the service's API, over TCP or a unix socket; one connection a request."""

import contextlib
import http.client
import json
import urllib.parse
from typing import Any, Dict, Optional

from .. import address, units

TIMEOUT_S = 30.0

# A device's detail with 1024 commands that wait is 100 KiB.
LONGEST = 64 * units.MiB


class Unreachable(Exception):
    """Nobody answers there, or not as we do."""


class Refused(Exception):
    """The service answered that it will not."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, where: address.Address) -> None:
        super().__init__(where.host or "localhost", where.port, timeout=TIMEOUT_S)
        self._where = where

    def connect(self) -> None:
        self.sock = address.connect(self._where, TIMEOUT_S)


def device_path(name: str) -> str:
    """Of a device's detail."""
    return "/v1/devices/" + urllib.parse.quote(name, safe="")


def resize_path(name: str) -> str:
    """Of what makes a device's disk grow."""
    return device_path(name) + "/resize"


def blob_path(digest: str) -> str:
    """Of a blob in the cache."""
    return "/v1/cache/" + urllib.parse.quote(digest, safe=":")


def map_path(name: str, parts: int) -> str:
    """Of what is here of a device's image."""
    return f"/v1/map?device={urllib.parse.quote(name, safe='')}&parts={parts}"


class Client:
    """Of the service that listens there."""

    def __init__(self, where: address.Address) -> None:
        self._where = where

    def get(self, path: str) -> Dict[str, Any]:
        return self._ask("GET", path)

    def put(self, path: str, document: Dict[str, Any]) -> Dict[str, Any]:
        return self._ask("PUT", path, json.dumps(document).encode())

    def post(self, path: str, document: Dict[str, Any]) -> Dict[str, Any]:
        return self._ask("POST", path, json.dumps(document).encode())

    def delete(self, path: str) -> Dict[str, Any]:
        return self._ask("DELETE", path)

    def _ask(self, method: str, path: str, body: Optional[bytes] = None) -> Dict[str, Any]:
        try:
            with contextlib.closing(_Connection(self._where)) as connection:
                connection.request(method, path, body)
                answer = connection.getresponse()
                content = answer.read(LONGEST)
        except (OSError, http.client.HTTPException) as error:
            hint = "is the service running?"
            raise Unreachable(f"{self._where}: {_cause(error)}; {hint}") from error
        try:
            document = json.loads(content)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise Unreachable(f"{self._where}: status {answer.status}, and no JSON object")
        if answer.status >= 400:
            raise Refused(str(document.get("error", f"status {answer.status}")))
        return document


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
