# SPDX-License-Identifier: Apache-2.0
"""Read-only layers and the blobs they are in; native.py has them, with all other handles."""

import ctypes
import dataclasses
import enum
import os
from ctypes import c_void_p

from . import core, handle

BLOB_DIRECT = 1


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """struct obd_layer_info; sizes in bytes."""

    virtual_size: int
    stream_size: int
    segments: int
    memory: int
    tar: int
    zfile: int
    block_size: int
    verify: int
    direct: int
    sparse: int
    uuid: str
    parent_uuid: str
    message: str


class Blob(handle.Handle):
    """Bytes a layer is read from: today a local file."""

    def __init__(self, path: str, direct: bool = False) -> None:
        super().__init__()
        ret = c_void_p()
        flags = BLOB_DIRECT if direct else 0
        core.library().blob_open(
            os.fsencode(path), flags, ctypes.byref(ret), ctypes.byref(core.Error())
        )
        self._address = ret.value

    def _destroy(self, address: int) -> None:
        core.library().blob_close(address)


class Lean(enum.IntEnum):
    """
    What of a layer is not held in memory, because it is gone through once: NOT, all is held;
    IN_ORDER, its index, and an image of it knows a part at a time; TO_COMMIT, jump tables neither.
    """

    NOT = 0
    IN_ORDER = 1
    TO_COMMIT = 2


class Layer(handle.Handle):
    """One read-only layer; takes the blob over, and closes it too when it cannot be opened."""

    def __init__(self, blob: Blob, lean: Lean = Lean.NOT) -> None:
        super().__init__()
        ret, error = c_void_p(), core.Error()
        with blob:
            if lean:
                for_image = int(lean is Lean.IN_ORDER)
                core.library().layer_open_lean(
                    blob.address, for_image, ctypes.byref(ret), ctypes.byref(error)
                )
            else:
                core.library().layer_open(blob.address, ctypes.byref(ret), ctypes.byref(error))
            blob.release()
        self._address = ret.value

    @classmethod
    def open(cls, path: str, direct: bool = False, lean: Lean = Lean.NOT) -> "Layer":
        """A layer in a local file; direct asks for O_DIRECT beside it."""
        return cls(Blob(path, direct), lean)

    def info(self) -> LayerInfo:
        struct = core.LayerInfo()
        core.library().layer_info(self.address, ctypes.byref(struct))
        return handle.record(LayerInfo, struct)

    def _destroy(self, address: int) -> None:
        core.library().layer_close(address)
