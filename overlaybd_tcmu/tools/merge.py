# SPDX-License-Identifier: Apache-2.0
"""overlaybd-merge [options] image_config output: all layers of an image as one."""

import argparse
import contextlib
import sys
from typing import List, Optional

from .. import errors
from ..ffi import writing
from ..image import config as image_config
from ..image import opener
from . import command_line, lowers, progress, wrapping

PROG = "overlaybd-merge"


def run(options: argparse.Namespace) -> None:
    wrapping.refuse_upload(options)
    if not options.output:
        raise errors.Error("failed to create output file: output is required")
    algorithm = writing.Algorithm.LZ4 if options.compress else writing.Algorithm.NONE
    output = writing.Output(options.output, replace=True, tar=options.t, algorithm=algorithm)
    image = image_config.load(options.image_config)
    with contextlib.ExitStack() as stack:
        remote_layers = stack.enter_context(lowers.fetched(options.service_config_path))
        layers, upper = stack.enter_context(opener.open_layers(image, remote_layers))
        try:
            progress.watch(lambda task: writing.commit(layers, upper, output, task=task))
        except errors.NativeError as error:
            raise errors.Error(f"failed to compact, {error.code}: {error}") from error
    wrapping.tell_digest()


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = command_line.Parser(PROG, "Writes all layers of an image as one read-only layer.")
    compress = "as a ZFile, lz4 in blocks of 4 KiB: the default; --compress=false writes it plain"
    parser.flag("--compress", default=True, help=compress)
    parser.flag("-t", help="in a tar")
    wrapping.add_upload(parser)
    parser.option("--service_config_path", metavar="FILE", default="", help=lowers.HELP)
    parser.flag("--verbose", help="tell more")
    parser.positional("image_config", "the image's config.v1.json")
    parser.positional("output", "the new layer; replaced if it exists", required=False)
    return parser.parse(arguments)


def main(arguments: Optional[List[str]] = None) -> int:
    """The program; returns its exit status."""
    options = parse_arguments(arguments)
    command_line.log_to_stderr(options.verbose)
    return command_line.main(PROG, lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
