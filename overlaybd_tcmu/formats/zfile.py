# SPDX-License-Identifier: Apache-2.0
"""
ZFile: a stream compressed in blocks.

    0              header, 512 bytes
    512            dictionary of dict_size bytes; there is none in practice
    512+dict_size  blocks, each compressed for itself, followed by its CRC if verify says so
    index_offset   u32 for each block: bytes stored, its CRC included
    size - 512     trailer

    header and trailer, all little-endian

    offset  size  field
         0    24  magic
        24     4  96; nobody looks
        28     4  digest: raw CRC-32C of the record with 0 in this place; the header's counts
        32     8  flags: 0 header, 1 data file, 2 sealed, 3 final, 4 has digests; others are ignored
        40     8  index_offset, bytes
        48     8  index_size, blocks
        56     8  original_size, bytes
        64     4  index_crc: raw CRC-32C of the index; counts if flag 4 of this record is set
        72     4  block_size, bytes: a power of two, 512 to 65536
        76     1  algo: 1 lz4, 2 zstd
        84     4  dict_size, bytes
        88     1  verify: not 0 when blocks carry a CRC

Everything else is 0, and garbage in files of 2021: ignored. A header with flag 3 is the record to
use, otherwise the trailer is. A block's CRC is the raw CRC-32C of its payload from seed 100007.
"""

import dataclasses
import errno
import struct
from typing import Callable, List, Optional, Sequence, Tuple

import lz4.block
import zstandard

from .. import errors, units
from . import crc32c
from . import stream as streams

RECORD_SIZE = 512
LZ4, ZSTD = 1, 2
ZSTD_LEVEL = 3
BLOCK_SEED = 100007
MAX_BLOCKS = 1_000_000_000
MIN_BLOCK_SIZE, MAX_BLOCK_SIZE = 512, 64 * units.KiB

HEADER, DATA, SEALED, FINAL, DIGEST = 1, 2, 4, 8, 16

_MAGIC = b"ZFile\0\1\0tuji.yyf@Alibaba"
_RECORD = struct.Struct("<24sIIQQQQIIIBBBBIIB")
_CRC = struct.Struct("<I")
# Blocks of 64 KiB are a group; upstream keeps a block's place in its group in 16 bits.
_GROUP = 64 * units.KiB
_GROUP_SUM_MAX = 65534
# What a compressor may add to a block that does not compress: lz4's bound, and a zstd frame.
_SLACK = 16 + 64


# ---- records


@dataclasses.dataclass(frozen=True)
class Record:
    """A header or a trailer."""

    flags: int
    index_offset: int = 0  # bytes
    index_size: int = 0  # blocks
    original_size: int = 0  # bytes
    index_crc: int = 0
    block_size: int = 4 * units.KiB
    algo: int = LZ4
    dict_size: int = 0  # bytes
    verify: int = 1

    def pack(self) -> bytes:
        """With its digest, if the flags say so."""
        record = self._pack(0)
        return self._pack(crc32c.raw(record)) if self.flags & DIGEST else record

    def _pack(self, digest: int) -> bytes:
        index = (self.index_offset, self.index_size, self.original_size, self.index_crc)
        codec = (self.block_size, self.algo, 0, 0, 0, 0)
        tail = (self.dict_size, self.verify)
        record = _RECORD.pack(_MAGIC, 96, digest, self.flags, *index, 0, *codec, *tail)
        return record.ljust(RECORD_SIZE, b"\0")

    @staticmethod
    def parse(raw: bytes) -> "Record":
        fields = _RECORD.unpack_from(raw)
        flags, index_offset, index_size, original_size, index_crc = fields[3:8]
        return Record(
            flags=flags,
            index_offset=index_offset,
            index_size=index_size,
            original_size=original_size,
            index_crc=index_crc,
            block_size=fields[9],
            algo=fields[10],
            dict_size=fields[15],
            verify=fields[16],
        )


def has_magic(raw: bytes) -> bool:
    """Does a ZFile's record begin so?"""
    return raw.startswith(_MAGIC)


def has_digest(raw: bytes) -> bool:
    """Is the digest in this record the right one?"""
    blank = raw[:28] + bytes(4) + raw[32:RECORD_SIZE]
    return bool(crc32c.raw(blank) == _CRC.unpack_from(raw, 28)[0])


# ---- opening


