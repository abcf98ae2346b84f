# SPDX-License-Identifier: Apache-2.0
"""
overlaybd-cache: what the cache of remote layers has, whether it is right, and what stays in it.

list, verify and image look at the files; evict, pin and unpin are done by the daemon that keeps the
cache, if one does, and else here.
"""

import argparse
import json
import os
import sys
from typing import Any, Dict, Iterator, List, Optional

from .. import __version__, config, errors, units
from ..cache import control, folder, inspect, record
from ..image import config as image_config
from ..image import opener

EXIT_OK, EXIT_FAILED, EXIT_CONFIG = range(3)

EXIT_CODES = """\
exit status:
  0  done
  1  it cannot be done, or verify found damage
  2  wrong arguments or configuration
"""


def run_list(options: argparse.Namespace) -> int:
    pinned = folder.pinned_in(options.cache_dir)
    found = list(inspect.blobs(options.cache_dir))
    if options.json:
        print(
            json.dumps([{**vars(one), "pinned": one.digest in pinned} for one in found], indent=2)
        )
        return EXIT_OK
    for one in found:
        mark = "  pinned" if one.digest in pinned else ""
        print(f"{one.digest}  {_share(one.present, one.size)}{mark}")
    used = sum(one.present for one in found)
    print(f"{len(found)} blobs, {units.human_size(used)}")
    return EXIT_OK


def run_verify(options: argparse.Namespace) -> int:
    damaged = []
    for digest in options.digests or [one.digest for one in inspect.blobs(options.cache_dir)]:
        try:
            bad = inspect.damaged(options.cache_dir, digest)
        except (OSError, errors.Error) as error:
            print(f"{digest}  cannot be verified: {error}")
            damaged.append(digest)
            continue
        if bad:
            damaged.append(digest)
            print(f"{digest}  {bad * record.GRANULE} bytes damaged")
        elif not options.quiet:
            print(f"{digest}  right")
    if damaged and options.mend:
        _change(options.cache_dir, "remove", damaged)
        print(f"{len(damaged)} evicted, to be fetched again")
        return EXIT_OK
    return EXIT_FAILED if damaged else EXIT_OK


def run_image(options: argparse.Namespace) -> int:
    report = [_image_report(options.cache_dir, path) for path in options.configs]
    if options.json:
        print(json.dumps(report, indent=2))
        return EXIT_OK
    for one in report:
        print(one["config"])
        for layer in one["layers"]:
            print(
                f"  {layer['number']:3d}  {_share(layer['present'], layer['size'])}  {layer['at']}"
            )
        print(f"  all  {_share(one['present'], one['size'])}")
    return EXIT_OK


def run_change(options: argparse.Namespace) -> int:
    digests = list(options.digests)
    for path in options.image:
        digests += [lower.digest for lower in image_config.load(path).data_lowers if lower.digest]
    if getattr(options, "all", False):
        pinned = folder.pinned_in(options.cache_dir)
        found = [one.digest for one in inspect.blobs(options.cache_dir)]
        digests += [digest for digest in found if digest not in pinned]
    elif not digests:
        raise errors.ConfigError(
            "overlaybd-cache", "", "which blobs? A digest or --image is needed"
        )
    command = "remove" if options.command == "evict" else options.command
    _change(options.cache_dir, command, digests)
    return EXIT_OK


def _image_report(cache_dir: str, path: str) -> Dict[str, Any]:
    layers = list(_layers(cache_dir, image_config.load(path)))
    sums = {name: sum(one[name] for one in layers) for name in ("size", "present")}
    return {"config": path, "layers": layers, **sums}


def _layers(cache_dir: str, image: image_config.ImageConfig) -> Iterator[Dict[str, Any]]:
    for number, lower in enumerate(image.data_lowers):
        place = opener.local_place(lower)
        if place is not None:
            size = os.path.getsize(place)
            yield {"number": number, "size": size, "present": size, "at": place}
            continue
        known = inspect.blob(cache_dir, lower.digest) if folder.is_digest(lower.digest) else None
        size = known.size if known else lower.size
        present = known.present if known else 0
        yield {"number": number, "size": size, "present": present, "at": lower.digest or "nowhere"}


def _share(present: int, size: int) -> str:
    percent = 100 * present // size if size else 0
    return f"{percent:3d}%  {units.human_size(present):>10} of {units.human_size(size):>10}"


def _change(cache_dir: str, command: str, digests: List[str]) -> List[str]:
    """By the daemon that keeps the cache, or by us, who keep it for that long."""
    for digest in digests:
        if not folder.is_digest(digest):
            raise errors.ConfigError(digest, "", "is no digest")
    try:
        place = folder.Folder(cache_dir)
    except folder.Locked:
        return control.ask(cache_dir, command, digests)
    try:
        return control.execute(place, command, digests)
    finally:
        place.close()


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="overlaybd-cache",
        description="The cache of remote layers: what is in it, whether it is right, what stays.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--cache-dir", metavar="DIR", help="instead of the configuration's")
    parser.add_argument(
        "--service-config",
        metavar="FILE",
        help=f"whose cacheDir; {config.DEFAULT_PATH} if it exists",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    one = commands.add_parser("list", help="every blob, and how much of it is here")
    one.add_argument("--json", action="store_true", help="for programs")
    one.set_defaults(run=run_list)

    one = commands.add_parser("verify", help="hold the bytes against their checksums and digests")
    one.add_argument("digests", metavar="DIGEST", nargs="*", help="only these")
    one.add_argument("--mend", action="store_true", help="evict what is damaged")
    one.add_argument("--quiet", action="store_true", help="say nothing of what is right")
    one.set_defaults(run=run_verify)

    one = commands.add_parser("image", help="how much of an image is local")
    one.add_argument("configs", metavar="CONFIG", nargs="+", help="its config.v1.json")
    one.add_argument("--json", action="store_true", help="for programs")
    one.set_defaults(run=run_image)

    for name, text in (
        ("evict", "drop blobs; whoever reads them fetches them again"),
        ("pin", "never evict blobs"),
        ("unpin", "let blobs be evicted again"),
    ):
        one = commands.add_parser(name, help=text)
        one.add_argument("digests", metavar="DIGEST", nargs="*")
        one.add_argument(
            "--image",
            metavar="CONFIG",
            action="append",
            default=[],
            help="all remote layers of one",
        )
        if name == "evict":
            one.add_argument("--all", action="store_true", help="all that are not pinned")
        one.set_defaults(run=run_change)
    return parser.parse_args(arguments)


def cache_dir_of(options: argparse.Namespace) -> str:
    """--cache-dir, else what the service would use."""
    if options.cache_dir:
        return str(options.cache_dir)
    path = options.service_config or config.DEFAULT_PATH
    if not options.service_config and not os.path.exists(path):
        return config.parse(path, {})[0].cache.dir
    return config.load(path)[0].cache.dir


def main(arguments: Optional[List[str]] = None) -> int:
    """The program; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        options.cache_dir = cache_dir_of(options)
        return int(options.run(options))
    except errors.ConfigError as error:
        return _fail(error, EXIT_CONFIG)
    except BrokenPipeError:
        return EXIT_FAILED  # whoever read the output knows
    except (errors.Error, OSError) as error:
        return _fail(error, EXIT_FAILED)


def _fail(error: Exception, status: int) -> int:
    print(f"overlaybd-cache: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
