# SPDX-License-Identifier: Apache-2.0
"""
Layers a field at a time, right or wrong: what is to be damaged, and how.

Nothing is shared with the readers and writers of the product, so that a mistake there does not
make its own test pass.
"""

import struct

import lz4.block
import zstandard

SECTOR = 512
PADDING = (1 << 50) - 1
NULL_UUID = b"00000000-0000-0000-0000-000000000000"

LSMT_MAGIC = bytes.fromhex("4c534d5400010200657e63d29444084ca2d2c8ec4fcfae8a")
LSMT_RECORD = 4096
ZFILE_MAGIC = b"ZFile\0\1\0tuji.yyf@Alibaba"
ZFILE_RECORD = 512
BLOCK_SEED = 100007
LZ4, ZSTD = 1, 2


def _crc_table():
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value


_TABLE = tuple(_crc_table())


def crc32c(data, seed=0):
    for byte in data:
        seed = seed >> 8 ^ _TABLE[(seed ^ byte) & 0xFF]
    return seed


def patched(data, offset, layout, *values):
    """data with a field replaced; a negative offset counts from the end."""
    data = bytearray(data)
    struct.pack_into("<" + layout, data, offset + (len(data) if offset < 0 else 0), *values)
    return bytes(data)


# ---- LSMT


def entry(sector, length, place, zeroed=0, tag=0):
    return struct.pack("<QQ", sector | length << 50, place | zeroed << 55 | tag << 56)


def lsmt_record(flags, index_offset=0, index_size=0, virtual_size=1 << 20, **texts):
    record = LSMT_MAGIC + struct.pack("<IIQQQ", 390, flags, index_offset, index_size, virtual_size)
    record += texts.get("uuid", NULL_UUID).ljust(37, b"\0")
    record += texts.get("parent", NULL_UUID).ljust(37, b"\0")
    record += b"\0\0\1\1" + texts.get("message", b"")
    return record.ljust(LSMT_RECORD, b"\0")


def lsmt(data, index, *, header_flags=7, trailer_flags=6, gap=b"", **fields):
    """data begins at sector 8; index is bytes of whole entries."""
    fields = {"index_offset": LSMT_RECORD + len(data), "index_size": len(index) // 16, **fields}
    trailer = lsmt_record(trailer_flags, **fields)
    return lsmt_record(header_flags) + data + index + gap + trailer


# ---- ZFile


def compress(algo, block):
    if algo == LZ4:
        return lz4.block.compress(block, store_size=False)
    return zstandard.ZstdCompressor(level=3).compress(block)


def stored_block(payload, verify=1):
    return payload + struct.pack("<I", crc32c(payload, BLOCK_SEED)) if verify else payload


def zfile_record(flags, **fields):
    record = bytearray(ZFILE_RECORD)
    record[:24] = ZFILE_MAGIC
    struct.pack_into("<I", record, 24, 96)
    struct.pack_into(
        "<QQQQI",
        record,
        32,
        flags,
        fields.get("index_offset", 0),
        fields.get("index_size", 0),
        fields.get("original_size", 0),
        fields.get("index_crc", 0),
    )
    struct.pack_into("<IB", record, 72, fields["block_size"], fields["algo"])
    struct.pack_into("<IB", record, 84, fields.get("dict_size", 0), fields["verify"])
    return digested(bytes(record)) if flags & 16 else bytes(record)


def digested(data):
    """data with the digest of the header in it made right again."""
    blank = patched(data[:ZFILE_RECORD], 28, "I", 0)
    return patched(data, 28, "I", crc32c(blank))


def zfile(stream, *, block_size=4096, algo=LZ4, verify=1, final=False, flags=16, **more):
    """
    final: the header is the one to use. flags: 16 for checksums. more: blocks, the stored blocks;
    lengths, what the index says of them; dictionary; trailer=False; fields of the record in use.
    """
    starts = range(0, len(stream), block_size)
    blocks = more.pop("blocks", None)
    if blocks is None:
        plain = [stream[at : at + block_size] for at in starts]
        blocks = [stored_block(compress(algo, block), verify) for block in plain]
    lengths = more.pop("lengths", [len(block) for block in blocks])
    dictionary, has_trailer = more.pop("dictionary", b""), more.pop("trailer", True)
    index = struct.pack(f"<{len(lengths)}I", *lengths)
    body = dictionary + b"".join(blocks)
    base = {"block_size": block_size, "algo": algo, "verify": verify}
    fields = {
        **base,
        "index_offset": ZFILE_RECORD + len(body),
        "index_size": len(lengths),
        "original_size": len(stream),
        "index_crc": crc32c(index),
        "dict_size": len(dictionary),
        **more,
    }
    header = zfile_record(11 | flags, **fields) if final else zfile_record(3 | flags, **base)
    trailer = zfile_record(6 | flags, **fields) if has_trailer else b""
    return header + body + index + trailer


# ---- tar


def tar_header(size, typeflag=b"0", magic=b"ustar\x0000", name=b"overlaybd.commit"):
    """size: an int, or the 12 bytes of the field."""
    field = size if isinstance(size, bytes) else b"%11o " % size
    block = bytearray(SECTOR)
    block[: len(name)] = name
    block[124:136] = field
    block[148:156] = b" " * 8
    block[156:157] = typeflag
    block[257 : 257 + len(magic)] = magic
    return summed(bytes(block))


def summed(block, signed=False):
    """The header with its checksum made right again."""
    blank = block[:148] + b" " * 8 + block[156:SECTOR]
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in blank)
    return block[:148] + b"%6o \0" % total + block[156:]


def tar(payload, size=None):
    header = tar_header(len(payload) if size is None else size)
    return header + payload + bytes(-len(payload) % SECTOR + 2 * SECTOR)


def pax_record(key, value):
    text = b" %s=%d\n" % (key, value)
    length = len(text) + 1
    length += len(str(length)) - 1
    return b"%d" % length + text


def pax_tar(payload, records=None, *, typeflag=b"x", member=None, size=None):
    """records: bytes, the size of payload by default; the member's header says 0, as upstream's."""
    if records is None:
        records = pax_record(b"size", len(payload))
    blocks = records + bytes(-len(records) % SECTOR)
    header = tar_header(len(records) if size is None else size, typeflag, name=b"overlaybd.pax")
    member = tar_header(0) if member is None else member
    return header + blocks + member + payload + bytes(-len(payload) % SECTOR + 2 * SECTOR)
