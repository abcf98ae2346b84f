# SPDX-License-Identifier: Apache-2.0
"""How much of an image's remote layers is here: what is told of it, for machines."""

import dataclasses
from typing import TYPE_CHECKING, Optional, Sequence, Tuple

if TYPE_CHECKING:
    from ..cache import service


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer that is fetched as it is read; bytes of its blob, which other images may share."""

    digest: str
    size: int
    present: int
    fetched: int  # from registries, while the blob has been open
    whole: bool  # it was downloaded: a file of its own


@dataclasses.dataclass(frozen=True)
class Download:
    """Of the background download, bytes of all its layers. state: see downloader.Progress."""

    state: str
    size: int
    done: int


@dataclasses.dataclass(frozen=True)
class Report:
    """layers: the lowest first."""

    layers: Tuple[Layer, ...]
    waiting: int  # requests that wait for missing bytes
    download: Optional[Download]

    @property
    def size(self) -> int:
        return sum(one.size for one in self.layers)

    @property
    def present(self) -> int:
        return sum(one.present for one in self.layers)

    @property
    def fetched(self) -> int:
        return sum(one.fetched for one in self.layers)


@dataclasses.dataclass(frozen=True)
class Map:
    """A layer in parts of about one size: how much of each is here, 0 to 1."""

    digest: str
    size: int
    parts: Tuple[float, ...]


def layers(leases: "Sequence[service.Lease]") -> Tuple[Layer, ...]:
    """Of blobs that stay open meanwhile."""
    found = (lease.one for lease in leases)
    return tuple(
        Layer(one.digest, one.size, one.present(), one.fetched, one.whole) for one in found
    )


def maps(leases: "Sequence[service.Lease]", parts: int) -> Tuple[Map, ...]:
    """As layers(), each in so many parts; in fewer where it has fewer granules."""
    found = (lease.one for lease in leases)
    return tuple(Map(one.digest, one.size, tuple(one.picture(parts))) for one in found)
