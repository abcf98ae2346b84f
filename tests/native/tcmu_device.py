# SPDX-License-Identifier: Apache-2.0
"""A served device of the kernel's side in tests/support, and the commands a disk gets."""

import contextlib
import struct
import threading

from overlaybd_tcmu.ffi import native

from ..support import tcmu_kernel
from . import raw_layers

MAPPED = 1 << 20
SIZE = 2 << 20
BLOCKS = SIZE // 512


def write_layer(path, data, size=SIZE, at=0):
    """A plain layer that has data from byte `at` of the disk on."""
    sectors = len(data) // 512
    path.write_bytes(
        raw_layers.lsmt(data, raw_layers.entry(at // 512, sectors, 8), virtual_size=size)
    )


class Device:
    """An image behind a ring, served by a thread until the block ends."""

    def __init__(self, paths, options=None, image_options=None, **kernel):
        with contextlib.ExitStack() as stack:
            self.kernel = stack.enter_context(tcmu_kernel.Kernel(**kernel))
            layers = [native.Layer.open(str(path), direct=True) for path in paths]
            self.image = native.Image(layers, **(image_options or {"helpers": 1}))
            stack.callback(self.image.close)
            self.tcmu = native.Tcmu(self.image, self.kernel.options(**(options or {})))
            stack.callback(self.tcmu.close)
            self._stack = stack.pop_all()
        self.error = None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.tcmu.run()
        except Exception as error:  # the test looks at it
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.tcmu.stop()
        self.thread.join()
        self._stack.close()

    def ask(self, cdb, count=0, **more):
        """One command to its answer."""
        number = self.kernel.queue(cdb, count, **more)
        self.kernel.kick()
        return self.kernel.answers(1)[number]


def read_6(lba, blocks):
    return struct.pack(">I", 0x08 << 24 | lba) + bytes([blocks & 255, 0])


def read_10(lba, blocks):
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)


def read_12(lba, blocks):
    return struct.pack(">BBIIBB", 0xA8, 0, lba, blocks, 0, 0)


def read_16(lba, blocks):
    return struct.pack(">BBQIBB", 0x88, 0, lba, blocks, 0, 0)


READS = (read_6, read_10, read_12, read_16)


def inquiry(page=None, allocated=255):
    return struct.pack(">BBBHB", 0x12, page is not None, page or 0, allocated, 0)


def capacity_10():
    return bytes([0x25] + [0] * 9)


def capacity_16(allocated=32):
    return struct.pack(">BBQIBB", 0x9E, 0x10, 0, allocated, 0, 0)


def report_opcodes(option, opcode=0, action=0, allocated=512):
    return struct.pack(">BBBBHIBB", 0xA3, 0x0C, option, opcode, action, allocated, 0, 0)


def mode_sense_6(page, subpage=0, control=0, allocated=255):
    return bytes([0x1A, 0, control << 6 | page, subpage, allocated, 0])


def mode_sense_10(page, subpage=0, control=0, allocated=255):
    return struct.pack(">BBBB3xHB", 0x5A, 0, control << 6 | page, subpage, allocated, 0)


def mode_select_6(count, flags=0x10):
    return bytes([0x15, flags, 0, 0, count, 0])


def mode_select_10(count, flags=0x10):
    return struct.pack(">BB5xHB", 0x55, flags, count, 0)


# ---- answers

# Opcodes of a read-only disk: those it answers, and those it refuses as write-protected.
KNOWN = (0x00, 0x08, 0x12, 0x15, 0x1A, 0x25, 0x28, 0x35, 0x55, 0x5A, 0x88, 0x91, 0x9E, 0xA3, 0xA8)
WRITES = (0x0A, 0x2A, 0xAA, 0x8A, 0x2E, 0xAE, 0x8E, 0x41, 0x93, 0x42)

ILLEGAL, DATA_PROTECT, MEDIUM = 5, 7, 3  # sense keys
INVALID_OPCODE, INVALID_FIELD, OUT_OF_RANGE = 0x2000, 0x2400, 0x2100


def good(answer):
    """The data of a command that succeeded."""
    assert (answer.status, answer.sense) == (0, bytes(18))
    return answer.data[: answer.read_count]


def refused(answer):
    """Key and additional code of one that did not."""
    assert answer.status == 2
    assert answer.sense[0] & 0x7F == 0x70 and answer.sense[7] == 10
    return answer.key, answer.asc
