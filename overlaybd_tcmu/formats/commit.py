# SPDX-License-Identifier: Apache-2.0
"""
Writing committed layers: what a layer, or a stack of them, says of the disk, compacted. The same
content gives the same bytes, those of overlaybd-commit and overlaybd-merge.

    header | data in the order of the disk | entries, padded to a multiple of 256 | trailer
"""

import dataclasses
from typing import Iterable, Iterator, List, Optional, Sequence

from .. import units
from . import lsmt, view

_STEP = 64  # sectors copied at once, and an entry each
_PADDED = 256  # entries


def commit(
    layers: Sequence[lsmt.Layer],
    uuid: str = "",
    parent_uuid: Optional[str] = None,
    message: bytes = b"",
) -> bytes:
    """
    A layer of what layers, the lowest first, say of the disk. Zeroed segments stay zeroed.

    The size is that of the topmost layer's header, a parent that is not given that of the lowest
    one's. The uuid is never taken over.
    """
    merged = view.merge([layer.segments for layer in layers])
    if parent_uuid is None:
        parent_uuid = layers[0].header.parent_uuid
    size = layers[-1].header.virtual_size
    # Tags count from the top on disk, and stay 0 for a single layer.
    entries = list(_renumbered(merged, len(layers)))
    index = padded_index(coalesced(entries))
    data = b"".join(_data(layers, segment) for segment in merged if not segment.zeroed)
    fields = lsmt.Record(0, virtual_size=size, uuid=uuid, parent_uuid=parent_uuid, message=message)
    return assemble(data, index, fields)


def assemble(data: bytes, index: bytes, fields: lsmt.Record) -> bytes:
    """A committed layer of its parts; fields has what its records say beside them."""
    flags = lsmt.DATA | lsmt.SEALED
    header = dataclasses.replace(fields, flags=lsmt.HEADER | flags)
    trailer = dataclasses.replace(
        fields,
        flags=flags,
        index_offset=lsmt.RECORD_SIZE + len(data),
        index_size=len(index) // lsmt.ENTRY_SIZE,
    )
    return header.pack() + data + index + trailer.pack()


def padded_index(segments: Sequence[lsmt.Segment]) -> bytes:
    padding = [lsmt.PADDING] * (-len(segments) % _PADDED)
    return lsmt.pack_index([*segments, *padding])


def _renumbered(merged: Iterable[lsmt.Segment], layers: int) -> Iterator[lsmt.Segment]:
    """Where the merged segments go in the new stream, a step at a time."""
    place = lsmt.FIRST_SECTOR
    for segment in merged:
        step = segment.length if segment.zeroed else _STEP
        for sector in range(segment.sector, segment.end, step):
            piece = segment.cut(sector, sector + step)
            piece = piece._replace(msector=place, tag=layers - 1 - segment.tag)
            yield piece
            place = piece.mend


def coalesced(segments: Iterable[lsmt.Segment]) -> List[lsmt.Segment]:
    """Greedily, from the left; the sum must stay below the longest length, not reach it."""
    joined: List[lsmt.Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if (
            last is not None
            and (last.end, last.mend) == (segment.sector, segment.msector)
            and (last.zeroed, last.tag) == (segment.zeroed, segment.tag)
            and last.length + segment.length < lsmt.MAX_LENGTH
        ):
            joined[-1] = last._replace(length=last.length + segment.length)
        else:
            joined.append(segment)
    return joined


def _data(layers: Sequence[lsmt.Layer], segment: lsmt.Segment) -> bytes:
    count, offset = segment.length * units.SECTOR, segment.msector * units.SECTOR
    return layers[segment.tag].stream.pread(count, offset)
