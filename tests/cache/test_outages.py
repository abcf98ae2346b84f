# SPDX-License-Identifier: Apache-2.0
"""Registries that say no, or nothing, to who opens an image, and to who reads one."""

import concurrent.futures
import contextlib
import errno
import threading
import time

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.cache import refill, schedule
from overlaybd_tcmu.ffi import cachefile
from overlaybd_tcmu.registry import client

from ..native import lazy
from ..native import raw_layers as raw
from ..support import fault_registry


def put(server, disk, kind="lz4"):
    return server.put(lazy.wrapped(kind, disk[1]))


# ---- when others hang


def test_image_opens_while_other_registries_have_all_places(server, make, disk, monkeypatch):
    monkeypatch.setattr(schedule, "TOTAL", schedule.EACH)
    monkeypatch.setattr(client, "TOTAL", client.EACH)
    monkeypatch.setattr(refill, "THREADS", schedule.EACH + schedule.SPARE)
    lazily = make(cacheConfig={"refillSize": 4096})
    digest, released = put(server, disk, "raw"), threading.Event()
    with fault_registry.FaultRegistry() as silent, contextlib.ExitStack() as stack:
        image = lazily.open(silent.put(raw.tar(disk[1])), repoBlobUrl=silent.repo_url())
        silent.fault(times=None, hold=released)
        executor = stack.enter_context(concurrent.futures.ThreadPoolExecutor(2 * schedule.EACH))
        stack.callback(released.set)
        offsets = [number * 65536 for number in range(1, 2 * schedule.EACH)]  # no stream
        reads = [executor.submit(image.pread, 512, offset) for offset in offsets]
        lazy.wait_for(lambda: silent.registry.in_flight() == schedule.EACH)
        assert lazily.open(digest).pread(4096, 1 << 20) == disk[0][1 << 20 :][:4096]
        # Nobody's time was up before.
        assert not any(lazily.cache.refill.counters.read().failures.values())
        released.set()
        for offset, read in zip(offsets, reads):
            assert read.result() == disk[0][offset : offset + 512]


# ---- when the registry says no, or nothing


@pytest.mark.parametrize(
    "status, words",
    [(401, "Authentication failed"), (403, "Authentication failed"), (404, "No such file")],
)
def test_refusal_is_told_at_once(server, lazily, disk, status, words):
    digest = put(server, disk)
    server.fault(status=status, times=None)
    started = time.monotonic()
    with pytest.raises(errors.ImageError) as caught:
        lazily.open(digest)
    assert time.monotonic() - started < 3
    url = f"{server.repo_url()}/{digest}"
    assert str(caught.value).startswith(f"failed to open remote file /{url}: {words}")


@pytest.mark.parametrize(
    "url, shown",
    [
        ("http://me:hidden@127.0.0.1/v2/x/blobs", "http://127.0.0.1/v2/x/blobs"),
        ("http://me:hid@den?hidden@h/v2/x/blobs/", "http://h/v2/x/blobs"),
        ("me:hidden@h/v2/x/blobs", "h/v2/x/blobs"),
        ("http://h/v2/x/blobs?token=hidden", "http://h/v2/x/blobs"),
    ],
)
def test_password_in_an_address_is_not_repeated(lazily, caplog, url, shown):
    caplog.set_level("DEBUG")
    digest = "sha256:" + "0" * 64
    with pytest.raises(errors.ImageError) as caught:
        lazily.open(digest, repoBlobUrl=url)
    text = str(caught.value)
    assert text.startswith(f"failed to open remote file /{shown}/{digest}: Invalid argument")
    assert "hid" not in text + caplog.text


def test_refusal_after_a_good_start_is_told(server, lazily, disk):
    digest = put(server, disk)
    server.fault(status=404, times=None, skip=2)
    with pytest.raises(errors.ImageError, match="failed to open remote file .*No such file"):
        lazily.open(digest)


def test_short_failure_is_ridden_out(server, lazily, disk):
    digest = put(server, disk)
    server.fault(status=503, times=3)
    lazy.read_all(lazily.open(digest), disk[0])


