# SPDX-License-Identifier: Apache-2.0
"""
The API: the original's live snapshot as it is, and what ours adds, most of it under /v1.
docs/api.md lists it.

    any   /snapshot...?dev_id=&config=      the original's, its words and its indentation included
    any   /resize?dev_id=&size=             a disk grows; in the manner of the above
    POST  /v1/devices/NAME/resize           {"size": BYTES}: the same
    GET   /v1/health   /v1/devices   /v1/devices/NAME   /v1/log-level
    PUT   /v1/log-level                     {"level": 0..4}
    ...                                     what is fetched and kept: cache_api.py
    GET   /                                 the status page
"""

import errno
import importlib.resources
import json
import logging
import time
from typing import Any, Callable, Dict

from .. import errors, log
from ..ffi import libtcmu
from ..image import remote
from ..tcmu import handler
from . import cache_api, documents, message

logger = logging.getLogger("ops.api")

# What the original says; the stray back-tick is its own.
SNAPSHOT_DONE = "Snapshot created successfully"
SNAPSHOT_INCOMPLETE = "Missing dev_id or config in snapshot request"
SNAPSHOT_UNKNOWN = "Image file not found"
SNAPSHOT_FAILED = "Failed to create snapshot`"

# Ours, in its manner.
RESIZE_DONE = "Resized successfully"
RESIZE_INCOMPLETE = "Missing dev_id or size in resize request"
RESIZE_FAILED = "Failed to resize"

LEVEL_NAMES = ("debug", "info", "warn", "error", "fatal")

LEVEL_SCHEMA = {
    "type": "object",
    "properties": {"level": {"type": "integer", "minimum": 0, "maximum": 4}},
    "required": ["level"],
    "additionalProperties": False,
}

RESIZE_SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer", "minimum": 1, "maximum": 1 << 62}},
    "required": ["size"],
    "additionalProperties": False,
}

# What a disk refuses because of what it is, not of what was asked for.
CONFLICTS = (errno.EROFS, errno.EPERM)

DEVICES = "/v1/devices/"
RESIZE = "/resize"

# The page loads nothing from anywhere and talks to nobody but us.
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self';"
    " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Api:
    """The route of a server."""

    def __init__(self, devices: handler.Handler, layers: remote.Remote) -> None:
        self._devices = devices
        self._cache = cache_api.CacheApi(devices, layers)
        self._started_at = time.monotonic()
        self._routes: Dict[str, Callable[[message.Request], message.Answer]] = {
            "/": self._page,
            "/v1/health": self._health,
            "/v1/devices": self._list,
            "/v1/log-level": self._log_level,
            RESIZE: self._resize,
            **self._cache.routes,
        }

    def route(self, request: message.Request) -> message.Answer:
        if request.path.startswith("/snapshot"):
            return self._snapshot(request)
        if request.path in self._routes:
            return self._routes[request.path](request)
        if request.path.startswith(cache_api.PREFIX):
            return self._cache.blob(request)
        if request.path.startswith(DEVICES):
            name = request.path[len(DEVICES) :]
            if name.endswith(RESIZE):
                return self._resize_device(request, name[: -len(RESIZE)])
            return self._detail(request, name)
        raise message.Refusal(404, f"{request.path}: there is no such thing")

    # ---- ours

    def _page(self, request: message.Request) -> message.Answer:
        message.allow(request, "GET")
        page = importlib.resources.files(__package__).joinpath("status.html").read_bytes()
        headers = {"Content-Security-Policy": PAGE_POLICY}
        return message.Answer(page, kind="text/html; charset=utf-8", headers=headers)

    def _health(self, request: message.Request) -> message.Answer:
        message.allow(request, "GET")
        return message.document(documents.health(self._devices.survey(), self._started_at))

    def _list(self, request: message.Request) -> message.Answer:
        message.allow(request, "GET")
        devices = [documents.summary(one) for one in self._devices.survey().devices]
        return message.document({"devices": devices})

    def _detail(self, request: message.Request, name: str) -> message.Answer:
        message.allow(request, "GET")
        return message.document(documents.detail(cache_api.find(self._devices, name).report()))

    def _resize_device(self, request: message.Request, name: str) -> message.Answer:
        message.allow(request, "POST")
        self._grow(name, message.parse(request, RESIZE_SCHEMA)["size"])
        return message.document(documents.summary(cache_api.find(self._devices, name).report()))

    def _grow(self, name: str, size: int) -> None:
        """Or a Refusal: 404 no such device, 400 no such size, 409 not this disk, 500 its files."""
        one = cache_api.find(self._devices, name)
        logger.info("resize asked for device=%s size=%d", name, size)
        try:
            one.grow(size)
        except (errors.Error, OSError, ValueError) as error:
            logger.error("resize failed device=%s size=%d error=%s", name, size, error)
            code = getattr(error, "errno", None)
            status = 500
            if code in CONFLICTS or isinstance(error, errors.ImageError):
                status = 409
            elif code == errno.EINVAL or isinstance(error, ValueError):
                status = 400
            raise message.Refusal(status, f"{one.uio}: {error}") from None

    def _log_level(self, request: message.Request) -> message.Answer:
        message.allow(request, "GET", "PUT")
        if request.method == "PUT":
            level = message.parse(request, LEVEL_SCHEMA)["level"]
            log.set_level(level)
            libtcmu.library().set_log_level(libtcmu.LOG_LEVELS[level])
            logger.warning("log level set level=%d", level)
        level = log.level()
        return message.document({"level": level, "name": LEVEL_NAMES[level]})

    # ---- the original's

    def _snapshot(self, request: message.Request) -> message.Answer:
        """The body is ignored, and nothing of an earlier request is remembered."""
        device_id, config = request.query.get("dev_id", ""), request.query.get("config", "")
        if not device_id or not config:
            return _outcome(400, False, SNAPSHOT_INCOMPLETE)
        logger.info("snapshot asked for dev_id=%s config=%s", device_id, config)
        try:
            self._devices.snapshot(device_id, config)
        except LookupError:
            return _outcome(404, False, SNAPSHOT_UNKNOWN)
        except (errors.Error, OSError, ValueError) as error:
            text = "snapshot failed dev_id=%s config=%s error=%s"
            logger.error(text, device_id, config, error)
            return _outcome(500, False, SNAPSHOT_FAILED, reason=str(error))
        return _outcome(200, True, SNAPSHOT_DONE)

    # ---- in its manner

    def _resize(self, request: message.Request) -> message.Answer:
        device_id, size = request.query.get("dev_id", ""), request.query.get("size", "")
        if not device_id or not size:
            return _outcome(400, False, RESIZE_INCOMPLETE)
        try:
            if not (size.isascii() and size.isdigit() and len(size) < 20):
                raise message.Refusal(400, f"size: {size!r} is not a number of bytes")
            self._grow(device_id, int(size))
        except message.Refusal as refusal:
            text = SNAPSHOT_UNKNOWN if refusal.status == 404 else RESIZE_FAILED
            return _outcome(refusal.status, False, text, reason=refusal.reason)
        return _outcome(200, True, RESIZE_DONE)


def _outcome(status: int, success: bool, text: str, **more: str) -> message.Answer:
    document: Dict[str, Any] = {"success": success, "message": text, **more}
    return message.Answer(json.dumps(document, indent=8).encode(), status)
