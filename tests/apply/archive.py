# SPDX-License-Identifier: Apache-2.0
"""Archives made by hand: every field of a header can be what no sane program writes."""

BLOCK = 512
DIR, FILE, HARD, SYM, CHR, BLK, FIFO = b"5", b"0", b"1", b"2", b"3", b"4", b"6"
END = bytes(2 * BLOCK)


def octal(value, size):
    return b"%0*o\0" % (size - 1, value)


def base256(value, size):
    return bytes([0x80 | value >> 8 * (size - 1) & 0x7F]) + (
        value & (1 << 8 * (size - 1)) - 1
    ).to_bytes(size - 1, "big")


def pad(data):
    return data + bytes(-len(data) % BLOCK)


def checksum(block):
    return sum(block[:148]) + 8 * 32 + sum(block[156:])


def header(name, kind=FILE, size=0, link=b"", **fields):
    """A ustar header; fields are numbers, or bytes as they shall stand there."""
    values = {"mode": 0o755 if kind == DIR else 0o644, "uid": 0, "gid": 0, "mtime": 1_600_000_000}
    values.update({"major": 0, "minor": 0, "magic": b"ustar\x0000", "prefix": b"", "tail": b""})
    values.update(fields)

    def number(key, width):
        return values[key] if isinstance(values[key], bytes) else octal(values[key], width)

    sized = size if isinstance(size, bytes) else octal(size, 12)
    block = name.ljust(100, b"\0")[:100]
    block += number("mode", 8) + number("uid", 8) + number("gid", 8) + sized + number("mtime", 12)
    block += b" " * 8 + kind + link.ljust(100, b"\0")[:100] + values["magic"].ljust(8, b"\0")
    block += bytes(64) + number("major", 8) + number("minor", 8)
    block += values["prefix"].ljust(155, b"\0")
    block = (block + values["tail"]).ljust(BLOCK, b"\0")
    assert len(block) == BLOCK
    if "checksum" in fields:
        return block[:148] + fields["checksum"] + block[156:]
    return block[:148] + b"%06o\0 " % checksum(block) + block[156:]


def file(name, data=b"", **fields):
    return header(name, FILE, len(data), **fields) + pad(data)


def directory(name, **fields):
    return header(name, DIR, **fields)


def symlink(name, target, **fields):
    return header(name, SYM, link=target, mode=0o777, **fields)


def hard(name, target, **fields):
    return header(name, HARD, link=target, **fields)


def many(template, names):
    """The header for each of the names, fast: only name and checksum change."""
    plain = checksum(template) - sum(template[:100])
    middle, tail = template[100:148], template[156:]
    for name in names:
        yield name.ljust(100, b"\0") + middle + b"%06o\0 " % (plain + sum(name)) + tail


def whiteout(name):
    """Of dir/name: dir/.wh.name."""
    parent, slash, base = name.rpartition(b"/")
    return file(parent + slash + b".wh." + base)


def opaque(name):
    return file((name + b"/" if name else b"") + b".wh..wh..opq")


def record(key, value):
    """A pax record, whose length counts its own digits."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def pax(records, kind=b"x"):
    """An extended header; records: a dict, or bytes as they shall stand there."""
    if isinstance(records, dict):
        records = b"".join(record(key, value) for key, value in records.items())
    return header(b"././@PaxHeader", kind, len(records)) + pad(records)


def long_name(name, kind=b"L"):
    return header(b"././@LongLink", kind, len(name) + 1, magic=b"ustar  \0") + pad(name + b"\0")
