# SPDX-License-Identifier: Apache-2.0
"""
What libtcmu's callbacks do: devices come (added), go (removed), and grow (reconfig).

A callback has the turn of libtcmu, and steps aside while it opens an image, or waits for a device
to end or to grow: so devices come and go side by side. `_lock` guards the tables of devices, and
what those that are gone have done; it is held for moments and no other lock is taken under it.
"""

import errno
import logging
import threading
from typing import Callable, Dict, List, NamedTuple, Optional

from .. import errors
from ..ffi import libtcmu, native
from ..image import config, opener
from . import device, usage

log = logging.getLogger("tcmu.handler")

NAME = "Handler for overlaybd devices"
SUBTYPE = "overlaybd"
DESCRIPTION = "overlaybd bs"

# Images of live devices that are opened at once after a start. None waits longer than that for one
# of the others: they may be waiting for a registry.
ADOPTERS = 16
ADOPTER_WAIT_S = 1.0

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
        self.turn = libtcmu.Turn()
        self._open_one = open_one
        self._lock = threading.Lock()
        self._devices: Dict[int, device.Device] = {}  # that libtcmu knows
        self._opening: Dict[int, device.Device] = {}  # that it will know, or not
        self._device_ids: Dict[str, int] = {}  # device id -> handle
        self._retired = usage.NONE  # of devices that are gone
        self._open_failures = 0
        self._adopting = False
        self._adopters = threading.BoundedSemaphore(ADOPTERS)

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
        adopting = self._adopting
        opens = self._open_adopted if adopting else self._open_image
        one = device.Device(
            handle, name, lambda: opens(target, one.stopping), target.path, target.device_id
        )
        if not adopting:
            self._start(handle.address, one)
        with self._lock:
            self._devices[handle.address] = one

    def _start(self, address: int, one: device.Device) -> None:
        """
        While an image opens libtcmu does not know the device: it answers a removal in the
        meantime by itself and tells nobody.
        """
        with self._lock:
            self._opening[address] = one
        try:
            with self.turn.aside():
                one.start()
                if one.is_gone():
                    one.stop()
        finally:
            with self._lock:
                del self._opening[address]
        if one.is_gone():
            # It went between the look above and our turn: its thread ends by itself.
            one.stop()
            raise OSError(errno.ENODEV, "was removed while its image was opened")

    def removed(self, handle: libtcmu.Device) -> None:
        with self._lock:
            one = self._devices.get(handle.address)
        if one is None:
            self._unregister(handle.address)
            return
        with self.turn.aside():
            one.stop()
        self._unregister(handle.address)
        used = one.report().usage
        with self._lock:  # at once: no survey may count it twice, or not at all
            del self._devices[handle.address]
            self._retired += used

    def reconfig(self, handle: libtcmu.Device, kind: int, value: int) -> int:
        """Somebody has written attrib/dev_size; the kernel keeps it if we say 0."""
        with self._lock:
            one = self._devices.get(handle.address)
        if kind != libtcmu.CfgInfo.DEV_SIZE or one is None:
            log.warning("reconfig refused name=%s kind=%d", handle.cfgstring(), kind)
            return -errno.EOPNOTSUPP
        try:
            with self.turn.aside():
                one.grow(value)
        except (errors.Error, OSError, ValueError) as error:
            log.error("resize failed name=%s size=%d error=%s", one.name, value, error)
            return -(getattr(error, "errno", None) or errno.EINVAL)
        return 0

    def describe(self) -> List[str]:
        """A line a device."""
        return [one.describe() for one in self._all()]

    def survey(self) -> Survey:
        """Everything there is to say, for machines."""
        with self._lock:
            devices = list(self._devices.values())
            gone, failures = self._retired, self._open_failures
        return Survey([one.report() for one in devices], gone, failures)

    def find(self, name: str) -> device.Device:
        """The device with that uio name or device id; LookupError."""
        for one in self._all() if name else ():
            if name in (one.uio, one.device_id):
                return one
        raise LookupError(name)

    def snapshot(self, device_id: str, next_path: str) -> None:
        """LookupError when there is no such device; else as Device.snapshot()."""
        for one in self._all():
            if one.device_id == device_id:
                one.snapshot(next_path)
                return
        raise LookupError(device_id)

    def _all(self) -> List[device.Device]:
        with self._lock:
            return [*self._devices.values(), *self._opening.values()]

    def begin_adoption(self) -> None:
        """
        From here on added() means devices that are live already. They are only taken over then,
        for the host waits meanwhile; open_adopted() opens their images.
        """
        self._adopting = True

    def end_adoption(self) -> None:
        """From here on added() means new devices."""
        self._adopting = False

    def open_adopted(self) -> int:
        """
        Has the images of what was adopted opened, side by side. How many there are. It is for when
        the host may attach again: openings take the CPU that the adoption needs.
        """
        with self._lock:
            devices = list(self._devices.values())
        for one in devices:
            one.adopt()
        return len(devices)

    def unsettled(self) -> List[str]:
        """Names of adopted devices whose image has not been tried to its end yet."""
        with self._lock:
            devices = list(self._devices.values())
        return [one.name for one in devices if not one.settled.is_set()]

    def cancel_removed(self) -> None:
        """Ends the openings for devices that the kernel has removed."""
        with self._lock:
            for one in self._opening.values():
                if one.is_gone():
                    one.cancel()

    def cancel_all(self) -> None:
        """Ends all openings that a kernel's answer waits for."""
        with self._lock:
            for one in self._opening.values():
                one.cancel()

    def _open_adopted(self, target: Target, stop: threading.Event) -> native.Image:
        mine = self._adopters.acquire(timeout=ADOPTER_WAIT_S)
        try:
            return self._open_image(target, stop)
        finally:
            if mine:
                self._adopters.release()

    def _open_image(self, target: Target, stop: threading.Event) -> native.Image:
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
