# SPDX-License-Identifier: Apache-2.0
"""
overlaybd-ctl: what the service is doing, why something is slow, what hangs, what is wrong here.

A client of the API (docs/api.md), at the address the service's configuration names; doctor looks at
the host itself and needs no service. Tables for people, --json for machines.
"""

import argparse
import json
import sys
import time
from typing import Any, Callable, Dict, List, Optional

from .. import __version__, address, config, errors
from . import doctor, reports, service_client

EXIT_OK, EXIT_FOUND, EXIT_CONFIG, EXIT_UNREACHABLE = range(4)

EXIT_CODES = """\
exit status:
  0  done; nothing is wrong
  1  something is: the service is degraded, a command hangs, doctor found an error
  2  wrong arguments or configuration
  3  the service does not answer
"""

Document = Dict[str, Any]

# A look at one device of many may miss it: it has just gone.
_CLEAR = "\x1b[H\x1b[J"


def _status(client: service_client.Client, options: argparse.Namespace) -> int:
    health = client.get("/v1/health")
    _show(options, health, reports.health)
    return EXIT_OK if health["status"] == "ok" else EXIT_FOUND


def _devices(client: service_client.Client, options: argparse.Namespace) -> int:
    _show(options, client.get("/v1/devices"), reports.devices)
    return EXIT_OK


def _explain(client: service_client.Client, options: argparse.Namespace) -> int:
    _show(options, client.get(service_client.device_path(options.device)), reports.explain)
    return EXIT_OK


def _hang(client: service_client.Client, options: argparse.Namespace) -> int:
    """Commands older than --age on all devices, the oldest first."""
    found = []
    for device in client.get("/v1/devices")["devices"]:
        if device["oldest_s"] < options.age:
            continue
        try:
            detail = client.get(service_client.device_path(device["name"]))
        except service_client.Refused:
            continue  # gone since
        found += [
            {"device": device["name"], "config": device["config"], **one}
            for one in detail["pending"]
            if one["age_s"] >= options.age
        ]
    found.sort(key=lambda one: float(one["age_s"]), reverse=True)
    _show(options, {"age_s": options.age, "commands": found}, reports.hang)
    return EXIT_FOUND if found else EXIT_OK


def _top(client: service_client.Client, options: argparse.Namespace) -> int:
    """A table of what happened since the last one, until interrupted or --count."""
    before = client.get("/v1/devices")["devices"]
    at_s, left = time.monotonic(), options.count
    while left is None or left > 0:
        time.sleep(options.interval)
        now, now_s = client.get("/v1/devices")["devices"], time.monotonic()
        rates = {"devices": reports.rates(before, now, now_s - at_s)}
        if sys.stdout.isatty() and not options.json:
            print(_CLEAR, end="")
        _show(options, rates, reports.top)
        before, at_s = now, now_s
        left = None if left is None else left - 1
    return EXIT_OK


def _resize(client: service_client.Client, options: argparse.Namespace) -> int:
    path = service_client.resize_path(options.device)
    _show(options, client.post(path, {"size": options.size}), reports.resized)
    return EXIT_OK


def _log_level(client: service_client.Client, options: argparse.Namespace) -> int:
    if options.level is None:
        answer = client.get("/v1/log-level")
    else:
        answer = client.put("/v1/log-level", {"level": options.level})
    _show(options, answer, lambda one: [f"{one['level']} ({one['name']})"])
    return EXIT_OK


def _cache(client: service_client.Client, options: argparse.Namespace) -> int:
    _show(options, client.get("/v1/cache"), reports.cache)
    return EXIT_OK


def _evict(client: service_client.Client, options: argparse.Namespace) -> int:
    _show(options, client.post("/v1/cache/evict", {"bytes": options.bytes}), reports.freed)
    return EXIT_OK


def _pin(client: service_client.Client, options: argparse.Namespace) -> int:
    path, pinned = service_client.blob_path(options.digest), options.command == "pin"
    _show(options, client.put(path, {"pinned": pinned}), reports.blob)
    return EXIT_OK


def _remove(client: service_client.Client, options: argparse.Namespace) -> int:
    _show(options, client.delete(service_client.blob_path(options.digest)), reports.freed)
    return EXIT_OK


def _map(client: service_client.Client, options: argparse.Namespace) -> int:
    path = service_client.map_path(options.device, reports.MAP_WIDTH)
    _show(options, client.get(path), reports.image_map)
    return EXIT_OK


def _prefetch(client: service_client.Client, options: argparse.Namespace) -> int:
    answer = client.post("/v1/prefetch", {"device": options.device})
    _show(options, answer, reports.prefetch)
    return EXIT_OK


