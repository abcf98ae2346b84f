# SPDX-License-Identifier: Apache-2.0
"""
What the API says of, and does to, what is fetched and kept. docs/api.md lists it.

    GET     /v1/cache                   its size and use, and every blob
    POST    /v1/cache/evict             {"bytes": N}
    PUT     /v1/cache/DIGEST            {"pinned": true or false}
    DELETE  /v1/cache/DIGEST            all that is here of a blob; its readers fetch it again
    GET     /v1/map?device=&parts=      how much of an image is here, and where
    POST    /v1/prefetch                {"device": NAME}

Who asks for the cache has it started, if no layer has needed it yet: it may hold something.
"""

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, Dict

from .. import errors
from ..image import remote
from ..tcmu import device, handler
from . import documents, message

if TYPE_CHECKING:
    from ..cache import service

log = logging.getLogger("ops.cache_api")

PREFIX = "/v1/cache/"

MOST_PARTS = 4096
PARTS = 256

EVICT_SCHEMA = {
    "type": "object",
    "properties": {"bytes": {"type": "integer", "minimum": 1, "maximum": 1 << 62}},
    "required": ["bytes"],
    "additionalProperties": False,
}

PIN_SCHEMA = {
    "type": "object",
    "properties": {"pinned": {"type": "boolean"}},
    "required": ["pinned"],
    "additionalProperties": False,
}

PREFETCH_SCHEMA = {
    "type": "object",
    "properties": {"device": {"type": "string", "minLength": 1}},
    "required": ["device"],
    "additionalProperties": False,
}


class CacheApi:
    """The routes above."""

    def __init__(self, devices: handler.Handler, layers: remote.Remote) -> None:
        self._devices = devices
        self._layers = layers
        self.routes = {
            "/v1/cache": self._show,
            "/v1/cache/evict": self._evict,
            "/v1/map": self._map,
            "/v1/prefetch": self._prefetch,
        }

    def blob(self, request: message.Request) -> message.Answer:
        """Of a path that begins with PREFIX."""
        message.allow(request, "GET", "PUT", "DELETE")
        digest = request.path[len(PREFIX) :]
        known = self._known(digest)
        if request.method == "DELETE":
            self._cache().store.remove(digest)
            log.warning("removed from the cache digest=%s", digest)
            return message.document({"digest": digest, "freed": known["used"]})
        if request.method == "PUT":
            self._pin(digest, bool(message.parse(request, PIN_SCHEMA)["pinned"]))
        return message.document(self._known(digest))

    # ---- the cache

    def _cache(self) -> "service.Cache":
        try:
            return self._layers.cache
        except (errors.Error, OSError) as error:
            raise message.Refusal(409, f"there is no cache: {error}") from None

    def _known(self, digest: str) -> Dict[str, Any]:
        cache = self._cache()
        found = cache.known(digest) if cache.is_digest(digest) else None
        if found is None:
            raise message.Refusal(404, f"{digest}: nothing of such a blob is here")
        return dataclasses.asdict(found)

    def _show(self, request: message.Request) -> message.Answer:
        message.allow(request, "GET")
        cache = self._cache()
        blobs = [dataclasses.asdict(one) for one in cache.blobs()]
        return message.document({**documents.cache(cache.report()), "blobs": blobs})

    def _evict(self, request: message.Request) -> message.Answer:
        message.allow(request, "POST")
        count = message.parse(request, EVICT_SCHEMA)["bytes"]
        room = self._cache().store.room
        freed = room.free(count) if room is not None else 0
        log.warning("evicted as asked bytes=%d freed=%d", count, freed)
        return message.document({"freed": freed})

    def _pin(self, digest: str, pinned: bool) -> None:
        store = self._cache().store
        others = store.pinned() - {digest}
        try:
            store.pin(others | {digest} if pinned else others)
        except OSError as error:
            raise message.Refusal(409, f"{digest}: cannot be kept: {error.strerror}") from None
        if (digest in store.pinned()) != pinned:
            raise message.Refusal(409, f"{digest}: nothing is kept on disk")
        log.warning("pinned=%s digest=%s", pinned, digest)

    # ---- devices

    def _map(self, request: message.Request) -> message.Answer:
        message.allow(request, "GET")
        text = request.query.get("parts", str(PARTS))
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_PARTS):
            raise message.Refusal(400, f"parts: must be 1 to {MOST_PARTS}, not {text}")
        one = self._device(request.query.get("device", ""))
        report = one.report()
        layers = [
            {
                "digest": layer.digest,
                "size": layer.size,
                "parts": [round(part, 3) for part in layer.parts],
            }
            for layer in one.maps(int(text))
        ]
        local = report.info.layers - len(layers) if report.info else 0
        return message.document({"device": report.uio, "layers": layers, "local_layers": local})

    def _prefetch(self, request: message.Request) -> message.Answer:
        message.allow(request, "POST")
        one = self._device(message.parse(request, PREFETCH_SCHEMA)["device"])
        report = one.report()
        if report.remote is None:
            reason = "all its layers are local" if report.info else "it is not served"
            raise message.Refusal(409, f"{report.uio}: {reason}")
        missing = one.prefetch()
        log.warning("prefetch asked for uio=%s missing=%d", report.uio, missing)
        return message.document({"device": report.uio, "missing": missing}, 202)

    def _device(self, name: str) -> device.Device:
        return find(self._devices, name)


def find(devices: handler.Handler, name: str) -> device.Device:
    """The device a request is about."""
    try:
        return devices.find(name)
    except LookupError:
        raise message.Refusal(404, f"{name}: no device has that name or id") from None
