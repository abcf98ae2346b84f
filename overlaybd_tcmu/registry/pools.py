# SPDX-License-Identifier: Apache-2.0
"""
urllib3's pools of idle connections, one for each server and way to secure it; the least lately used
one goes when there are too many, and its connections with it. `_lock` guards the table and is held
for moments. Not urllib3's PoolManager: finding a pool there takes as long as all else it does.
"""

import ssl
import threading
import urllib.parse
from typing import Optional, Tuple, Union

import cachetools

from . import connection

_Pool = Union[connection.HttpPool, connection.HttpsPool]
_Key = Tuple[str, Optional[ssl.SSLContext]]


class _Table(cachetools.LRUCache):  # type: ignore[type-arg]  # not generic where it runs
    def popitem(self) -> Tuple[_Key, _Pool]:
        key, pool = super().popitem()
        pool.close()
        return key, pool


class Pools:
    """Thread-safe."""

    def __init__(self, servers: int, each: int) -> None:
        self._each = each
        self._lock = threading.Lock()
        self._table = _Table(servers)

    def pool(self, origin: str, context: Optional[ssl.SSLContext]) -> _Pool:
        """For "https://host:port". It may be closed by the time it is used: then ask again."""
        with self._lock:
            pool: Optional[_Pool] = self._table.get((origin, context))
            if pool is None:
                pool = self._table[(origin, context)] = self._make(origin, context)
            return pool

    def close(self) -> None:
        with self._lock:
            while self._table:
                self._table.popitem()

    def _make(self, origin: str, context: Optional[ssl.SSLContext]) -> _Pool:
        parts = urllib.parse.urlsplit(origin)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        if context is None:
            return connection.HttpPool(host, parts.port or 80, maxsize=self._each)
        return connection.HttpsPool(
            host, parts.port or 443, maxsize=self._each, ssl_context=context
        )
