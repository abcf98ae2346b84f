# SPDX-License-Identifier: Apache-2.0
"""
What a process does to its files, logged as it happens, and what a disk may hold of it after a power
cut at any moment.

A disk keeps what was synced. Of everything since, it may have any sectors and lack any others, in
any order, and a file is as long as it was at some moment since it was synced. Sectors are whole; so
are blocks that the file did not have: file systems write those before they say that they are there.

    log = disk_log.run(module, folder, *arguments)   # in a process of its own
    for cut in range(len(log)):
        log.write_files(cut, folder, rng)            # as a power cut behind it may leave them

The script marks in the log what it knows: disk_log.mark("text"). A mark "file NAME INODE" gives a
file its name, from there on; it must have been synced. A file that is renamed to such a name may or
may not have it, until something is synced.
"""

import ctypes
import functools
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
SECTOR, BLOCK = 512, 4096
WRITE, TRUNCATE, PUNCH, SYNC, RENAME, MARK = range(1, 7)
_RECORD = struct.Struct("=IIQQQ")


class Record(NamedTuple):
    op: int
    inode: int
    offset: int
    count: int
    data: bytes


@functools.lru_cache(maxsize=None)
def library():
    """The compiled disk_log.c; it lives as long as this process."""
    folder = tempfile.TemporaryDirectory()
    library.folder = folder
    path = os.path.join(folder.name, "disk_log.so")
    command = ["cc", "-O1", "-g", "-shared", "-fPIC", "-o", path, HERE / "disk_log.c", "-ldl"]
    subprocess.run(command, check=True)
    return path


# ---- in the process that is logged


def mark(text):
    ctypes.CDLL(None).disk_log_mark(text.encode())


def mark_file(path):
    mark(f"file {os.path.basename(path)} {os.stat(path).st_ino}")


def fault(operation, suffix="", error=0, skip=0, repeat=False, partly=0, least=0):
    """
    The operation on files whose names end so fails, once or for ever, having worked skip times;
    None does not. A write may happen partly; only those of at least so many bytes fail.
    """
    arm = ctypes.CDLL(None).disk_log_fault
    arm.argtypes = [ctypes.c_int, ctypes.c_char_p] + [ctypes.c_int] * 3 + [ctypes.c_uint64] * 2
    arm(operation or 0, suffix.encode(), error, skip, int(repeat), partly, least)


def delay(ms):
    """From now on every write takes so long; others go on beside it."""
    ctypes.CDLL(None).disk_log_delay(ms)


# ---- around it


def start(module, folder, *arguments, **more):
    """`python -m module folder arguments...`, logged."""
    environment = {
        **os.environ,
        "DISK_LOG": os.path.join(folder, "disk.log"),
        "DISK_LOG_FOLDER": str(folder),
        # a sanitizer's runtime, if there is one, stays the first
        "LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {library()}".strip(),
    }
    command = [sys.executable, "-m", module, str(folder), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, cwd=HERE.parents[1], **more)


def run(module, folder, *arguments):
    """As start, until it has ended well; its log."""
    with start(module, folder, *arguments) as process:
        assert process.wait(60) == 0
    return Log(os.path.join(folder, "disk.log"))


class Log:
    """Records in the order they happened."""

    def __init__(self, path):
        self.records = list(_parse(pathlib.Path(path).read_bytes()))

    def __len__(self):
        return len(self.records)

    def marks(self, cut):
        """What was marked before the cut."""
        return [r.data.decode() for r in self.records[:cut] if r.op == MARK]

    def write_files(self, cut, folder, rng):
        """Every named file as it may be when the power goes behind the first cut records."""
        for name, inodes in self._names(cut).items():
            inode = rng.choice(inodes)
            records = [r for r in self.records[:cut] if r.inode == inode and r.op != RENAME]
            _after_power_cut(records, rng).write_file(os.path.join(folder, name))

    def _names(self, cut):
        """The inodes that each name may lead to."""
        names = {}
        for record in self.records[:cut]:
            text = record.data.decode() if record.op in (MARK, RENAME) else ""
            if record.op == MARK and text.startswith("file "):
                _, name, inode = text.split()
                names[name] = [int(inode)]
            elif record.op == RENAME and text in names:
                names[text].append(record.inode)
            elif record.op == SYNC:  # the folder's: whoever renames syncs it next
                names = {name: inodes[-1:] for name, inodes in names.items()}
        return names


def _parse(raw):
    at = 0
    while at < len(raw):
        op, length, inode, offset, count = _RECORD.unpack_from(raw, at)
        at += _RECORD.size
        yield Record(op, inode, offset, count, raw[at : at + length])
        at += length


class _File:
    """Content, and which blocks of it are not holes."""

    def __init__(self):
        self.content, self.blocks = bytearray(), set()

    def apply(self, record):
        """The change as a whole."""
        content, end = self.content, record.offset + record.count
        if record.op == WRITE:
            if len(content) < end:
                content.extend(bytes(end - len(content)))
            content[record.offset : end] = record.data
            self.blocks.update(range(record.offset // BLOCK, -(-end // BLOCK)))
        elif record.op == TRUNCATE:
            self.resize(record.offset)
        elif record.op == PUNCH:
            end = min(end, len(content))
            content[record.offset : end] = bytes(end - record.offset)
            self.blocks.difference_update(range(-(-record.offset // BLOCK), end // BLOCK))

    def resize(self, size):
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))
        self.blocks = {block for block in self.blocks if block * BLOCK < size}

    def take_block(self, block, other):
        """The block as the other file has it."""
        at = block * BLOCK
        part = other.content[at : at + BLOCK]
        if part:
            self.apply(Record(WRITE, 0, at, len(part), part))

    def write_file(self, path):
        with open(path, "wb") as file:
            for block in sorted(self.blocks):
                file.seek(block * BLOCK)
                file.write(self.content[block * BLOCK : (block + 1) * BLOCK])
            file.truncate(len(self.content))


def _pieces(record, size):
    """(offset, data) of the change's part in each sector, or whatever size is."""
    end = record.offset + record.count
    at = record.offset
    while at < end:
        stop = min(at // size * size + size, end)
        part = record.data[at - record.offset : stop - record.offset]
        yield at, part or bytes(stop - at)
        at = stop


def _after_power_cut(records, rng):
    last = max((i for i, r in enumerate(records) if r.op == SYNC), default=-1)
    disk, cache = _File(), _File()
    for record in records[: last + 1]:
        disk.apply(record)
        cache.apply(record)
    sizes = [len(disk.content)]
    # nothing, everything, each piece for itself; mixtures of these are cuts in between
    chance = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    for record in records[last + 1 :]:
        cache.apply(record)
        sizes.append(len(cache.content))
        if record.op in (WRITE, PUNCH):
            _write_back(disk, cache, record, chance, rng)
    disk.resize(sizes[-1] if chance == 1.0 else rng.choice(sizes))
    return disk


def _write_back(disk, cache, record, chance, rng):
    for at, data in _pieces(record, BLOCK):
        block = at // BLOCK
        whole = record.op == PUNCH and len(data) == BLOCK
        if whole or block not in disk.blocks:
            if rng.random() >= chance:
                continue
            if record.op == PUNCH:
                disk.apply(Record(PUNCH, 0, at, len(data), b""))
            else:
                disk.take_block(block, cache)
            continue
        for offset, part in _pieces(Record(WRITE, 0, at, len(data), data), SECTOR):
            if rng.random() < chance:
                disk.apply(Record(WRITE, 0, offset, len(part), part))