def load_header(stream: streams.Stream) -> Optional[Record]:
    """The header, None where there is no ZFile; FormatError if it is damaged."""
    if stream.size < RECORD_SIZE:
        reason = f"{stream.size} bytes, a layer has at least {RECORD_SIZE}"
        raise errors.FormatError(errno.EINVAL, reason)
    raw = stream.pread(RECORD_SIZE, 0)
    if not has_magic(raw):
        return None
    record = Record.parse(raw)
    if not record.flags & HEADER:
        raise errors.FormatError(errno.EINVAL, f"ZFile flags {record.flags:#x}: no header's", 32)
    if record.flags & DIGEST and not has_digest(raw):
        raise errors.FormatError(errno.EBADMSG, "ZFile header: its digest does not match", 28)
    return record


def _record_in_use(stream: streams.Stream) -> Record:
    record = load_header(stream)
    if record is None:
        raise errors.FormatError(errno.EINVAL, "no ZFile magic", 0)
    if record.flags & FINAL:
        return record
    if not record.flags & DATA:
        raise errors.FormatError(errno.EINVAL, f"ZFile flags {record.flags:#x}: no data file's", 32)
    at = stream.size - RECORD_SIZE
    if at < RECORD_SIZE:
        raise errors.FormatError(errno.EINVAL, f"ZFile of {stream.size} bytes has no trailer")
    raw = stream.pread(RECORD_SIZE, at)
    if not has_magic(raw):
        raise errors.FormatError(errno.EINVAL, "no ZFile magic in the trailer", at)
    record = Record.parse(raw)
    if record.flags & (HEADER | DATA | SEALED) != DATA | SEALED:
        reason = f"ZFile flags {record.flags:#x}: not a sealed data file's trailer"
        raise errors.FormatError(errno.EINVAL, reason, at + 32)
    return record


