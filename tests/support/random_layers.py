# SPDX-License-Identifier: Apache-2.0
"""
Layers as nobody would write them but a reader must take them: segments anywhere, zeroed or not, in
any order in the file, sharing data, with garbage between; raw, in a ZFile of any kind, in a tar.

What they show is painted sector by sector, apart from the readers and the merging that are tested.
"""

import dataclasses

from overlaybd_tcmu.formats import commit, lsmt, tar, zfile

SECTOR = 512


@dataclasses.dataclass
class Window:
    """Some sectors of a disk: where the layers of a test have their segments."""

    base: int  # sectors
    sectors: int

    def __post_init__(self):
        self.painted = bytearray(self.sectors * SECTOR)

    @property
    def size(self):
        """Bytes of the disk: nothing lies behind the window."""
        return (self.base + self.sectors) * SECTOR

    def paint(self, segments, data):
        """data: what the stream has from its sector 8 on."""
        for segment in segments:
            start = (segment.sector - self.base) * SECTOR
            count = segment.length * SECTOR
            place = (segment.msector - lsmt.FIRST_SECTOR) * SECTOR
            part = bytes(count) if segment.zeroed else data[place : place + count]
            self.painted[start : start + count] = part


def data_of(rng, sectors):
    """Sectors of every sort: of their own, alike, of nothing."""
    kinds = [rng.randbytes(SECTOR), b"alike" * 102 + b"!!", bytes(SECTOR)]
    parts = []
    while len(parts) < sectors:
        run = rng.choice((1, 1, 3, 20))
        kind = rng.randrange(4)
        if kind == 3:
            parts += [rng.randbytes(16) * 32 for _ in range(run)]
        else:
            parts += [kinds[kind]] * run
    return b"".join(parts[:sectors])


def segments_of(rng, window, data_sectors, longest):
    """Ascending and disjoint, as an index must be; everything else is left to chance."""
    segments, at = [], window.base
    end = window.base + window.sectors
    sparse = rng.choice((0.2, 0.5, 0.9))
    while at < end and len(segments) < 300:
        length = min(rng.randint(1, longest), end - at, lsmt.MAX_LENGTH)
        if rng.random() < sparse:
            zeroed = rng.random() < 0.2
            if not zeroed:
                length = min(length, data_sectors)
            place = rng.randint(0, data_sectors - (0 if zeroed else length)) if length else 0
            if length:
                segments.append(lsmt.Segment(at, length, lsmt.FIRST_SECTOR + place, zeroed))
        at += max(length, 1)
    return segments


def index_of(rng, segments):
    """As it may be on disk: with tags that mean nothing, entries of no length, and padding."""
    entries = []
    for segment in segments:
        if rng.random() < 0.05:
            entries.append(rng.choice([lsmt.PADDING, lsmt.Segment(rng.getrandbits(49), 0, 8)]))
        entries.append(segment._replace(tag=rng.choice((0, 0, rng.randrange(256)))))
    return rng.choice([lsmt.pack_index, commit.padded_index])(entries)


def wrapped(rng, raw):
    """The layer as a file, and what it is wrapped in."""
    kind = "raw"
    if rng.random() < 0.75:
        algo, block_size = rng.choice((zfile.LZ4, zfile.ZSTD)), 512 << rng.randrange(8)
        verify, final = rng.random() < 0.4, rng.random() < 0.5
        raw = zfile.encode(raw, algo, block_size, verify=verify, final=final)
        kind = f"zfile algo={algo} block_size={block_size} verify={verify} final={final}"
    if rng.random() < 0.25:
        return tar.wrap(raw), f"tar {kind}"
    return raw, kind


def write_layer(rng, path, window, data_sectors, longest):
    """One layer; paints what it shows over what is there. Returns what it is wrapped in."""
    data = data_of(rng, data_sectors)
    segments = segments_of(rng, window, data_sectors, longest)
    window.paint(segments, data)
    fields = lsmt.Record(0, virtual_size=window.size)
    raw, kind = wrapped(rng, commit.assemble(data, index_of(rng, segments), fields))
    path.write_bytes(raw)
    return kind
