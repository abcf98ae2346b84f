# SPDX-License-Identifier: Apache-2.0
"""
Looks for what keeps the service from starting or from working, on the host as it is, and says what
to do. Changes nothing, and needs no service.

$OVERLAYBD_SYSROOT is put before /sys, /proc and /run, as in tcmu/kernel.py.
"""

import contextlib
import dataclasses
import functools
import os
import resource
import socket
import stat
import time
from typing import Callable, Dict, Iterator, List, Tuple

from .. import address, config, errors, units
from ..ffi import libtcmu, native
from ..tcmu import kernel

OK, WARNING, ERROR = "ok", "warning", "error"

# What the caches leave free for others, and no log should have to live with less.
FREE_LEAST = 512 * units.MiB

# Before our first release: tokens and certificates will be refused for being from the future.
CLOCK_LEAST = 1735689600  # 2025

OPEN_FILES_LEAST = 65536


@dataclasses.dataclass(frozen=True)
class Finding:
    """advice is what to do, "" when there is nothing."""

    level: str
    subject: str
    text: str
    advice: str = ""

    def document(self) -> Dict[str, str]:
        return dataclasses.asdict(self)


def examine(config_path: str) -> List[Finding]:
    """Every check; a check that cannot be made is a finding too."""
    found: List[Finding] = []
    service = None
    try:
        service, warnings = config.load(config_path)
        found.append(Finding(OK, "configuration", config_path))
        found += [Finding(WARNING, "configuration", f"{config_path}: {one}") for one in warnings]
    except errors.ConfigError as error:
        advice = "correct it; overlaybd-tcmu --show-config shows what is made of it"
        found.append(Finding(ERROR, "configuration", str(error), advice))
    for check in (_modules, _libraries, _configfs, _instance, _limits, _clock):
        found += _made(check)
    if service is not None:
        checks: Tuple[Callable[[config.ServiceConfig], Iterator[Finding]], ...] = (
            _credentials,
            _folders,
            _ports,
        )
        for of_service in checks:
            found += _made(functools.partial(of_service, service))
    return found


def _made(check: Callable[[], Iterator[Finding]]) -> List[Finding]:
    try:
        return list(check())
    except OSError as error:
        name = getattr(check, "func", check).__name__.lstrip("_")
        return [Finding(WARNING, name, f"could not be looked at: {error}", "run it as root")]


# ---- the host


def _modules() -> Iterator[Finding]:
    advice = "modprobe {0}; where there is none, install the kernel's extra modules"
    for name, needed in (("target_core_user", ERROR), ("tcm_loop", WARNING)):
        if os.path.isdir(kernel.path_of(f"/sys/module/{name}")):
            yield Finding(OK, "kernel module", f"{name} is loaded")
        else:
            yield Finding(needed, "kernel module", f"{name} is not loaded", advice.format(name))
    path = kernel.path_of(f"{kernel.MODULE}/parameters/block_netlink")
    if os.path.exists(path):
        with open(path, encoding="ascii", errors="replace") as file:
            blocked = file.read().strip() not in ("0", "N")
        if blocked and not _is_running():
            text = "announcements are blocked and no daemon runs: nothing can be attached"
            yield Finding(ERROR, "kernel", text, "start overlaybd-tcmu, which unblocks them")


def _libraries() -> Iterator[Finding]:
    try:
        yield Finding(OK, "core", native.build_info())
    except errors.LibraryError as error:
        yield Finding(ERROR, "core", str(error), "install the package again")
    try:
        libtcmu.library()
        yield Finding(OK, "libtcmu", "found")
    except errors.LibraryError as error:
        yield Finding(ERROR, "libtcmu", str(error), "install libtcmu 1.5 or newer")


def _configfs() -> Iterator[Finding]:
    path = kernel.path_of(kernel.CONFIGFS)
    if not os.path.isdir(path):
        advice = "mount -t configfs configfs /sys/kernel/config; modprobe target_core_user"
        yield Finding(ERROR, "configfs", f"{path} is not there", advice)
    elif not os.access(path, os.W_OK):
        yield Finding(ERROR, "configfs", f"{path} is not writable for us", "run it as root")
    else:
        yield Finding(OK, "configfs", path)


def _is_running() -> bool:
    """
    Whether the process that the instance lock names has it open. Trying the lock would be simpler,
    and a daemon that starts at that moment would believe that another one runs.
    """
    path = kernel.path_of(kernel.LOCK)
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            folder = f"/proc/{int(file.read(32))}/fd"
        wanted = os.stat(path)
        return any(os.path.samestat(wanted, one) for one in _open_files(folder))
    except (FileNotFoundError, ValueError):
        return False


