# SPDX-License-Identifier: Apache-2.0
"""
What libtcmu's callbacks do: devices come (added), go (removed), and are never changed (reconfig).

All callbacks run on the daemon's main thread, one after another; closing at the end runs them on a
thread of its own while the main thread only waits. `_lock` guards the table of devices, and what
those that are gone have done, for whoever else looks at it; it is held for moments and no other
lock is taken under it.
"""

import concurrent.futures
import errno
import logging
import threading
from typing import Callable, Dict, List, NamedTuple, Optional

from .. import errors
from ..ffi import libtcmu, native
from ..image import config, opener
from . import device, kernel, usage

log = logging.getLogger("tcmu.handler")

NAME = "Handler for overlaybd devices"
SUBTYPE = "overlaybd"
DESCRIPTION = "overlaybd bs"

# Images of live devices opened at once while a daemon starts.
ADOPTERS = 8

# The event, once set, ends an opening early.
OpenOne = Callable[[config.ImageConfig, threading.Event], native.Image]


class Survey(NamedTuple):
    """All devices at one moment, what those have done that are gone, and failed openings."""

    devices: List[device.Report]
    gone: usage.Usage
    open_failures: int

    def total(self) -> usage.Usage:
        """Since the start, whatever has come and gone."""
        return sum((one.usage for one in self.devices), self.gone)


class Target(NamedTuple):
    """What a configuration string asks for."""

    path: str
    device_id: str  # "" when none was given


def parse_cfgstring(cfgstring: str) -> Target:
    """overlaybd/<path>[;<device id>]; everything after the first '/' is the path."""
    subtype, slash, rest = cfgstring.partition("/")
    path, _, device_id = rest.partition(";")
    if subtype != SUBTYPE or not slash or not path:
        reason = f"not {SUBTYPE}/<config path>[;<device id>]: {cfgstring}"
        raise errors.ImageError(reason)
    return Target(path, device_id)


class Handler(libtcmu.Callbacks):
    """The devices of this host, by libtcmu's handle."""

    def __init__(self, open_one: OpenOne) -> None:
        self._open_one = open_one
        self._lock = threading.Lock()
        self._devices: Dict[int, device.Device] = {}
        self._device_ids: Dict[str, int] = {}  # device id -> handle
        self._retired = usage.NONE  # of devices that are gone
        self._open_failures = 0
        self._adopting = False
        self.stopping = threading.Event()  # set: openings that no device waits for give up
        self._prepared: Dict[str, "concurrent.futures.Future[native.Image]"] = {}

    def check_config(self, cfgstring: str) -> Optional[str]:
        try:
            parse_cfgstring(cfgstring)
        except errors.ImageError as error:
            return str(error)
        return None

    def added(self, handle: libtcmu.Device) -> int:
        name = handle.cfgstring()
        log.info("dev open name=%s", name)
        try:
            self._add(handle, name)
        except (errors.Error, OSError) as error:
            log.error("dev open failed name=%s error=%s", name, error)
            with self._lock:
                self._open_failures += 1
            return -(getattr(error, "errno", None) or errno.EIO)
        finally:
            if handle.address not in self._devices:
                self._unregister(handle.address)
        return 0

    def _add(self, handle: libtcmu.Device, name: str) -> None:
        target = parse_cfgstring(name)
        self._register(target, handle.address)
        one = device.Device(
            handle,
            name,
            lambda: self._open_image(name, target, one.stopping),
            target.path,
            target.device_id,
        )
        if self._adopting:
            one.adopt()
        else:
            one.start()
        with self._lock:
            self._devices[handle.address] = one

    def removed(self, handle: libtcmu.Device) -> None:
        with self._lock:
            one = self._devices.get(handle.address)
        self._unregister(handle.address)
        if one is None:
            return
        one.stop()
        used = one.report().usage
        with self._lock:  # at once: no survey may count it twice, or not at all
            del self._devices[handle.address]
            self._retired += used

    def reconfig(self, handle: libtcmu.Device, kind: int) -> int:
        log.warning("reconfig refused name=%s kind=%d", handle.cfgstring(), kind)
        return -errno.EOPNOTSUPP

    def describe(self) -> List[str]:
        """A line a device."""
        return [one.describe() for one in self._all()]

    def survey(self) -> Survey:
        """Everything there is to say, for machines."""
        with self._lock:
            devices = list(self._devices.values())
            gone, failures = self._retired, self._open_failures
        return Survey([one.report() for one in devices], gone, failures)

    def report(self, name: str) -> Optional[device.Report]:
        """Of the device with that uio name or device id."""
        found = (one.report() for one in self._all())
        return next((one for one in found if name in (one.uio, one.device_id)), None)

    def snapshot(self, device_id: str, next_path: str) -> None:
        """LookupError when there is no such device; else as Device.snapshot()."""
        for one in self._all():
            if one.device_id == device_id:
                one.snapshot(next_path)
                return
        raise LookupError(device_id)

    def _all(self) -> List[device.Device]:
        with self._lock:
            return list(self._devices.values())

    def begin_adoption(self) -> None:
        """
        From here on added() means devices that are live already. Their images are opened here and
        side by side, because libtcmu offers them one after another while the host waits.
        """
        self._adopting = True
        names = list(kernel.uio_devices())
        if not names:
            return
        with concurrent.futures.ThreadPoolExecutor(ADOPTERS, "adopt") as executor:
            for name in names:
                try:
                    target = parse_cfgstring(name)
                except errors.ImageError:
                    continue  # another handler's
                if name not in self._prepared:  # two devices may show the same image
                    self._prepared[name] = executor.submit(self._open_now, target, self.stopping)

    def end_adoption(self) -> None:
        """From here on added() means new devices."""
        self._adopting = False
        prepared, self._prepared = self._prepared, {}
        for future in prepared.values():  # of devices that went away meanwhile
            if future.exception() is None:
                future.result().close()

    def _open_image(self, name: str, target: Target, stop: threading.Event) -> native.Image:
        prepared = self._prepared.pop(name, None)
        if prepared is not None:
            return prepared.result()
        return self._open_now(target, stop)

    def _open_now(self, target: Target, stop: threading.Event) -> native.Image:
        return opener.open_with_result(target.path, lambda one: self._open_one(one, stop))

    def _register(self, target: Target, address: int) -> None:
        if not target.device_id:
            return
        with self._lock:
            if target.device_id not in self._device_ids:
                self._device_ids[target.device_id] = address
                return
        error = errors.ImageError(f"duplicated dev id: {target.device_id}")
        opener.tell_failure(target.path, error)
        raise error

    def _unregister(self, address: int) -> None:
        with self._lock:
            mine = [key for key, value in self._device_ids.items() if value == address]
            for key in mine:
                del self._device_ids[key]