def _check_record(record: Record, end: int) -> None:
    """What can be said without the index, which has to end at end."""
    size, blocks = record.block_size, record.index_size
    start, data = record.index_offset, RECORD_SIZE + record.dict_size
    if blocks > MAX_BLOCKS:
        raise errors.FormatError(errno.EFBIG, f"ZFile index_size {blocks}, at most {MAX_BLOCKS}")
    if size & (size - 1) or not MIN_BLOCK_SIZE <= size <= MAX_BLOCK_SIZE:
        reason = f"ZFile block_size {size} is not a power of two between 512 and 65536"
        raise errors.FormatError(errno.EINVAL, reason)
    if record.algo not in (LZ4, ZSTD):
        reason = f"ZFile algo {record.algo} is neither 1 (lz4) nor 2 (zstd)"
        raise errors.FormatError(errno.EINVAL, reason)
    if start + 4 * blocks > end:
        reason = f"ZFile index_offset {start} and index_size {blocks} reach beyond offset {end}"
        raise errors.FormatError(errno.EINVAL, reason)
    if start < data:
        reason = f"ZFile index_offset {start} lies before the data at offset {data}"
        raise errors.FormatError(errno.EINVAL, reason)
    if blocks != -(-record.original_size // size):
        reason = f"ZFile index_size {blocks} is not that of {record.original_size} bytes"
        raise errors.FormatError(errno.EINVAL, reason)
    if blocks > start - data:
        reason = f"ZFile index_size {blocks} blocks in {start - data} bytes"
        raise errors.FormatError(errno.EIO, reason)


def _check_lengths(record: Record, lengths: Sequence[int]) -> None:
    """Whether stored lengths are such that every reader, upstream's too, can find the blocks."""
    crc = _CRC.size if record.verify else 0
    longest = record.block_size + record.block_size // 255 + _SLACK + crc
    at = group = RECORD_SIZE + record.dict_size
    for block, length in enumerate(lengths):
        if block % (_GROUP // record.block_size) == 0:
            group = at
        where = f"ZFile index: block {block}"
        if length <= crc:
            raise errors.FormatError(errno.EIO, f"{where} has a stored length of {length}")
        if length > longest:
            reason = f"{where} has a stored length of {length}, at most {longest}"
            raise errors.FormatError(errno.ERANGE, reason)
        if at - group > _GROUP_SUM_MAX:
            reason = f"{where} begins {at - group} bytes after its group, at most {_GROUP_SUM_MAX}"
            raise errors.FormatError(errno.ERANGE, reason)
        at += length
        if at > record.index_offset:
            raise errors.FormatError(errno.EIO, f"{where} ends beyond the data")


class ZFile:
    """The decompressed stream of a ZFile."""

    def __init__(self, stream: streams.Stream) -> None:
        self.record = record = _record_in_use(stream)
        # The trailer of a file with a final header may be missing.
        end = stream.size - (0 if record.flags & FINAL else RECORD_SIZE)
        _check_record(record, end)
        index = stream.pread(4 * record.index_size, record.index_offset)
        if record.flags & DIGEST and crc32c.raw(index) != record.index_crc:
            reason = "ZFile index: index_crc does not match"
            raise errors.FormatError(errno.EBADMSG, reason, record.index_offset)
        lengths = struct.unpack(f"<{record.index_size}I", index)
        _check_lengths(record, lengths)
        self.size = record.original_size
        self.offsets = _offsets(RECORD_SIZE + record.dict_size, lengths)  # one more than blocks
        self._stream = stream
        self._last: Tuple[int, bytes] = (-1, b"")

    def pread(self, count: int, offset: int) -> bytes:
        """Decompressed bytes; FormatError (EUCLEAN, EIO) where a block is damaged."""
        streams.check_range(self, count, offset)
        size = self.record.block_size
        first, last = offset // size, (offset + count - 1) // size
        data = b"".join(self.block(number) for number in range(first, last + 1))
        return data[offset - first * size :][:count]

    def block(self, number: int) -> bytes:
        """One block, decompressed and checked."""
        if self._last[0] != number:
            self._last = (number, self._decoded(number))
        return self._last[1]

    def _decoded(self, number: int) -> bytes:
        at, end = self.offsets[number], self.offsets[number + 1]
        payload = self._stream.pread(end - at, at)
        if self.record.verify:
            payload, crc = payload[:-4], _CRC.unpack(payload[-4:])[0]
            if crc32c.raw(payload, BLOCK_SEED) != crc:
                raise errors.FormatError(errno.EUCLEAN, f"block {number}: wrong checksum", at)
        length = min(self.record.block_size, self.size - number * self.record.block_size)
        data = decompress(self.record.algo, payload, length)
        if data is None:
            reason = f"block {number} does not decode to {length} bytes"
            raise errors.FormatError(errno.EIO, reason, at)
        return data


def _offsets(start: int, lengths: Sequence[int]) -> List[int]:
    offsets = [start]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    return offsets


# ---- codecs

Compressor = Callable[[int, bytes], bytes]


def compress(algo: int, block: bytes) -> bytes:
    """
    A block's payload. A valid one, but not upstream's: Python's lz4 compresses through the
    streaming interface, and each release of libzstd in its own way.
    """
    if algo == LZ4:
        return bytes(lz4.block.compress(block, store_size=False))
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(block)


def decompress(algo: int, payload: bytes, length: int) -> Optional[bytes]:
    """None unless payload is exactly length bytes, compressed."""
    data = _lz4(payload, length) if algo == LZ4 else _zstd(payload, length)
    return data if data is not None and len(data) == length else None


def _lz4(payload: bytes, length: int) -> Optional[bytes]:
    try:
        return bytes(lz4.block.decompress(payload, uncompressed_size=length))
    except lz4.block.LZ4BlockError:
        return None


def _zstd(payload: bytes, length: int) -> Optional[bytes]:
    """One frame and nothing behind it; never more than length bytes are made of it."""
    if not payload.startswith(zstandard.FRAME_HEADER):
        return None
    decoder = zstandard.ZstdDecompressor()
    try:
        with decoder.stream_reader(payload) as reader:
            data = reader.read(length + 1)
        if len(data) != length:
            return None
        frame = decoder.decompressobj()
        frame.decompress(payload)
    except zstandard.ZstdError:
        return None
    return data if frame.eof and not frame.unused_data else None


# ---- writing


def encode(
    plain: bytes,
    algo: int = LZ4,
    block_size: int = 4 * units.KiB,
    *,
    verify: bool = True,
    final: bool = True,
    compressor: Compressor = compress,
) -> bytes:
    """
    A ZFile of plain: with upstream's compressor, byte for byte what overlaybd-commit writes; and
    with final=False, what overlaybd-zfile and overlaybd-merge do, whose header says nothing of the
    index.
    """
    codec = {"block_size": block_size, "algo": algo, "verify": int(verify)}
    starts = range(0, len(plain), block_size)
    payloads = [compressor(algo, plain[at : at + block_size]) for at in starts]
    blocks = [_stored(payload, verify) for payload in payloads]
    index = struct.pack(f"<{len(blocks)}I", *(len(block) for block in blocks))
    data = b"".join(blocks)
    place = (RECORD_SIZE + len(data), len(blocks), len(plain), crc32c.raw(index))
    if final:
        header = Record(HEADER | DATA | FINAL | DIGEST, *place, **codec)
    else:
        header = Record(HEADER | DATA | DIGEST, **codec)
    trailer = Record(DATA | SEALED | DIGEST, *place, **codec)
    return header.pack() + data + index + trailer.pack()


def _stored(payload: bytes, verify: bool) -> bytes:
    return payload + _CRC.pack(crc32c.raw(payload, BLOCK_SEED)) if verify else payload
