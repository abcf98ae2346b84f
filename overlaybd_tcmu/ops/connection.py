# SPDX-License-Identifier: Apache-2.0
"""
One client of a server: reads requests, hands them to the route, writes the answers. The standard
library parses; here are the limits, and refusals in JSON.

A web page somebody opens on this host must not drive the service: over TCP a request counts only if
it names us by an address or as localhost (else a name was pointed here), and does not come from a
page of another site.
"""

import http.client
import http.server
import logging
import time
import urllib.parse
from typing import Any, Optional

from .. import address, units
from . import message

log = logging.getLogger("ops.connection")

# Nothing we are asked needs more; of headers the standard library takes 100.
LONGEST_BODY = 64 * units.KiB

# One read or one whole answer; a request as a whole: see Server.
TIMEOUT_S = 10.0


class Connection(http.server.BaseHTTPRequestHandler):
    """Made and run by a thread of its own. guarded: see above."""

    protocol_version = "HTTP/1.1"
    server_version = "overlaybd-tcmu"
    sys_version = ""
    timeout = TIMEOUT_S

    def __init__(self, connected: Any, route: message.Route, guarded: bool) -> None:
        self.reading_since: Optional[float] = time.monotonic()  # None: a request is being served
        self._route = route
        self._guarded = guarded
        self._connected = connected

    def run(self) -> None:
        """Until the client has gone or was refused."""
        try:
            super().__init__(self._connected, ("", 0), None)  # type: ignore[arg-type]
        except OSError as error:
            log.debug("connection lost error=%s", error)

    def handle_one_request(self) -> None:
        self.reading_since = time.monotonic()
        super().handle_one_request()

    def _serve(self) -> None:
        try:
            request = self._request()
            self.reading_since = None
            answer = self._route(request)
        except message.Refusal as refusal:
            answer = refusal.answer()
        except (OSError, EOFError):
            raise ConnectionError("the client went away") from None
        except Exception:  # the thread's top
            log.exception("request failed method=%s path=%s", self.command, self.path)
            answer = message.document({"error": "internal error, see the log"}, 500)
        if answer.status >= 400:
            self.close_connection = True
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _serve

    def _request(self) -> message.Request:
        body = self._body()
        if self._guarded:
            self._check_origin()
        parts = urllib.parse.urlsplit(self.path)
        try:
            query = dict(urllib.parse.parse_qsl(parts.query, True, max_num_fields=16))
        except ValueError as error:
            raise message.Refusal(400, f"query: {error}") from None
        path = urllib.parse.unquote(parts.path)
        accept = self.headers.get("Accept", "")
        return message.Request(self.command, path, query, body, accept)

    def _body(self) -> bytes:
        if "Transfer-Encoding" in self.headers:
            raise message.Refusal(411, "a body needs a Content-Length")
        text = self.headers.get("Content-Length", "0")
        if not (text.isascii() and text.isdigit()):
            raise message.Refusal(400, "Content-Length: not a number")
        if len(text) > 18 or int(text) > LONGEST_BODY:
            raise message.Refusal(413, f"a body has at most {LONGEST_BODY} bytes")
        body = self.rfile.read(int(text))
        if len(body) != int(text):
            raise EOFError
        return body

    def _check_origin(self) -> None:
        host = self.headers.get("Host", "localhost")
        name = _host_of(f"//{host}")
        if address.literal_of(name) is None and name.lower() != "localhost":
            raise message.Refusal(403, "Host: must be an address or localhost")
        origin = self.headers.get("Origin")
        if origin is not None and urllib.parse.urlsplit(origin).netloc != host:
            raise message.Refusal(403, "Origin: requests of other sites are not served")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise message.Refusal(403, "Sec-Fetch-Site: requests of other sites are not served")

    def _send(self, answer: message.Answer) -> None:
        self.request_version = self.protocol_version  # or what is not understood gets no headers
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_error(
        self, code: int, message_text: Optional[str] = None, explain: Optional[str] = None
    ) -> None:
        """What the standard library refuses: no HTTP, too long, an unknown method."""
        status = {501: 405, 505: 400}.get(code, code)
        reason = message_text or http.client.responses.get(status, "refused")
        self.close_connection = True
        if not hasattr(self, "command") or self.command is None:
            self.command = ""
        self._send(message.Refusal(status, reason).answer())

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug("%s", format % arguments)

    def address_string(self) -> str:
        return "client"


def _host_of(url: str) -> str:
    try:
        return urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""
