# SPDX-License-Identifier: Apache-2.0
"""
Many ask for the same thing at once, one fetches it: tokens, and where a blob is.

`_lock` guards the table of what is being fetched and is held for moments; fetching happens outside.
"""

import threading
from typing import Callable, Dict, Generic, Hashable, Optional, TypeVar

from .. import errors
from . import operation

_Value = TypeVar("_Value")


class _Flight(Generic[_Value]):
    def __init__(self) -> None:
        self.landed = threading.Event()
        self.value: Optional[_Value] = None
        self.error: Optional[errors.RegistryError] = None
        self.has_value = False


class SingleFlight(Generic[_Value]):
    """For one kind of value; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: Dict[Hashable, _Flight[_Value]] = {}

    def do(
        self, key: Hashable, current: operation.Operation, fetch: Callable[[], _Value]
    ) -> _Value:
        """
        fetch()'s value or RegistryError, of whoever came first with this key. When that one ran out
        of its own time or was cancelled, the next one fetches.
        """
        while True:
            with self._lock:
                flight = self._flights.get(key)
                leads = flight is None
                if flight is None:
                    flight = self._flights[key] = _Flight()
            if leads:
                return self._lead(key, flight, fetch)
            current.wait(flight.landed)
            if flight.has_value:
                assert flight.value is not None
                return flight.value
            if flight.error is not None:
                raise flight.error.copy()

    def _lead(self, key: Hashable, flight: _Flight[_Value], fetch: Callable[[], _Value]) -> _Value:
        try:
            flight.value = fetch()
            flight.has_value = True
            return flight.value
        except errors.RegistryError as error:
            own = errors.RegistryFailure.CLOSED, errors.RegistryFailure.TIMEOUT
            if error.kind not in own:
                flight.error = error
            raise
        finally:
            with self._lock:
                del self._flights[key]
            flight.landed.set()