def _open_files(folder: str) -> Iterator[os.stat_result]:
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):  # closed meanwhile
            yield os.stat(f"{folder}/{name}")


def _instance() -> Iterator[Finding]:
    if _is_running():
        with open(kernel.path_of(kernel.LOCK), encoding="ascii", errors="replace") as file:
            yield Finding(OK, "service", f"runs as process {file.read(32).strip()}")
        return
    waiting = list(kernel.uio_devices())
    if waiting:
        text = f"does not run, and {len(waiting)} devices wait for it"
        yield Finding(ERROR, "service", text, "systemctl start overlaybd-tcmu")
    else:
        yield Finding(WARNING, "service", "does not run", "systemctl start overlaybd-tcmu")


def _limits() -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES_LEAST:
        text = f"at most {hard} may be open, a layer needs one"
        yield Finding(WARNING, "files", text, "LimitNOFILE=1048576 in the unit")


def _clock() -> Iterator[Finding]:
    if time.time() < CLOCK_LEAST:
        text = f"it is {time.strftime('%Y-%m-%d')}, which cannot be: registries will be refused"
        yield Finding(ERROR, "clock", text, "timedatectl set-ntp true")


# ---- what the configuration names


def _credentials(service: config.ServiceConfig) -> Iterator[Finding]:
    path = service.credential.path
    if service.credential.mode != "file" or not path:
        return
    try:
        status = os.stat(path)
    except FileNotFoundError:
        yield Finding(OK, "credentials", f"{path} is not there: registries are asked anonymously")
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        text = f"{path} has mode {mode:04o}: others may read passwords"
        yield Finding(WARNING, "credentials", text, f"chmod 600 {path}")
    elif status.st_uid != os.geteuid():
        text = f"{path} belongs to user {status.st_uid}, who may change it"
        yield Finding(WARNING, "credentials", text, f"chown root {path}")
    else:
        yield Finding(OK, "credentials", path)


def _folders(service: config.ServiceConfig) -> Iterator[Finding]:
    places = [("log", os.path.dirname(service.log.path)), ("cache", service.cache.dir)]
    if service.enable_audit:
        places.append(("audit log", os.path.dirname(service.audit_path)))
    for subject, place in places:
        if place:
            yield _folder(subject, place)


def _folder(subject: str, place: str) -> Finding:
    """Of the folder, or of the one it will be made in."""
    there = os.path.abspath(place)
    while not os.path.isdir(there):
        if os.path.lexists(there):
            return Finding(ERROR, subject, f"{there} is no folder", "name another one")
        there = os.path.dirname(there)
    if not os.access(there, os.W_OK):
        return Finding(ERROR, subject, f"{there} is not writable for us", "run it as root")
    status = os.statvfs(there)
    free = status.f_bavail * status.f_frsize
    text = f"{place} has {units.human_size(free)} free"
    if free < FREE_LEAST:
        return Finding(WARNING, subject, text, "make room, or name another folder")
    if status.f_files and status.f_favail < 1000:
        return Finding(WARNING, subject, f"{place} has no inodes left", "remove some files")
    return Finding(OK, subject, text)


def _ports(service: config.ServiceConfig) -> Iterator[Finding]:
    """Listened at by the service if it runs, else by nobody."""
    wanted = []
    if service.exporter.enable:
        where = address.Address(service.exporter.address, service.exporter.port)
        wanted.append(("exporter", "exporterConfig", where))
    if service.api.enable:
        wanted.append(("API", "serviceConfig", address.parse(service.api.address)))
    running = _is_running()
    for subject, section, where in wanted:
        answers = where.port == 0 and not where.path or _answers(where)
        if running and not answers:
            advice = f"see the log for 'cannot listen'; {section} was changed? restart the service"
            yield Finding(ERROR, subject, f"nobody listens at {where}", advice)
        elif not running and answers and where.port:
            advice = f"end it, or set another address in {section}"
            yield Finding(ERROR, subject, f"another program listens at {where}", advice)
        else:
            yield Finding(OK, subject, str(where))


def _answers(where: address.Address) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(where.host, where.host)
    try:
        address.connect(dataclasses.replace(where, host=host), 2.0).close()
        return True
    except (OSError, socket.gaierror):
        return False
