# SPDX-License-Identifier: Apache-2.0
"""
An image's config.v1.json: what containerd's snapshotter writes for each snapshot.

Unknown keys are ignored, known ones have their type or are refused by name. Paths are used as they
stand: a relative one is relative to the directory of the process. What a key asks for and this
version cannot do is refused when the image is opened (opener.py), not here.
"""

import dataclasses
from typing import Tuple

from .. import config, errors, schema

# The format's own limit: a segment names its layer in one byte, and 255 means "none".
MAX_LAYERS = 255

_I64 = (1 << 63) - 1


@dataclasses.dataclass(frozen=True)
class LowerConfig:
    """One read-only layer: a local file, or a directory that may have it, or a remote blob."""

    file: str = schema.key("file", "")
    dir: str = schema.key("dir", "")
    digest: str = schema.key("digest", "")
    size: int = schema.key("size", 0, minimum=0, maximum=_I64)  # bytes of the remote blob
    target_file: str = schema.key("targetFile", "")
    target_digest: str = schema.key("targetDigest", "")
    gzip_index: str = schema.key("gzipIndex", "")

    @property
    def is_turbo(self) -> bool:
        """Only an index: the data is in an ordinary OCI layer."""
        return bool(self.target_file or self.target_digest)


@dataclasses.dataclass(frozen=True)
class UpperConfig:
    """The writable layer."""

    index: str = schema.key("index", "")
    data: str = schema.key("data", "")
    target: str = schema.key("target", "")
    gzip_index: str = schema.key("gzipIndex", "")
    vsize_gb: int = schema.key("vsize", 0, minimum=0)  # written by the snapshotter for itself

    @property
    def is_used(self) -> bool:
        return bool(self.index and self.data)


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """The whole file. lowers[0] is the lowest."""

    path: str = ""
    repo_blob_url: str = schema.key("repoBlobUrl", "")
    lowers: Tuple[LowerConfig, ...] = schema.rows("lowers", LowerConfig, maxItems=MAX_LAYERS)
    upper: UpperConfig = schema.section("upper", UpperConfig)
    result_file: str = schema.key("resultFile", "")
    download: config.DownloadConfig = schema.section("download", config.DownloadConfig)
    has_download: bool = False  # the image has settings of its own; else the service's count
    on_outage: str = schema.key("onOutage", "", enum=["", "block", "eio"])  # empty: the service's
    acceleration_layer: bool = schema.key("accelerationLayer", False)
    record_trace_path: str = schema.key("recordTracePath", "")

    @property
    def data_lowers(self) -> Tuple[LowerConfig, ...]:
        """The layers with data: the acceleration layer is on top and holds only a trace."""
        return self.lowers[:-1] if self.acceleration_layer else self.lowers


def load(path: str) -> ImageConfig:
    """The checked content of a file."""
    return parse(path, schema.read(path))


def parse(path: str, document: schema.Document) -> ImageConfig:
    """As load(), for a document already read; path is only named."""
    schema.check(path, schema.schema_of(ImageConfig), document)
    image = schema.build(ImageConfig, document, path=path, has_download="download" in document)
    if image.acceleration_layer and image.record_trace_path:
        reason = "excludes accelerationLayer: a trace is either recorded or replayed"
        raise errors.ConfigError(path, "recordTracePath", reason)
    if not image.data_lowers and not image.upper.is_used:
        raise errors.ConfigError(path, "lowers", "no layers: neither a lower nor a usable upper")
    return image


def result_file_of(document: schema.Document) -> str:
    """Where a failure is to be told, although the document is not what it should be."""
    value = document.get("resultFile")
    return value if isinstance(value, str) and "\0" not in value else ""
