# SPDX-License-Identifier: Apache-2.0
"""
The tar wrapper: one member, so that a layer is a valid tar blob. Two shapes, and no other is read:

    0  member header   512  payload
    0  pax header      512  pax records, one block    1024  member header    1536  payload

    offset  size  field of a header
         0   100  name
       100     8  mode
       108     8  uid
       116     8  gid
       124    12  size, octal text; 0 beside a pax record that says it
       136    12  mtime
       148     8  sum of the header's bytes, these 8 counted as spaces, octal text
       156     1  type: 0, NUL or 7 a file; x, g pax records
       257     5  "ustar"; GNU's own format says "ustar  ": no wrapper, but data
       263     2  "00"
       265    32  user
       297    32  group

    pax record    "<bytes of all of it> size=<bytes of the payload>\n"
"""

import errno
import re
from typing import Optional

from .. import errors
from . import stream as streams

BLOCK = 512

_MEMBER = b"overlaybd.commit"
_PAX = b"overlaybd.pax"
_MAX_NUMBER = (1 << 63) - 1


# ---- reading


def unwrap(stream: streams.Stream) -> Optional[streams.Part]:
    """The payload, None where there is no wrapper; FormatError if there is one of another shape."""
    if stream.size < BLOCK:
        return None
    header = stream.pread(BLOCK, 0)
    if not is_header(header):
        return None
    at, size = 0, 0
    if header[156:157] in b"xg":
        size = _pax_size(stream, header)
        at = 2 * BLOCK
        header = _read_block(stream, at)
        if not is_header(header):
            raise errors.FormatError(
                errno.EINVAL, "tar: no member header behind the pax records", at
            )
    if header[156:157] not in b"0\x007":
        reason = f"tar: type 0x{header[156]:02x} is not a regular file's"
        raise errors.FormatError(errno.EINVAL, reason, at + 156)
    if not size:
        size = _member_size(header, at)
    base = at + BLOCK
    if size > stream.size - base:
        reason = f"tar: member of {size} bytes in a file of {stream.size}"
        raise errors.FormatError(errno.EINVAL, reason, base)
    return streams.Part(stream, base, size)


def is_header(block: bytes) -> bool:
    """Does a block have magic and sum of a ustar header?"""
    if block[257:262] != b"ustar" or block[263:265] != b"00":
        return False
    blank = block[:148] + b" " * 8 + block[156:]
    signed = sum(blank) - 256 * sum(byte > 127 for byte in blank)  # old tars summed signed bytes
    return _octal(block[148:156]) in (sum(blank), signed)


def _read_block(stream: streams.Stream, offset: int) -> bytes:
    if stream.size < offset + BLOCK:
        raise errors.FormatError(errno.EINVAL, "tar ends within its headers", stream.size)
    return stream.pread(BLOCK, offset)


def _octal(field: bytes) -> int:
    """Leading spaces, then digits up to the first other character."""
    match = re.match(rb" *([0-7]*)", field)
    return int(match[1] or b"0", 8) if match else 0


def _member_size(header: bytes, at: int) -> int:
    if header[124] & 0x80:
        reason = "tar: a binary size, where a pax record is expected"
        raise errors.FormatError(errno.EINVAL, reason, at + 124)
    return _octal(header[124:136])


def _pax_size(stream: streams.Stream, header: bytes) -> int:
    """What the records behind this header say of the size; 0 when they say nothing."""
    count = 0 if header[124] & 0x80 else _octal(header[124:136])
    if not 1 <= count <= BLOCK:
        reason = f"tar: pax records of {count} bytes, 1 to {BLOCK} are understood"
        raise errors.FormatError(errno.EINVAL, reason, 124)
    text = _read_block(stream, BLOCK)[:count]
    size = 0
    while text:
        found = re.match(rb"([0-9]+) ", text)
        length = int(found[1]) if found else 0
        record = text[:length]
        fits = found and found.end() < length == len(record) and record.endswith(b"\n")
        if found is None or not fits:
            raise errors.FormatError(errno.EINVAL, "tar: malformed pax record", BLOCK)
        if record[found.end() :].startswith(b"size="):
            size = _pax_number(record[found.end() + 5 :])
        text = text[length:]
    return size


def _pax_number(text: bytes) -> int:
    if not re.fullmatch(rb"[0-9]+\n", text) or int(text) > _MAX_NUMBER:
        raise errors.FormatError(errno.EINVAL, "tar: malformed pax record", BLOCK)
    return int(text)


# ---- writing


def wrap(payload: bytes, mode: int = 0o100644) -> bytes:
    """A tar of payload, byte for byte what the original makes of its temporary one on close."""
    record = _pax_record(b"size=%d" % len(payload))
    pax = _header(_PAX, size=b"%11o " % len(record), typeflag=b"x")
    member = _header(
        _MEMBER,
        owner=b"%6o \0" % mode + b"%6o \0" % 0 * 2,
        size=b"%11o " % 0,
        mtime=b"%11o " % 0,
        typeflag=b"0",
        names=b"root".ljust(32, b"\0") * 2,
    )
    padding = bytes(-len(payload) % BLOCK + 2 * BLOCK)
    return pax + record.ljust(BLOCK, b"\0") + member + payload + padding


def _pax_record(text: bytes) -> bytes:
    """With its length in front, which counts itself."""
    length = len(text) + 2
    while len(b"%d %s\n" % (length, text)) != length:
        length += 1
    return b"%d %s\n" % (length, text)


def _header(
    name: bytes,
    *,
    size: bytes,
    typeflag: bytes,
    owner: bytes = b"",
    mtime: bytes = b"",
    names: bytes = b"",
) -> bytes:
    """owner: mode, uid and gid; names: those of user and group."""
    head = name.ljust(100, b"\0") + owner.ljust(24, b"\0") + size + mtime.ljust(12, b"\0")
    tail = typeflag.ljust(101, b"\0") + b"ustar\00000" + names
    tail = tail.ljust(BLOCK - len(head) - 8, b"\0")
    total = sum(head) + 8 * ord(" ") + sum(tail)
    return head + b"%6o \0" % total + tail