def test_registry_that_is_down_fails_in_time(server, lazily, disk, monkeypatch):
    monkeypatch.setattr("overlaybd_tcmu.cache.refill.PATIENCE_S", 0.3)
    digest = put(server, disk)
    server.down()
    with pytest.raises(errors.ImageError, match="Connection failed"):
        lazily.open(digest)


def test_registry_that_does_not_answer_fails_in_time(server, lazily, disk, monkeypatch):
    monkeypatch.setattr("overlaybd_tcmu.cache.service.OPEN_S", 0.3)
    digest = put(server, disk)
    server.fault(times=None, skip=1, stall_after=0)
    with pytest.raises(errors.ImageError, match="Get meta timedout"):
        lazily.open(digest)
    server.heal()


# ---- outages of a running image


def test_reads_wait_for_the_registry_to_come_back(server, lazily, disk):
    image = lazily.open(put(server, disk))
    server.down()
    with lazy.reading(image, 4096, 1 << 20) as future:
        lazy.wait_for(lambda: cachefile.parked(image)[0] == 1)
        lazy.wait_for(lambda: "Connection failed" in image.reason())
        server.up()
        assert future.result() == disk[0][1 << 20 :][:4096]
    assert image.stats().errors == 0


@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_whatever_the_registry_says_reads_wait(server, lazily, disk, status):
    image = lazily.open(put(server, disk))
    server.fault(status=status, times=2, headers={"Retry-After": "0"})
    assert image.pread(4096, 1 << 20) == disk[0][1 << 20 :][:4096]
    assert image.stats().errors == 0


def test_reads_fail_in_time_where_that_is_wanted(server, make, disk):
    lazily = make(outageConfig={"onOutage": "eio", "deadline": 1})
    image = lazily.open(put(server, disk))
    server.down()
    started = time.monotonic()
    with pytest.raises(errors.NativeError) as caught:
        image.pread(4096, 1 << 20)
    assert caught.value.code == errno.EIO
    assert 1 <= time.monotonic() - started < 30
    server.up()
    assert image.pread(4096, 1 << 20) == disk[0][1 << 20 :][:4096]


def test_image_may_choose_otherwise_than_the_service(server, make, disk):
    lazily = make(outageConfig={"onOutage": "eio", "deadline": 1})
    digest = put(server, disk)
    patient = lazily.open(digest, onOutage="block")
    hasty = lazily.open(digest)
    server.down()
    with lazy.reading(patient, 4096, 1 << 20) as future:
        with pytest.raises(errors.NativeError):
            hasty.pread(4096, 1 << 20)
        assert not future.done()
        server.up()
        assert future.result() == disk[0][1 << 20 :][:4096]


def test_image_is_closed_while_the_registry_hangs(server, lazily, disk):
    image = lazily.open(put(server, disk))
    server.fault(times=None, stall_after=0)
    with lazy.reading(image, 4096, 1 << 20) as future:
        lazy.wait_for(lambda: cachefile.parked(image)[0] == 1)
        image.cancel(errno.ECANCELED)
        with pytest.raises(errors.NativeError) as caught:
            future.result()
        assert caught.value.code == errno.ECANCELED
    started = time.monotonic()
    image.close()
    assert time.monotonic() - started < 10
    server.heal()


def test_closing_one_image_leaves_the_fetching_to_the_other(server, lazily, disk):
    digest = put(server, disk)
    one, two = lazily.open(digest), lazily.open(digest)
    server.delay(0.3)
    with lazy.reading(one, 4096, 1 << 20) as first, lazy.reading(two, 4096, 1 << 20) as second:
        lazy.wait_for(lambda: lazily.cache.store.misses.parked() == 2)
        one.cancel(errno.ECANCELED)
        assert first.exception() is not None
        one.close()
        assert second.result() == disk[0][1 << 20 :][:4096]


def test_failing_registry_is_asked_by_one_at_a_time(server, lazily, disk):
    """Twenty images with a hundred reads waiting are no storm."""
    digest = put(server, disk)
    images = [lazily.open(digest) for _ in range(10)]
    server.fault(status=500, times=None)
    server.clear()
    with lazy.reading(images[0], 1 << 20, 0) as future:
        lazy.wait_for(lambda: cachefile.parked(images[0])[0] >= 5)
        time.sleep(0.5)
        asked = len(server.requests())
        server.heal()
        future.result()
    assert asked <= 16 + 8
