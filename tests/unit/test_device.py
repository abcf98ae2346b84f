# SPDX-License-Identifier: Apache-2.0
"""A device's states, with a front end and an image that do as they are told."""

import dataclasses
import errno
import threading

import pytest

from overlaybd_tcmu import errors, units
from overlaybd_tcmu.ffi import libtcmu, native
from overlaybd_tcmu.tcmu import device, usage

TIMEOUT_S = 60


class FakeHandle:
    def uio_name(self):
        return "uio7"

    def fd(self):
        return -1

    def attribute(self, name):
        return {"hw_block_size": 4096, "hw_max_sectors": 128}[name]

    def mapping(self):
        return libtcmu.Mapping(4096, 12 * units.MiB, 4 * units.MiB)

    def set_geometry(self, block_size, blocks):
        self.geometry = block_size, blocks


FIELDS = [field.name for field in dataclasses.fields(native.TcmuStats)]


class FakeImage:
    def __init__(self):
        self.closed = False

    def info(self):
        return native.ImageInfo(units.GiB, 1, 2, 3, 4, 0, 0, 0)

    def cancel(self, error):
        assert not self.closed
        self.cancelled = error

    def close(self):
        self.closed = True


class FakeTcmu:
    """run() ends when stopped, or raises what `failure` says at once."""

    failure = None

    def __init__(self, image, options):
        self.image, self.options = image, options
        self.stopped = threading.Event()
        self.closed = False

    def run(self):
        if self.failure is not None:
            raise self.failure
        assert self.stopped.wait(TIMEOUT_S)

    def stop(self):
        assert not self.closed
        self.stopped.set()

    def stats(self):
        return native.TcmuStats(**{**dict.fromkeys(FIELDS, 0), "commands": 5, "inflight": 6})

    def close(self):
        assert not self.image.closed, "the image must outlive the front end"
        self.closed = True


@pytest.fixture(autouse=True)
def fronts(monkeypatch):
    """Every front end that was made; retries come at once."""
    made = []

    class Recorded(FakeTcmu):
        def __init__(self, image, options):
            super().__init__(image, options)
            made.append(self)

    monkeypatch.setattr(native, "Tcmu", Recorded)
    monkeypatch.setattr(usage, "of", lambda image, tcmu: usage.NONE)
    monkeypatch.setattr(device, "RETRY_FIRST_S", 0.0)
    return made


def make(open_image=FakeImage):
    return device.Device(FakeHandle(), "overlaybd//c.json", open_image)


def failing_times(count, image=None):
    """An open_image that fails so many times."""
    left = [count]

    def open_image():
        if left[0]:
            left[0] -= 1
            raise errors.ImageError("failed to open layer 0")
        return image or FakeImage()

    return open_image


def test_front_end_gets_what_the_device_says(fronts):
    one = make()
    one.start()
    options = fronts[0].options
    assert (options.map, options.map_size) == (4096, 12 * units.MiB)
    assert (options.block_size, options.max_transfer) == (4096, 4 * units.MiB)
    assert options.cfgstring == "overlaybd//c.json"
    assert not options.read_only  # whether it can be written is the image's to say
    one.stop()


def test_life_from_start_to_stop(fronts):
    image = FakeImage()
    one = make(lambda: image)
    one.start()
    text = "name=overlaybd//c.json uio=uio7 state=serving commands=5 inflight=6"
    assert one.describe() == text
    one.stop()
    assert image.closed and fronts[0].closed
    assert image.cancelled == errno.ECANCELED
    assert one.describe() == "name=overlaybd//c.json uio=uio7 state=closed"


def test_new_device_whose_image_fails_is_not_started():
    before = threading.active_count()
    with pytest.raises(errors.ImageError):
        make(failing_times(1)).start()
    assert threading.active_count() == before


def test_image_is_closed_when_the_front_end_cannot_be_made(monkeypatch):
    image = FakeImage()

    def refuse(*_):
        raise errors.NativeError(errno.EPROTO, "mailbox version 3")

    monkeypatch.setattr(native, "Tcmu", refuse)
    with pytest.raises(errors.NativeError):
        make(lambda: image).start()
    assert image.closed


@pytest.mark.parametrize(
    "failure, level, text",
    [
        (errors.NativeError(errno.ENODEV), "INFO", "device is gone"),
        (errors.NativeError(errno.EIO, "ring broken"), "ERROR", "is not served any more"),
        (RuntimeError("bug"), "ERROR", "device thread failed"),
    ],
)
def test_serving_that_ends_by_itself_closes_everything(monkeypatch, caplog, failure, level, text):
    caplog.set_level("INFO")
    monkeypatch.setattr(FakeTcmu, "failure", failure)
    image = FakeImage()
    one = make(lambda: image)
    one.start()
    one.stop()
    assert image.closed
    assert [record.levelname for record in caplog.records if text in record.message] == [level]


def test_adoption_is_repeated_until_the_image_opens(fronts):
    image, opened = FakeImage(), threading.Event()
    fails = failing_times(3, image)

    def open_image():
        result = fails()
        opened.set()
        return result

    one = make(open_image)
    one.adopt()
    assert opened.wait(TIMEOUT_S)
    one.stop()
    assert len(fronts) == 1 and image.closed


def test_failed_adoption_can_be_stopped():
    device.RETRY_FIRST_S = 1000.0
    one = make(failing_times(1))
    one.adopt()
    assert one.settled.wait(TIMEOUT_S)
    assert "state=failed" in one.describe()
    one.stop()


def test_stop_while_an_adoption_opens_its_image_is_not_lost(fronts):
    opening, go_on = threading.Event(), threading.Event()
    first = failing_times(1)

    def open_image():
        image = first()
        opening.set()
        assert go_on.wait(TIMEOUT_S)
        return image

    one = make(open_image)
    one.adopt()
    assert opening.wait(TIMEOUT_S)
    stopper = threading.Thread(target=one.stop)
    stopper.start()
    assert one.stopping.wait(TIMEOUT_S)
    go_on.set()
    stopper.join(TIMEOUT_S)
    assert not stopper.is_alive()
    assert fronts[0].closed
