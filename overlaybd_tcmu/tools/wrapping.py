# SPDX-License-Identifier: Apache-2.0
"""Options that say how a blob is wrapped, and where it goes: the same for all who write one."""

import argparse
import sys
from typing import Dict, Optional

from .. import errors, units
from ..ffi import writing
from . import command_line

_ALGORITHMS: Dict[str, writing.Algorithm] = {
    "lz4": writing.Algorithm.LZ4,
    "zstd": writing.Algorithm.ZSTD,
}
_BLOCK_SIZES_KB = (4, 8, 16, 32, 64)


def add_compression(parser: command_line.Parser) -> None:
    parser.option("--algorithm", metavar="NAME", help="lz4 (the default) or zstd")
    parser.option("--bs", type=int, metavar="KB", help="block size: 4 (the default), 8, 16, 32, 64")


def add_upload(parser: command_line.Parser) -> None:
    """Known, so that whoever uses them is told why not."""
    parser.option("--upload", metavar="URL", default="", help="not supported yet")
    for name in ("--cred_file_path", "--tls_key_path", "--tls_cert_path"):
        parser.option(name, metavar="FILE", default="", help="for --upload")
    parser.option("--upload_bs", type=int, metavar="KB", default=262144, help="for --upload")


def refuse_upload(options: argparse.Namespace) -> None:
    if options.upload and options.t:
        raise errors.Error("unsupport option with '-t' and '--upload' at the same time.")
    if options.upload:
        raise errors.Error("'--upload' is not supported yet: write a file and push that")


def tell_digest() -> None:
    """The last line on stderr, where scripts look for the digest of an upload: there was none."""
    print(file=sys.stderr)


def algorithm(name: Optional[str]) -> writing.Algorithm:
    """lz4 unless it was named otherwise."""
    try:
        return _ALGORITHMS[name or "lz4"]
    except KeyError:
        raise errors.Error("invalid '--algorithm' parameters.") from None


def block_size(kilobytes: Optional[int]) -> int:
    """In bytes; 4 KiB unless it was named otherwise."""
    if kilobytes is not None and kilobytes not in _BLOCK_SIZES_KB:
        raise errors.Error("invalid '--bs' parameters.")
    return (kilobytes or _BLOCK_SIZES_KB[0]) * units.KiB
