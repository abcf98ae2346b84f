# SPDX-License-Identifier: Apache-2.0
"""
Who serves a blob: the hosts to ask for it, in order.

The image's repoBlobUrl names the registry. containerd's /etc/containerd/certs.d may name mirrors to
ask before it, and how each host is to be spoken to (hostsfile.py). Nothing here asks the network.
"""

import dataclasses
import re
import urllib.parse
from typing import List, Tuple

from .. import errors
from . import hostsfile, tls, url

# As the image specification has it; the name becomes part of a path, here and in the cache.
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_HEX_DIGITS = {"sha256": 64, "sha512": 128}
_REPOSITORY = re.compile(r"/v2/(.+)/blobs")

# The registry of images that name none goes by another name in certs.d.
_HUB_HOSTS = {"registry-1.docker.io", "index.docker.io"}


@dataclasses.dataclass(frozen=True)
class Host:
    """One server that may have a blob, and how to ask it."""

    origin: str  # "https://host:port", the port only when it is not the scheme's
    repository: str  # "library/x": for the token's scope, and for credentials
    blob_url: str
    trust: tls.Tls = tls.Tls()
    headers: Tuple[Tuple[str, str], ...] = dataclasses.field(default=(), repr=False)

    @property
    def name(self) -> str:
        """ "host" or "host:port": what credentials are looked up by."""
        return urllib.parse.urlsplit(self.origin).netloc


class Resolver:
    """Thread-safe."""

    def __init__(
        self,
        folder: str,
        certificates: Tuple[Tuple[str, str], ...] = (),
    ) -> None:
        self._folder = hostsfile.Folder(folder)
        self._certificates = certificates  # shown to hosts that have none of their own

    def hosts(self, repo_blob_url: str, digest: str) -> List[Host]:
        """The registry comes last, mirrors before it. RegistryError for an impossible place."""
        check_digest(digest)
        base = normalized(repo_blob_url)
        parts = urllib.parse.urlsplit(base)
        match = _REPOSITORY.fullmatch(parts.path)
        known = self._folder.look_up(_namespace(parts.netloc))
        hosts = []
        for entry in (*known.mirrors, known.server) if match else (known.server,):
            if not entry.pulls:
                continue
            name = match.group(1) if match else parts.path.strip("/")
            place = f"{entry.base}/{name}/blobs" if entry.base and match else base
            hosts.append(self._host(entry, place, digest, name, _namespace(parts.netloc)))
        if not hosts:
            cause = f"{known.path}: leaves no host that may be pulled from"
            raise errors.RegistryError(errors.RegistryFailure.CONFIG, cause)
        return hosts

    def _host(
        self, entry: hostsfile.Entry, place: str, digest: str, repository: str, namespace: str
    ) -> Host:
        origin = url.origin_of(place)
        address = f"{place}/{digest}"
        if _namespace(urllib.parse.urlsplit(place).netloc) != namespace:
            # A mirror of several registries tells them apart by this.
            address = url.with_query(address, f"ns={namespace}")
        settings = entry.trust
        if not settings.certificates:
            settings = dataclasses.replace(settings, certificates=self._certificates)
        return Host(origin, repository, address, settings, entry.headers)


def check_digest(digest: str) -> None:
    """RegistryError for what is no digest, and so no name to ask or store anything by."""
    algorithm, _, value = digest.partition(":")
    digits = _HEX_DIGITS.get(algorithm)
    if not _DIGEST.fullmatch(digest) or (
        digits is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value)
    ):
        cause = f"{digest[:80]!r} is no digest"
        raise errors.RegistryError(errors.RegistryFailure.CONFIG, cause)


def normalized(repo_blob_url: str) -> str:
    """The URL with a scheme and without a slash at its end; RegistryError when it is impossible."""
    base = repo_blob_url.rstrip("/")
    if "://" not in base:
        base = "https://" + base
    problem = url.problem(base)
    if not problem:
        parts = urllib.parse.urlsplit(base)
        if "@" in parts.netloc:
            problem = "names a user; credentials belong into credentialConfig"
        elif parts.query or parts.fragment:
            problem = "has a query or a fragment"
    if problem:  # not quoted: who knows what is in it
        raise errors.RegistryError(errors.RegistryFailure.CONFIG, f"repoBlobUrl {problem}")
    return base


def _namespace(netloc: str) -> str:
    """What certs.d calls a host."""
    name = netloc.lower()
    return "docker.io" if name in _HUB_HOSTS else name
