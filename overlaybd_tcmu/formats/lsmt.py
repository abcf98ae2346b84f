# SPDX-License-Identifier: Apache-2.0
"""
LSMT: the layer format. Records, index entries, and read-only layers; writable ones: writable.py.

    committed, sealed and merged layers

    0             header, 4096 bytes
    4096          data, addressed in sectors of 512 bytes from the start of the stream
    index_offset  entries, 16 bytes each; they need not reach to the trailer
    size - 4096   trailer: what it says counts, the header only names the kind

    header and trailer, all little-endian

    offset  size  field
         0    24  magic
        24     4  390, the bytes used; nobody looks
        28     4  flags: 0 header, 1 data file, 2 sealed, 4 sparse; others are ignored
        32     8  index_offset, bytes
        40     8  index_size, entries
        48     8  virtual_size, bytes; 0 inherits that of the layer below
        56    37  uuid, text and NUL
        93    37  uuid of the layer below
       130     4  0, 0, version 1, sub-version 1; nobody looks
       134   256  commit message

    entry   bits  field
    word 0   0-49  sector of the disk; 2^50 - 1 marks padding
            50-63  length in sectors, 1 to 16383; 0 covers nothing
    word 1   0-54  msector: where in the stream
               55  zeroed: reads as zeros, and hides what lies below
            56-63  tag: of no meaning in layers of these kinds
"""

import dataclasses
import errno
import re
import struct
from typing import Iterable, Iterator, List, NamedTuple, Optional

from .. import errors, units
from . import stream as streams

RECORD_SIZE = 4096
ENTRY_SIZE = 16
FIRST_SECTOR = RECORD_SIZE // units.SECTOR  # where data begins
MAX_LENGTH = (1 << 14) - 1
END_SECTOR = 1 << 50  # no segment reaches beyond it
PADDING_SECTOR = END_SECTOR - 1
MAX_ENTRIES = 1_000_000  # of a read-only layer, padding included
MAX_MESSAGE = 256

HEADER, DATA, SEALED, SPARSE = 1, 2, 4, 16

_MAGIC = bytes.fromhex("4c534d5400010200657e63d29444084ca2d2c8ec4fcfae8a")
_RECORD = struct.Struct("<24sIIQQQ37s37sHBB256s")
_ENTRY = struct.Struct("<QQ")
_NULL_UUID = "00000000-0000-0000-0000-000000000000"
# A digit where a dash belongs passes, as it always did.
_DIGIT = "[0-9A-Fa-f]"
_UUID = re.compile("[-0-9A-Fa-f]".join(f"{_DIGIT}{{{count}}}" for count in (8, 4, 4, 4, 12)))


# ---- records


@dataclasses.dataclass(frozen=True)
class Record:
    """A header or a trailer. A uuid of "" is the null one, or text that is none."""

    flags: int
    index_offset: int = 0  # bytes
    index_size: int = 0  # entries
    virtual_size: int = 0  # bytes
    uuid: str = ""
    parent_uuid: str = ""
    message: bytes = b""  # at most 256 bytes

    def pack(self) -> bytes:
        if len(self.message) > MAX_MESSAGE:
            reason = f"commit message of {len(self.message)} bytes, at most {MAX_MESSAGE}"
            raise errors.FormatError(errno.ENOBUFS, reason)
        record = _RECORD.pack(
            _MAGIC,
            _RECORD.size,
            self.flags,
            self.index_offset,
            self.index_size,
            self.virtual_size,
            _uuid_text(self.uuid),
            _uuid_text(self.parent_uuid),
            0,
            1,
            1,
            self.message,
        )
        return record.ljust(RECORD_SIZE, b"\0")

    @staticmethod
    def parse(raw: bytes, what: str = "header", offset: int = 0) -> "Record":
        """what and offset, of the stream, are only named; FormatError without the magic."""
        fields = _RECORD.unpack_from(raw)
        if fields[0] != _MAGIC:
            raise errors.FormatError(errno.EINVAL, f"no LSMT magic in the {what}", offset)
        flags, index_offset, index_size, virtual_size, uuid, parent = fields[2:8]
        return Record(
            flags=flags,
            index_offset=index_offset,
            index_size=index_size,
            virtual_size=virtual_size,
            uuid=_uuid(uuid),
            parent_uuid=_uuid(parent),
            message=fields[-1].rstrip(b"\0"),
        )


def _uuid_text(uuid: str) -> bytes:
    return (uuid.upper() or _NULL_UUID).encode("ascii")


def _uuid(field: bytes) -> str:
    text = field[:36].decode("latin-1")
    return text if _UUID.fullmatch(text) and text.strip("0-") else ""


def has_magic(raw: bytes) -> bool:
    """Does an LSMT file begin so?"""
    return raw.startswith(_MAGIC)


# ---- entries


