# SPDX-License-Identifier: Apache-2.0
"""A writable image and the bytes it has to show."""

from overlaybd_tcmu.ffi import native

from ..support import layers

SIZE = 2 << 20


class Disk:
    """An image over files of a folder, and beside it the bytes it has to show."""

    def __init__(self, folder, sparse, lower=b""):
        self.folder, self.sparse = folder, sparse
        self.lowers, self.number = [], 0
        self.model = bytearray(lower.ljust(SIZE, b"\0"))
        if lower:
            layers.write_changes(folder / "lower", b"", bytes(self.model))
            self.lowers.append(folder / "lower")
        self.create()
        self.open()

    @property
    def pair(self):
        return str(self.folder / f"data{self.number}"), str(self.folder / f"index{self.number}")

    def create(self):
        native.create_upper(*self.pair, 0 if self.lowers else SIZE, self.sparse)

    def open(self):
        lowers = [native.Layer.open(str(path)) for path in self.lowers]
        self.image = native.Image(lowers, helpers=1, upper=native.Upper(*self.pair))

    def snapshot(self):
        self.lowers.append(self.pair[0])
        self.number += 1
        self.create()
        self.image.snapshot(native.Upper(*self.pair))

    def write(self, data, offset):
        assert self.image.pwrite(data, offset) == len(data)
        self.model[offset : offset + len(data)] = data

    def discard(self, offset, count):
        self.image.discard(offset, count)
        self.model[offset : offset + count] = bytes(count)

    def check(self, offset=0, count=SIZE):
        assert self.image.pread(count, offset) == self.model[offset : offset + count]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.image.close()
