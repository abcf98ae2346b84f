# SPDX-License-Identifier: Apache-2.0
"""
Another service configuration for a process that runs (SIGHUP): which keys act, and when.

What is not named here acts at the next start, and the log says so of each that has changed.
docs/configuration.md has the same list, which tests/unit/test_docs.py holds.
"""

import enum
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from . import config, schema


class When(enum.Enum):
    NOW = "from now on"
    NEXT_DEVICE = "from the next device on"
    NEXT_START = "at the next start"


WHEN = {
    "logConfig.logLevel": When.NOW,
    "logConfig.logSizeMB": When.NOW,
    "logConfig.logRotateNum": When.NOW,
    "cacheConfig.cacheSizeGB": When.NOW,
    "credentialConfig.mode": When.NOW,
    "credentialConfig.path": When.NOW,
    "credentialConfig.timeout": When.NOW,
    "credentialConfig.client_cert_path": When.NOW,
    "credentialConfig.client_key_path": When.NOW,
    "credentialConfig.server_ca_path": When.NOW,
    "enableAudit": When.NOW,
    "auditPath": When.NOW,
    "download.maxMBps": When.NOW,
    "download.enable": When.NEXT_DEVICE,
    "download.delay": When.NEXT_DEVICE,
    "download.delayExtra": When.NEXT_DEVICE,
    "download.tryCnt": When.NEXT_DEVICE,
    "download.blockSize": When.NEXT_DEVICE,
    "outageConfig.onOutage": When.NEXT_DEVICE,
    "outageConfig.deadline": When.NEXT_DEVICE,
    "ioEngine": When.NEXT_DEVICE,
}


SECRET = ("credentialConfig.path", "p2pConfig.address")


class Change(NamedTuple):
    """A key of the current form whose value is another one."""

    key: str
    old: Any
    new: Any
    when: When

    def __str__(self) -> str:
        """For the log, which must not tell what a URL may carry."""
        values = "" if self.key in SECRET else f" old={self.old} new={self.new}"
        return f"key={self.key}{values} acts={self.when.value}"


def compare(
    old: config.ServiceConfig, new: config.ServiceConfig
) -> Tuple[config.ServiceConfig, List[Change]]:
    """What counts from now on: new where that acts before the next start, else old; and changes."""
    document = schema.document_of(old)
    before = dict(_flat(document))
    changes = [
        Change(key, before[key], value, WHEN.get(key, When.NEXT_START))
        for key, value in _flat(schema.document_of(new))
        if before[key] != value
    ]
    for change in changes:
        if change.when is not When.NEXT_START:
            _set(document, change.key, change.new)
    return schema.build(config.ServiceConfig, document), changes


def _flat(document: Dict[str, Any], prefix: str = "") -> Iterator[Tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _set(document: Dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        document = document[section]
    document[key] = value