class Segment(NamedTuple):
    """Where a run of the disk's sectors lives. All but tag and zeroed in sectors."""

    sector: int
    length: int
    msector: int
    zeroed: bool = False
    tag: int = 0

    @property
    def end(self) -> int:
        return self.sector + self.length

    @property
    def mend(self) -> int:
        """Where the stream would go on: a zeroed segment has no data there."""
        return self.msector if self.zeroed else self.msector + self.length

    def cut(self, start: int, end: int) -> "Segment":
        """What of it lies in [start, end), which it must touch."""
        begin = max(start, self.sector)
        skipped = 0 if self.zeroed else begin - self.sector
        length = min(end, self.end) - begin
        return self._replace(sector=begin, length=length, msector=self.msector + skipped)

    def pack(self) -> bytes:
        word0 = self.sector | self.length << 50
        return _ENTRY.pack(word0, self.msector | self.zeroed << 55 | self.tag << 56)


PADDING = Segment(PADDING_SECTOR, 0, 0)


def pack_index(segments: Iterable[Segment]) -> bytes:
    return b"".join(segment.pack() for segment in segments)


def parse_index(raw: bytes) -> Iterator[Segment]:
    """Every entry of raw, padding too; a torn one at its end is left out."""
    for word0, word1 in _ENTRY.iter_unpack(raw[: len(raw) - len(raw) % ENTRY_SIZE]):
        yield Segment(
            word0 & (END_SECTOR - 1),
            word0 >> 50,
            word1 & (1 << 55) - 1,
            bool(word1 >> 55 & 1),
            word1 >> 56,
        )


def covers(segment: Segment) -> bool:
    """Does this entry say something of the disk, or is it padding or of no length?"""
    return segment.sector != PADDING_SECTOR and segment.length > 0


def mapping_fault(segment: Segment, data_end: int) -> Optional[str]:
    """Why this segment cannot be, in a stream whose data ends at sector data_end."""
    if segment.end > END_SECTOR:
        return "ends beyond sector 2^50"
    if segment.msector < FIRST_SECTOR or max(segment.msector, segment.mend) > data_end:
        return "is mapped outside the layer's data"
    return None


# ---- read-only layers


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer's records, its segments, ascending and disjoint, with tag 0, and their stream."""

    stream: streams.Stream
    header: Record
    trailer: Record
    segments: List[Segment]

    @property
    def virtual_size(self) -> int:
        return self.trailer.virtual_size


def load(stream: streams.Stream) -> Layer:
    """Checks header, trailer and index; FormatError says what is wrong with them."""
    if stream.size < 2 * RECORD_SIZE:
        reason = f"LSMT stream of {stream.size} bytes, a layer has at least {2 * RECORD_SIZE}"
        raise errors.FormatError(errno.EINVAL, reason)
    end = stream.size - RECORD_SIZE
    # A sealed layer keeps the header of the writable one it was: sealed is asked of the trailer.
    header = load_record(stream, 0, "header", HEADER | DATA, HEADER | DATA)
    trailer = load_record(stream, end, "trailer", HEADER | DATA | SEALED, DATA | SEALED)
    _check_trailer(trailer, end)
    raw = stream.pread(trailer.index_size * ENTRY_SIZE, trailer.index_offset)
    return Layer(stream, header, trailer, _read_only_segments(raw, trailer.index_offset))


def load_record(stream: streams.Stream, offset: int, what: str, mask: int, wanted: int) -> Record:
    """The record at offset; its flags under mask must be wanted."""
    record = Record.parse(stream.pread(RECORD_SIZE, offset), what, offset)
    if record.flags & mask != wanted:
        reason = f"LSMT flags {record.flags:#x} are not those of this kind's {what}"
        raise errors.FormatError(errno.EINVAL, reason, offset + 28)
    return record


def _check_trailer(trailer: Record, end: int) -> None:
    first, count = trailer.index_offset, trailer.index_size
    if count > MAX_ENTRIES:
        reason = f"LSMT index_size of {count} entries, at most {MAX_ENTRIES}"
        raise errors.FormatError(errno.EFBIG, reason, end + 40)
    if not RECORD_SIZE <= first <= end - ENTRY_SIZE * count:
        reason = f"LSMT index_offset {first} and index_size {count} do not lie before the trailer"
        raise errors.FormatError(errno.EINVAL, reason, end + 32)
    if trailer.virtual_size % units.SECTOR:
        reason = f"LSMT virtual_size {trailer.virtual_size} is not a multiple of {units.SECTOR}"
        raise errors.FormatError(errno.EINVAL, reason, end + 48)
    if trailer.virtual_size > END_SECTOR * units.SECTOR:
        reason = f"LSMT virtual_size {trailer.virtual_size} is more than an index can address"
        raise errors.FormatError(errno.EINVAL, reason, end + 48)


def _read_only_segments(raw: bytes, offset: int) -> List[Segment]:
    data_end, behind = offset // units.SECTOR, 0
    segments: List[Segment] = []
    for number, segment in enumerate(parse_index(raw)):
        if not covers(segment):
            continue
        fault = mapping_fault(segment, data_end)
        if segment.sector < behind:
            fault = "begins before the one in front of it ends"
        if fault:
            at = offset + number * ENTRY_SIZE
            raise errors.FormatError(errno.EINVAL, f"LSMT index entry {segment} {fault}", at)
        segments.append(segment._replace(tag=0))
        behind = segment.end
    return segments
