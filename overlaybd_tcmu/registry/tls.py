# SPDX-License-Identifier: Apache-2.0
"""
Whom to trust and what to show: TLS settings as data, and the contexts made from them.

A context is made anew when one of its files changed, so certificates can be rotated under a running
daemon. `_lock` guards the table of contexts; it is held while one is made, which reads local files.
"""

import dataclasses
import os
import ssl
import threading
from typing import Tuple

import cachetools

from .. import errors

_Stamp = Tuple[Tuple[str, int, int], ...]


@dataclasses.dataclass(frozen=True)
class Tls:
    """How connections to a host are secured. Paths are absolute."""

    ca_files: Tuple[str, ...] = ()  # trusted as the system's are
    only_ca_files: bool = False  # trusted instead of the system's
    certificates: Tuple[Tuple[str, str], ...] = ()  # (certificate, key); key "": in the same file
    skip_verify: bool = False  # whoever answers is believed

    def elsewhere(self) -> "Tls":
        """The same trust for whom this host sends us to, who does not get our certificates."""
        return dataclasses.replace(self, certificates=())


class Contexts:
    """ssl contexts by Tls; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: "cachetools.LRUCache[Tls, Tuple[_Stamp, ssl.SSLContext]]"
        self._made = cachetools.LRUCache(64)

    def context(self, settings: Tls) -> ssl.SSLContext:
        """RegistryError names the file that cannot be used."""
        stamp = _stamp(settings)
        with self._lock:
            known = self._made.get(settings)
            if known is not None and known[0] == stamp:
                return known[1]
            made = _make(settings)
            self._made[settings] = stamp, made
            return made


def _stamp(settings: Tls) -> _Stamp:
    files = settings.ca_files + tuple(name for pair in settings.certificates for name in pair)
    found = []
    for name in filter(None, files):
        try:
            status = os.stat(name)
            found.append((name, status.st_mtime_ns, status.st_size))
        except OSError:
            found.append((name, 0, -1))  # whoever loads it says why
    return tuple(found)


def _make(settings: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not settings.only_ca_files:
        context.load_default_certs()
    for name in settings.ca_files:
        try:
            context.load_verify_locations(name)
        except (OSError, ValueError) as error:
            raise _unusable(name, "certificates of an authority", error) from None
    for certificate, key in settings.certificates:
        try:
            # The callback keeps OpenSSL from asking for a pass phrase on the terminal.
            context.load_cert_chain(certificate, key or None, password=lambda: "")
        except (OSError, ValueError) as error:
            named = f"{certificate} with {key}" if key else certificate
            raise _unusable(named, "a client certificate", error) from None
    if settings.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _unusable(name: str, what: str, error: Exception) -> errors.RegistryError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    cause = f"{name}: cannot be used as {what}: {reason}"
    return errors.RegistryError(errors.RegistryFailure.CONFIG, cause)
