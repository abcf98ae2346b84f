# SPDX-License-Identifier: Apache-2.0
"""
Reads the tree of an ext4 in plain Python, for machines where nothing may be mounted; where the
kernel can show it, both must agree.
"""

import hashlib
import os
import stat
import struct

MAGIC_EXTENTS, MAGIC_XATTRS = 0xF30A, 0xEA020000
META_BG, IS_64BIT = 0x10, 0x80
PREFIXES = {1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default"}
PREFIXES |= {4: "trusted.", 6: "security.", 7: "system."}
ROOT = 2


class Ext4:
    def __init__(self, file):
        self.fd = file.fileno()
        block = os.pread(self.fd, 1024, 1024)
        self.first, log = struct.unpack_from("<II", block, 20)
        self.size = 1024 << log
        (self.group_blocks,) = struct.unpack_from("<I", block, 32)
        (self.group_inodes,) = struct.unpack_from("<I", block, 40)
        (self.inode_size,) = struct.unpack_from("<H", block, 88)
        (self.incompat,) = struct.unpack_from("<I", block, 96)
        wide = self.incompat & IS_64BIT
        self.descriptor_size = struct.unpack_from("<H", block, 254)[0] if wide else 32

    def block(self, number):
        return os.pread(self.fd, self.size, number * self.size)

    def _descriptor(self, group):
        if not self.incompat & META_BG:
            place = (self.first + 1) * self.size + group * self.descriptor_size
            return os.pread(self.fd, self.descriptor_size, place)
        there = self.size // self.descriptor_size
        head = group - group % there
        has_super = head in (0, 1) or any(head == base**n for base in (3, 5, 7) for n in range(20))
        start = (self.first + head * self.group_blocks + has_super) * self.size
        return os.pread(self.fd, self.descriptor_size, start + group % there * self.descriptor_size)

    def inode(self, number):
        group, index = divmod(number - 1, self.group_inodes)
        descriptor = self._descriptor(group)
        (table,) = struct.unpack_from("<I", descriptor, 8)
        if self.descriptor_size >= 64:
            table |= struct.unpack_from("<I", descriptor, 40)[0] << 32
        place = table * self.size + index * self.inode_size
        return Inode(self, os.pread(self.fd, self.inode_size, place))


class Inode:
    def __init__(self, fs, raw):
        self.fs, self.raw = fs, raw
        self.mode, uid, size = struct.unpack_from("<HHI", raw, 0)
        gid, self.links = struct.unpack_from("<HH", raw, 24)
        (self.flags,) = struct.unpack_from("<I", raw, 32)
        self.length = size | struct.unpack_from("<I", raw, 108)[0] << 32
        (low,), (high,) = struct.unpack_from("<I", raw, 104), struct.unpack_from("<H", raw, 118)
        self.attribute_block = low | high << 32
        uid_high, gid_high = struct.unpack_from("<HH", raw, 120)
        self.uid, self.gid = uid | uid_high << 16, gid | gid_high << 16
        self.extra = struct.unpack_from("<H", raw, 128)[0] if len(raw) > 128 else 0
        self.mtime = self._mtime()

    def _mtime(self):
        (seconds,) = struct.unpack_from("<i", self.raw, 16)
        extra = struct.unpack_from("<I", self.raw, 136)[0] if self.extra >= 12 else 0
        return (seconds + ((extra & 3) << 32)) * 10**9 + (extra >> 2)

    def runs(self, node=None):
        """(logical block, blocks, place) of its data."""
        node = self.raw[40:100] if node is None else node
        magic, count, _, depth = struct.unpack_from("<HHHH", node, 0)
        assert magic == MAGIC_EXTENTS
        for place in range(12, 12 + 12 * count, 12):
            if depth:
                _, low, high = struct.unpack_from("<IIH", node, place)
                yield from self.runs(self.fs.block(low | high << 32))
            else:
                logical, length, high, low = struct.unpack_from("<IHHI", node, place)
                yield logical, length, low | high << 32

    def content(self):
        if stat.S_ISLNK(self.mode) and self.length < 60 and not self.flags & 0x80000:
            return self.raw[40 : 40 + self.length]
        data = bytearray(-(-self.length // self.fs.size) * self.fs.size)
        for logical, length, place in self.runs():
            part = os.pread(self.fs.fd, length * self.fs.size, place * self.fs.size)
            data[logical * self.fs.size : logical * self.fs.size + len(part)] = part
        return bytes(data[: self.length])

    def device(self):
        old, new = struct.unpack_from("<II", self.raw, 40)
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00

    def entries(self):
        """(name, inode's number), without . and .."""
        data = self.content()
        for start in range(0, len(data), self.fs.size):
            place = start
            while place < start + self.fs.size:
                number, length, count, _ = struct.unpack_from("<IHBB", data, place)
                name = data[place + 8 : place + 8 + count]
                if number and name not in (b".", b".."):
                    yield name, number
                place += length

    def xattrs(self):
        found = {}
        start = 128 + self.extra
        if self.extra and self.raw[start : start + 4] == struct.pack("<I", MAGIC_XATTRS):
            found.update(attributes(self.raw[start + 4 :], 0))
        if self.attribute_block:
            found.update(attributes(self.fs.block(self.attribute_block), 32))
        return tuple(sorted(found.items()))


def attributes(data, place):
    """(name, value) of an attribute area whose entries begin at place."""
    while data[place : place + 4] != bytes(4):
        count, index, offset, _, size = struct.unpack_from("<BBHII", data, place)
        name = PREFIXES[index] + data[place + 16 : place + 16 + count].decode()
        value = data[offset : offset + size]
        yield name, access_list(value) if index in (2, 3) else value
        place += 16 + -(-count // 4) * 4


def access_list(value):
    """As getxattr shows it: each entry with a number."""
    shown, place = struct.pack("<I", 2), 4
    while place < len(value):
        tag, permissions = struct.unpack_from("<HH", value, place)
        named = tag in (2, 8)
        number = struct.unpack_from("<I", value, place + 4)[0] if named else 0xFFFFFFFF
        shown += struct.pack("<HHI", tag, permissions, number)
        place += 8 if named else 4
    return shown


def content_of(inode):
    if stat.S_ISREG(inode.mode):
        return inode.length, hashlib.sha256(inode.content()).hexdigest()
    if stat.S_ISLNK(inode.mode):
        return os.fsdecode(inode.content())
    if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        return inode.device()
    return None


def walk(fs, number=ROOT, prefix=""):
    """(path, Inode) of everything below a directory; lost+found left out."""
    for name, child in fs.inode(number).entries():
        path = prefix + os.fsdecode(name)
        if path == "lost+found":
            continue
        inode = fs.inode(child)
        yield path, inode
        if stat.S_ISDIR(inode.mode):
            yield from walk(fs, child, path + "/")
