# SPDX-License-Identifier: Apache-2.0
"""What every object of the core is to Python, and how its structs become records."""

import ctypes
import dataclasses
import warnings
from types import TracebackType
from typing import Optional, Type, TypeVar

_Record = TypeVar("_Record")


def record(kind: Type[_Record], struct: ctypes.Structure) -> _Record:
    """The struct's fields as a dataclass that has the same ones; text is decoded."""
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = getattr(struct, field.name)
        values[field.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return kind(**values)


_Handle = TypeVar("_Handle", bound="Handle")


class Handle:
    """An object of the core. Subclasses say how it is made and how it is destroyed."""

    def __init__(self) -> None:
        self._address: Optional[int] = None

    @property
    def address(self) -> int:
        """For passing it on; raises once it is closed or handed over."""
        if self._address is None:
            raise ValueError(f"{type(self).__name__} is closed")
        return self._address

    @property
    def closed(self) -> bool:
        return self._address is None

    def release(self) -> int:
        """Gives ownership away: the new owner closes it."""
        address = self.address
        self._address = None
        return address

    def close(self) -> None:
        if self._address is not None:
            self._destroy(self.release())

    def _destroy(self, address: int) -> None:
        raise NotImplementedError

    def __enter__(self: _Handle) -> _Handle:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Only warns: which thread runs this, and what is still in use by then, nobody knows.
        if getattr(self, "_address", None) is not None:
            warnings.warn(f"{type(self).__name__} was never closed", ResourceWarning, source=self)
