# SPDX-License-Identifier: Apache-2.0
"""
Where credentials come from: a file, or a service asked over HTTP, HTTPS or a Unix socket.

    credentialConfig.mode    path
    file                     a docker config
    http, https              a URL, asked with GET <path>?remote_url=<blob URL>
    uds                      a socket, asked for http://localhost/auth?remote_url=<blob URL>

A service answers {"success": true, "data": {<a docker config>}}. Nothing is kept: whoever needs to
authenticate reads anew, so a rotated password needs no restart. What cannot be read makes the
request anonymous, and the reason follows if that is not enough. `_lock` guards what was warned
about already, and is held for moments.
"""

import dataclasses
import json
import logging
import os
import stat
import threading
from typing import Any, Optional, Set

from .. import config, errors
from . import client, connection, dockerconfig, operation, tls, url

log = logging.getLogger("registry.credentials")

_FILE_LIMIT = 1 << 20


@dataclasses.dataclass(frozen=True)
class Found:
    """A credential, or why there is none."""

    credential: Optional[dockerconfig.Credential]
    reason: str  # fit for a log
    temporary: bool = False  # the next look may find one


class Credentials:
    """Thread-safe."""

    def __init__(self, settings: config.CredentialConfig, http: client.Client) -> None:
        self._settings = settings
        self._http = http
        self._lock = threading.Lock()
        self._warned: Set[str] = set()

    def reload(self, settings: config.CredentialConfig) -> None:
        """Others; whoever is asking is not disturbed."""
        self._settings = settings

    def find(self, host: str, repository: str, blob_url: str) -> Found:
        """Who to be for a repository of a host ("h:port")."""
        if not self._settings.path:
            return Found(None, "no credentials are configured")
        where = self._where()
        try:
            document = self._read(blob_url)
            if document is None:
                self._warn_once(f"{where}: does not exist, so requests are anonymous")
                return Found(None, f"{where} does not exist")
            found = dockerconfig.find(document, host, repository, where)
        except dockerconfig.Unusable as error:
            self._warn_once(str(error))
            return Found(None, str(error))
        except errors.RegistryError as error:
            log.warning("credentials not read error=%s", error.cause)
            return Found(None, error.cause, error.temporary)
        if found is None:
            return Found(None, f'nothing for "{host}/{repository}" in {where}')
        log.debug("credentials found host=%s repository=%s %s", host, repository, found.source)
        return Found(found, found.source)

    def _where(self) -> str:
        """The source, as errors name it."""
        settings = self._settings
        if settings.mode in ("http", "https"):
            bad = url.problem(settings.path)
            return "credentialConfig.path" if bad else url.shown(settings.path)
        return settings.path

    def _read(self, blob_url: str) -> Any:
        """The docker config; None when its file does not exist."""
        settings = self._settings  # reload() may come
        if settings.mode == "file":
            return self._read_file(settings.path)
        if settings.mode == "uds":
            text = self._ask_socket(settings, blob_url)
        else:
            text = self._ask_service(settings, blob_url)
        where = self._where()
        document = _parsed(text, where)
        if not isinstance(document, dict) or document.get("success") is not True:
            raise dockerconfig.Unusable(f"{where}: answered without success")
        return document.get("data") or {}

    def _read_file(self, path: str) -> Any:
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(_FILE_LIMIT + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise dockerconfig.Unusable(f"{path}: cannot be read: {error.strerror}") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            self._warn_once(
                f"{path}: its mode {stat.S_IMODE(mode):04o} lets others in; chmod 600 {path}"
            )
        return _parsed(text, path)

    def _ask_service(self, settings: config.CredentialConfig, blob_url: str) -> bytes:
        bad = url.problem(settings.path)
        if bad:
            raise dockerconfig.Unusable(f"credentialConfig.path {bad}")
        pair = (settings.client_cert_path, settings.client_key_path)
        trust = tls.Tls(
            ca_files=(settings.server_ca_path,) if settings.server_ca_path else (),
            only_ca_files=bool(settings.server_ca_path),
            certificates=(pair,) if settings.client_cert_path else (),
        )
        current = operation.never_cancelled(float(settings.timeout_s or 1), self._where())
        # As the original, nothing is escaped: a blob's URL has no character that would have to be.
        address = url.with_query(settings.path, f"remote_url={blob_url}")
        with self._http.request("GET", address, current, settings=trust) as response:
            if response.status != 200:
                raise self._refused(response.status)
            return response.read_all()

    def _ask_socket(self, settings: config.CredentialConfig, blob_url: str) -> bytes:
        where = settings.path
        current = operation.never_cancelled(float(settings.timeout_s or 1), where)
        asking = connection.UnixConnection(where, current)
        try:
            asking.request("GET", f"/auth?remote_url={blob_url}")
            response = asking.getresponse()
            if response.status != 200:
                raise self._refused(response.status)
            text = b""
            while len(text) <= _FILE_LIMIT:
                asking.limit()
                piece = response.read1(64 << 10)
                if not piece:
                    break
                text += piece
            return text
        except Exception as error:
            raise client.translate(error, where, "no answer") from None
        finally:
            asking.close()

    def _refused(self, status: int) -> errors.RegistryError:
        kind = errors.RegistryFailure.SERVER if status >= 500 else errors.RegistryFailure.PROTOCOL
        return errors.RegistryError(kind, f"{self._where()}: answered {status}")

    def _warn_once(self, text: str) -> None:
        with self._lock:
            if text in self._warned or len(self._warned) > 1000:
                return
            self._warned.add(text)
        log.warning("credentials %s", text)


def _parsed(text: bytes, where: str) -> Any:
    if len(text) > _FILE_LIMIT:
        raise dockerconfig.Unusable(f"{where}: more than {_FILE_LIMIT} bytes")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        # A decoding error of UTF-8 quotes a byte; one of JSON only says where.
        reason = error if isinstance(error, json.JSONDecodeError) else "not text"
        raise dockerconfig.Unusable(f"{where}: is not JSON: {reason}") from None
