# SPDX-License-Identifier: Apache-2.0
"""What is in a layer's file, found by content: [tar [ZFile [LSMT]]], either wrapper optional."""

from . import lsmt
from . import stream as streams
from . import tar, zfile


def load(stream: streams.Stream) -> lsmt.Layer:
    """The layer in a stream, however wrapped; FormatError says why there is none."""
    return lsmt.load(unwrap(stream))


def unwrap(stream: streams.Stream) -> streams.Stream:
    """The stream inside the wrappers there are."""
    inner: streams.Stream = tar.unwrap(stream) or stream
    return inner if zfile.load_header(inner) is None else zfile.ZFile(inner)
