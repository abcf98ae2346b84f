# SPDX-License-Identifier: Apache-2.0
"""
The core's long calls that write a file: committing, and ZFiles. Each leaves it complete or not at
all. A Task watches one from another thread, and stops it.
"""

import ctypes
import dataclasses
import enum
import os
from ctypes import c_uint64, c_void_p
from typing import Optional, Sequence, Tuple

from . import core, handle, native


class Algorithm(enum.IntEnum):
    """How a ZFile's blocks are compressed; NONE writes no ZFile."""

    NONE = 0
    LZ4 = 1
    ZSTD = 2


@dataclasses.dataclass(frozen=True)
class Output:
    """struct obd_output_options: a file, and how the stream in it is wrapped."""

    path: str
    replace: bool = False  # False: FileExistsError's errno when there is one
    mode: int = 0o644  # before the umask
    tar: bool = False
    algorithm: Algorithm = Algorithm.NONE
    block_size: int = 4096
    final_header: bool = False  # a ZFile's header repeats its trailer
    threads: int = 0  # 0: one for each CPU; the bytes do not depend on it

    def struct(self) -> core.OutputOptions:
        return core.OutputOptions(
            path=os.fsencode(self.path),
            mode=self.mode,
            replace=self.replace,
            tar=self.tar,
            algo=self.algorithm,
            block_size=self.block_size,
            final_header=self.final_header,
            threads=self.threads,
        )


class Task(handle.Handle):
    """One long call, seen from other threads."""

    def __init__(self) -> None:
        super().__init__()
        ret = c_void_p()
        core.library().task_create(ctypes.byref(ret))
        self._address = ret.value

    def progress(self) -> Tuple[int, int]:
        """(bytes done, bytes in all); the latter is 0 while nobody knows."""
        done, total = c_uint64(), c_uint64()
        core.library().task_progress(self.address, ctypes.byref(done), ctypes.byref(total))
        return done.value, total.value

    def stop(self) -> None:
        """The call raises NativeError with ECANCELED, soon."""
        core.library().task_stop(self.address)

    def _destroy(self, address: int) -> None:
        core.library().task_destroy(address)


def commit(
    layers: Sequence[native.Layer],
    upper: Optional[native.Upper],
    output: Output,
    uuid: Optional[str] = None,
    parent_uuid: Optional[str] = None,
    message: bytes = b"",
    task: Optional[Task] = None,
) -> None:
    """
    What layers, the lowest first, and upper on them show together, as one committed layer. uuid
    None is the null UUID, parent_uuid None what the lowest layer states.
    """
    stack = (c_void_p * len(layers))(*(layer.address for layer in layers))
    options = core.CommitOptions(
        uuid=uuid.encode() if uuid is not None else None,
        parent_uuid=parent_uuid.encode() if parent_uuid is not None else None,
        message=message,
        message_size=len(message),
    )
    core.library().commit(
        stack,
        len(layers),
        upper.address if upper else None,
        ctypes.byref(options),
        ctypes.byref(output.struct()),
        task.address if task else None,
        ctypes.byref(core.Error()),
    )


def compress(fd: int, output: Output, task: Optional[Task] = None) -> None:
    """What fd, perhaps a pipe, has becomes a ZFile."""
    core.library().zfile_compress(
        fd,
        ctypes.byref(output.struct()),
        task.address if task else None,
        ctypes.byref(core.Error()),
    )


def extract(blob: native.Blob, output: Output, task: Optional[Task] = None) -> None:
    """What is in a ZFile; NativeError with EMEDIUMTYPE when blob is none."""
    core.library().zfile_extract(
        blob.address,
        ctypes.byref(output.struct()),
        task.address if task else None,
        ctypes.byref(core.Error()),
    )


def verify(blob: native.Blob, threads: int = 0, task: Optional[Task] = None) -> None:
    """Every block of a ZFile; NativeError says which is wrong, ENODATA that none has a checksum."""
    core.library().zfile_verify(
        blob.address,
        threads,
        task.address if task else None,
        ctypes.byref(core.Error()),
    )
