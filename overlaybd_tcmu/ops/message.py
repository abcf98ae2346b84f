# SPDX-License-Identifier: Apache-2.0
"""What a route gets and what it answers; a refusal is an exception with a status."""

import dataclasses
import json
from typing import Any, Callable, Dict, Optional

from .. import errors, schema

JSON = "application/json"


@dataclasses.dataclass(frozen=True)
class Request:
    """path is decoded and without the query; query has the last value of each name."""

    method: str
    path: str
    query: Dict[str, str]
    body: bytes = b""
    accept: str = ""


@dataclasses.dataclass(frozen=True)
class Answer:
    """kind is its content type."""

    body: bytes
    status: int = 200
    kind: str = JSON
    headers: Dict[str, str] = dataclasses.field(default_factory=dict)


Route = Callable[[Request], Answer]


class Refusal(Exception):
    """A request that is not served: its status, 4xx or 500, and one line saying why."""

    def __init__(self, status: int, reason: str, headers: Optional[Dict[str, str]] = None) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}

    def answer(self) -> Answer:
        return document({"error": self.reason}, self.status, self.headers)


def document(
    content: Dict[str, Any], status: int = 200, headers: Optional[Dict[str, str]] = None
) -> Answer:
    """A JSON answer."""
    return Answer((json.dumps(content) + "\n").encode(), status, JSON, headers or {})


def parse(request: Request, expected: schema.Document) -> Dict[str, Any]:
    """The body, checked."""
    try:
        found = schema.parse("body", request.body)
        schema.check("body", expected, found)
    except errors.ConfigError as error:
        raise Refusal(400, str(error)) from None
    return found


def allow(request: Request, *methods: str) -> None:
    """Refuses other methods; HEAD is a GET whose body is not sent."""
    method = "GET" if request.method == "HEAD" else request.method
    if method not in methods:
        names = ", ".join(methods)
        raise Refusal(405, f"{request.path}: only {names}", {"Allow": names})