def _show(
    options: argparse.Namespace, document: Document, people: Callable[[Document], List[str]]
) -> None:
    """One JSON document a line, or what people read."""
    text = json.dumps(document) if options.json else "\n".join(people(document))
    print(text, flush=True)


def _doctor(options: argparse.Namespace) -> int:
    found = doctor.examine(options.config)
    document = {"findings": [one.document() for one in found]}
    _show(options, document, reports.findings)
    return EXIT_FOUND if any(one.level == doctor.ERROR for one in found) else EXIT_OK


def _client(options: argparse.Namespace) -> service_client.Client:
    if options.address:
        try:
            return service_client.Client(address.parse(options.address))
        except ValueError as error:
            raise errors.ConfigError("--address", "", str(error)) from None
    service, _ = config.load(options.config)
    if not service.api.enable:
        reason = "is false: the service has no API; set it, and an address, and restart it"
        raise errors.ConfigError(options.config, "serviceConfig.enable", reason)
    return service_client.Client(address.parse(service.api.address))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise ValueError(text)
    return value


def _bytes(text: str) -> int:
    """A number, with K, M, G or T behind it or not."""
    factor = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:].upper())
    value = int(text[:-1] if factor else text) << (factor or 0)
    if not 0 < value <= 1 << 62:
        raise ValueError(text)
    return value


def _add_cache_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """What is fetched and kept."""
    device = "uioN, or the device id"
    here = command("map", _map, "how much of a device's image is here, layer by layer")
    here.add_argument("device", metavar="DEVICE", help=device)
    prefetch = command("prefetch", _prefetch, "fetches what is missing of a device's image")
    prefetch.add_argument("device", metavar="DEVICE", help=device)
    command("cache", _cache, "what the cache has, and what was fetched for it")
    evict = command("evict", _evict, "gives back room of the cache, what is worth least first")
    evict.add_argument("bytes", type=_bytes, metavar="BYTES", help="K, M, G, T may follow")
    for name, run, text in (
        ("pin", _pin, "a blob is never evicted"),
        ("unpin", _pin, "a blob may be evicted again"),
        ("remove", _remove, "gives back all of a blob; who reads it fetches it again"),
    ):
        command(name, run, text).add_argument("digest", metavar="DIGEST")


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="overlaybd-ctl",
        description="Shows what overlaybd-tcmu is doing, and what is wrong.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    text = "the service's configuration (default: %(default)s)"
    parser.add_argument("--config", default=config.DEFAULT_PATH, help=text)
    text = "where the API listens, instead of what the configuration says"
    parser.add_argument("--address", metavar="http://HOST:PORT|unix:///PATH", help=text)
    parser.add_argument("--json", action="store_true", help="for machines: a document a line")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(run=run)
        return one

    command("status", _status, "is the service well, and if not, why")
    command("devices", _devices, "a row a device")
    top = command("top", _top, "what the devices do, again and again")
    top.add_argument("--interval", type=_seconds, default=2.0, metavar="SECONDS")
    top.add_argument("--count", type=int, metavar="N", help="end after so many tables")
    explain = command("explain", _explain, "where a device's time goes, stage by stage")
    explain.add_argument("device", metavar="DEVICE", help="uioN, or the device id")
    hang = command("hang", _hang, "commands that are not answered: since when, on what")
    text = "only what is older (default: %(default)g)"
    hang.add_argument("--age", type=_seconds, default=5.0, metavar="SECONDS", help=text)
    text = "a writable disk grows while it is in use; its file system is resize2fs's"
    resize = command("resize", _resize, text)
    resize.add_argument("device", metavar="DEVICE", help="uioN, or the device id")
    resize.add_argument("size", type=_bytes, metavar="BYTES", help="K, M, G, T may follow")
    level = command("log-level", _log_level, "shows the log level, or sets it until the next start")
    level.add_argument("level", type=int, choices=range(5), nargs="?", help="0 debug ... 4 fatal")
    _add_cache_commands(command)
    command("doctor", None, "looks for what is wrong on this host; needs no service")
    return parser.parse_args(arguments)


def main(arguments: Optional[List[str]] = None) -> int:
    """The program; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        if options.command == "doctor":
            return _doctor(options)
        status: int = options.run(_client(options), options)
        return status
    except service_client.Unreachable as error:
        print(f"overlaybd-ctl: {error}", file=sys.stderr)
        return EXIT_UNREACHABLE
    except service_client.Refused as error:
        print(f"overlaybd-ctl: {error}", file=sys.stderr)
        return EXIT_FOUND
    except errors.Error as error:
        print(f"overlaybd-ctl: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except BrokenPipeError:
        sys.stderr.close()  # or the interpreter complains at its end
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
