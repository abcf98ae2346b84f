# SPDX-License-Identifier: Apache-2.0
"""
LSMT's writable layers: the append-only pair, its sparse cousin, and sealing. Records and entries
are those of lsmt.py.

    data file     header (flags 3) | sectors in the order they were written
    index file    header (flags 1, index_offset 4096, index_size 0) | entries, a later one wins
    sparse file   header (flags 19) | the disk itself, where it was written; no index: holes say
                  what is absent
    sealed file   data or sparse file as it was | entries, sorted, not padded | zeros | trailer

Here the whole layer is in memory: a model, and for reading what others have written.
"""

import errno
import os
from typing import List

from .. import errors, units
from . import lsmt
from . import stream as streams
from . import view

MAX_ENTRIES = 128_000_000
MAX_IO = 4 * units.MiB  # a longer write becomes several entries


def load_pair(data: streams.Stream, index: streams.Stream) -> lsmt.Layer:
    """An append-only pair; what the index says of the size and the uuid is what counts."""
    header = _load_header(data)
    mask = lsmt.HEADER | lsmt.DATA | lsmt.SEALED
    record = lsmt.load_record(index, 0, "index file's header", mask, lsmt.HEADER)
    if record.index_offset != lsmt.RECORD_SIZE:
        reason = f"LSMT index_offset {record.index_offset} of an index file is not 4096"
        raise errors.FormatError(errno.EINVAL, reason, 32)
    count = (index.size - lsmt.RECORD_SIZE) // lsmt.ENTRY_SIZE
    if count > MAX_ENTRIES:
        reason = f"LSMT index of {count} entries, at most {MAX_ENTRIES}"
        raise errors.FormatError(errno.EFBIG, reason)
    raw = index.pread(count * lsmt.ENTRY_SIZE, lsmt.RECORD_SIZE)
    entries = [entry for entry in lsmt.parse_index(raw) if entry.sector != lsmt.PADDING_SECTOR]
    for entry in entries:
        fault = lsmt.mapping_fault(entry, data.size // units.SECTOR)
        if fault:
            raise errors.FormatError(errno.EINVAL, f"LSMT index entry {entry} {fault}")
    return lsmt.Layer(data, header, record, replayed(entries))


def _load_header(data: streams.Stream) -> lsmt.Record:
    if data.size < lsmt.RECORD_SIZE:
        reason = f"LSMT data file of {data.size} bytes has no header"
        raise errors.FormatError(errno.EINVAL, reason)
    return lsmt.load_record(data, 0, "data file's header", lsmt.HEADER, lsmt.HEADER)


def replayed(entries: List[lsmt.Segment]) -> List[lsmt.Segment]:
    """A log of entries as segments, ascending and disjoint: each is a layer over those before."""
    segments: List[lsmt.Segment] = []
    for entry in entries:
        if entry.length:
            segments = view.merge([segments, [entry]])
    return [segment._replace(tag=0) for segment in segments]


def load_sparse(path: "os.PathLike[str]", data: streams.Stream) -> lsmt.Layer:
    """A sparse file, also opened as data; its segments are what the file system has of it."""
    header = _load_header(data)
    if not header.flags & lsmt.SPARSE:
        raise errors.FormatError(errno.EINVAL, f"LSMT flags {header.flags:#x}: not sparse", 28)
    segments = []
    for start, end in _extents(path, data.size):
        for sector in range(start // units.SECTOR, end // units.SECTOR, lsmt.MAX_LENGTH):
            length = min(lsmt.MAX_LENGTH, end // units.SECTOR - sector)
            segments.append(lsmt.Segment(sector - lsmt.FIRST_SECTOR, length, sector))
    return lsmt.Layer(data, header, header, segments)


def _extents(path: "os.PathLike[str]", size: int) -> List["tuple[int, int]"]:
    """What the file has behind its header; ENXIO is how the kernel says that there is no more."""
    found, end = [], lsmt.RECORD_SIZE
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while end < size:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, end))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)
    return found


def seal(layer: lsmt.Layer) -> bytes:
    """A sealed file of a writable layer. Upstream leaves rubbish where here are zeros."""
    data = streams.read(layer.stream)
    index = lsmt.pack_index(layer.segments)
    trailer = lsmt.Record(
        lsmt.DATA | lsmt.SEALED | layer.header.flags & lsmt.SPARSE,
        len(data),
        len(layer.segments),
        layer.header.virtual_size,
        layer.header.uuid,
        layer.header.parent_uuid,
    )
    return data + index + bytes(-len(index) % units.SECTOR) + trailer.pack()


class Pair:
    """An append-only pair being written: data and index are what the two files hold."""

    def __init__(self, virtual_size: int, uuid: str = "", parent_uuid: str = "") -> None:
        texts = (virtual_size, uuid, parent_uuid)
        self.data = bytearray(lsmt.Record(lsmt.HEADER | lsmt.DATA, 0, 0, *texts).pack())
        self.index = bytearray(lsmt.Record(lsmt.HEADER, lsmt.RECORD_SIZE, 0, *texts).pack())

    def write(self, data: bytes, offset: int) -> None:
        """Whole sectors; each piece of at most MAX_IO bytes is an entry."""
        for start in range(0, len(data), MAX_IO):
            part = data[start : start + MAX_IO]
            self._append(len(part), offset + start, zeroed=False)
            self.data += part

    def discard(self, count: int, offset: int) -> None:
        """Reads as zeros from now on, whatever lies below."""
        step = lsmt.MAX_LENGTH * units.SECTOR
        for start in range(0, count, step):
            self._append(min(step, count - start), offset + start, zeroed=True)

    def _append(self, count: int, offset: int, zeroed: bool) -> None:
        if count % units.SECTOR or offset % units.SECTOR:
            raise errors.FormatError(errno.EFAULT, f"{count} bytes are not whole sectors", offset)
        place = len(self.data) // units.SECTOR
        sector, length = offset // units.SECTOR, count // units.SECTOR
        self.index += lsmt.Segment(sector, length, place, zeroed).pack()
