# SPDX-License-Identifier: Apache-2.0
"""Writable layers: made, opened, sealed. Writing goes through the image that has one on top."""

import ctypes
import dataclasses
import os
from ctypes import c_void_p
from typing import Optional

from . import core, handle

READ_ONLY = 1
EXACT = 2
LEAN = 4


@dataclasses.dataclass(frozen=True)
class UpperInfo:
    """struct obd_upper_info; sizes in bytes."""

    virtual_size: int
    segments: int
    mapped: int
    memory: int
    data_size: int
    dropped: int
    sparse: int
    read_only: int
    uuid: str
    parent_uuid: str


def create_upper(
    data: str,
    index: str,
    virtual_size: int = 0,
    sparse: bool = False,
    uuid: Optional[str] = None,
    parent_uuid: Optional[str] = None,
) -> None:
    """
    The two files of a new writable layer, whole or not at all. virtual_size is in bytes, 0 inherits
    from below; uuid None is a random one.
    """
    options = core.UpperOptions(
        virtual_size=virtual_size,
        sparse=int(sparse),
        uuid=uuid.encode() if uuid is not None else None,
        parent_uuid=parent_uuid.encode() if parent_uuid is not None else None,
    )
    core.library().upper_create(
        os.fsencode(data), os.fsencode(index), ctypes.byref(options), ctypes.byref(core.Error())
    )


class Upper(handle.Handle):
    """
    A writable layer; index may be "" for a sparse one. Opening it puts right what a crash left,
    close() flushes and raises what that says. exact keeps its segments as they were written. lean:
    to be gone through once, by a commit or an image, in little memory however long its index.
    """

    def __init__(
        self,
        data: str,
        index: str,
        read_only: bool = False,
        exact: bool = False,
        lean: bool = False,
    ) -> None:
        super().__init__()
        ret = c_void_p()
        core.library().upper_open(
            os.fsencode(data),
            os.fsencode(index),
            (READ_ONLY if read_only or lean else 0)
            | (EXACT if exact else 0)
            | (LEAN if lean else 0),
            ctypes.byref(ret),
            ctypes.byref(core.Error()),
        )
        self._address = ret.value

    def info(self) -> UpperInfo:
        struct = core.UpperInfo()
        core.library().upper_info(self.address, ctypes.byref(struct))
        return handle.record(UpperInfo, struct)

    def seal(self) -> None:
        """Makes the data file a read-only layer, in place; nothing may be written any more."""
        core.library().upper_seal(self.address, ctypes.byref(core.Error()))

    def resize(self, virtual_size: int) -> None:
        """States another size, in bytes, in the headers."""
        core.library().upper_resize(self.address, virtual_size, ctypes.byref(core.Error()))

    def _destroy(self, address: int) -> None:
        core.library().upper_close(address, ctypes.byref(core.Error()))
