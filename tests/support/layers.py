# SPDX-License-Identifier: Apache-2.0
"""
Layers for tests, as registries have them: committed, in a ZFile of 4 KiB lz4 blocks.

As pictures, one character a cluster: letters are data, 0 is zeroed, - is a hole.

    write_picture(lower, "AAA-")
    write_picture(upper, "-B0-")        reading both gives view("AB0-")
"""

import functools

from overlaybd_tcmu import units
from overlaybd_tcmu.formats import commit, lsmt, stream, zfile

CLUSTER = 4 * units.KiB
_SECTORS = CLUSTER // units.SECTOR


@functools.lru_cache(maxsize=None)
def cluster(letter, number):
    """The data of a letter as cluster number: begins with the letter, no two sectors are alike."""
    lines = (f"{letter}{number:08x}{line:06x}\n" for line in range(CLUSTER // 16))
    return "".join(lines).encode()


def view(picture):
    """What a disk reads that looks so."""
    return b"".join(
        bytes(CLUSTER) if letter in "0-" else cluster(letter, number)
        for number, letter in enumerate(picture)
    )


def write_picture(path, picture):
    """A layer that looks so, as a file. Its virtual size is the picture's."""
    parts = [
        (number, b"" if letter == "0" else cluster(letter, number))
        for number, letter in enumerate(picture)
        if letter != "-"
    ]
    _write(path, parts, len(picture) * CLUSTER)


def write_changes(path, base, top):
    """A layer of the clusters in which the disk top differs from base, which may be shorter."""
    zeros, parts = bytes(CLUSTER), []
    for start in range(0, len(top), CLUSTER):
        after = top[start : start + CLUSTER]
        if after != (base[start : start + CLUSTER] or zeros):
            parts.append((start // CLUSTER, after))
    _write(path, parts, len(top))


def _write(path, parts, virtual_size):
    """parts: (cluster, its data), ascending; no data means that it is zeroed."""
    segments, data = [], []
    place = lsmt.FIRST_SECTOR
    for number, part in parts:
        segments.append(lsmt.Segment(number * _SECTORS, _SECTORS, place, not part))
        data.append(part)
        place = segments[-1].mend
    index = commit.padded_index(commit.coalesced(segments))
    layer = commit.assemble(b"".join(data), index, lsmt.Record(0, virtual_size=virtual_size))
    with open(path, "wb") as file:
        file.write(zfile.encode(layer))


def damage_data(path):
    """Hurts the first block of a layer's data: it opens, and that block cannot be read."""
    with stream.File(path) as file:
        at = zfile.ZFile(file).offsets[lsmt.RECORD_SIZE // zfile.Record(0).block_size]
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))
