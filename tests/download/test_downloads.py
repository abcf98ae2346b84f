# SPDX-License-Identifier: Apache-2.0
"""Layers that become local behind their readers' backs: whole, verified, fetched once."""

import collections
import hashlib
import os
import random
import threading
import time

import pytest

from overlaybd_tcmu import config
from overlaybd_tcmu.download import downloader, partial, transfer

from ..native import lazy
from ..support.lazy_service import UNIT

AT_ONCE = {"enable": True, "delay": 0, "delayExtra": 0, "maxMBps": 0, "blockSize": UNIT}


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """What is repeated is so at once."""
    monkeypatch.setattr(downloader, "FIRST_S", 0.05)
    monkeypatch.setattr(downloader, "LOOK_S", 0.05)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "fs").mkdir()
    return tmp_path / "fs"


def put(server, disk, kind="raw"):
    return server.put(lazy.wrapped(kind, disk[1]))


def open_one(lazily, digest, folder, **settings):
    """An image of one layer that is downloaded into the folder at once."""
    size = len(lazily.server._blobs[digest])
    lowers = [{"digest": digest, "size": size, "dir": str(folder)}]
    return lazily.open(digest, lowers=lowers, download={**AT_ONCE, **settings})


def wait_until_local(folder):
    lazy.wait_for((folder / "overlaybd.commit").exists)


def assert_whole(server, digest, folder):
    content = (folder / "overlaybd.commit").read_bytes()
    assert content == server._blobs[digest]
    lazy.wait_for(lambda: sorted(os.listdir(folder)) == ["overlaybd.commit"])


def counts(server, digest):
    """How often each sector was sent; the first byte, by which a blob is found, not counted."""
    seen = collections.Counter()
    for offset, count in server.ranges(digest):
        if count != 1:
            seen.update(range(offset, offset + count, 512))
    return seen


@pytest.mark.parametrize("kind", lazy.KINDS)
def test_layer_becomes_local(server, lazily, disk, folder, kind):
    digest = put(server, disk, kind)
    image = open_one(lazily, digest, folder)
    wait_until_local(folder)
    assert_whole(server, digest, folder)
    lazy.read_all(image, disk[0])
    assert os.stat(folder / "overlaybd.commit").st_mode & 0o777 == 0o644


def test_no_byte_is_fetched_twice(server, lazily, disk, folder):
    """Some is read before the download comes to it, the rest afterwards."""
    digest = put(server, disk)
    image = open_one(lazily, digest, folder, delay=1)
    lazy.read_all(image, disk[0][: 1 << 20])
    lazy.wait_for(lambda: not lazily.cache.store.misses.parked())
    wait_until_local(folder)
    lazy.read_all(image, disk[0])
    assert max(counts(server, digest).values()) == 1


def test_what_the_cache_has_is_not_fetched_again(server, lazily, disk, folder):
    digest = put(server, disk)
    lazy.read_all(lazily.open(digest), disk[0])
    server.fault(times=None, status=500, match=lambda r: r.range and r.range[1] > 1)
    open_one(lazily, digest, folder)
    wait_until_local(folder)
    assert_whole(server, digest, folder)


def test_readers_borrow_from_a_download(server, lazily, disk, folder):
    """What was downloaded already is not fetched for a reader either."""
    digest = put(server, disk)
    image = open_one(lazily, digest, folder, maxMBps=1)
    lazy.wait_for(lambda: (folder / ".download").exists())
    lazy.wait_for(lambda: (folder / ".download").stat().st_blocks * 512 > 20 * UNIT)
    server.down()
    assert image.pread(4096, 10 * UNIT) == disk[0][10 * UNIT :][:4096]
    server.up()


def test_cache_gives_the_room_back(server, lazily, disk, folder):
    digest = put(server, disk)
    image = open_one(lazily, digest, folder)
    lazy.read_all(image, disk[0])
    wait_until_local(folder)
    lazy.wait_for(lambda: lazily.used() == 0)
    assert not lazily.data_file(digest).exists()
    lazy.read_all(image, disk[0])


def test_readers_notice_nothing(server, lazily, disk, folder):
    digest = put(server, disk, "lz4")
    image = open_one(lazily, digest, folder)
    seeds = [random.random() for _ in range(4)]

    def work(number):
        while not (folder / "overlaybd.commit").exists():
            lazy.read_randomly(image, disk[0], random.Random(seeds[number]), 5)
        lazy.read_randomly(image, disk[0], random.Random(seeds[number]), 20)

    lazy.in_threads(4, work)
    assert image.stats().errors == 0


def test_local_device_needs_no_registry(server, lazily, disk, folder):
    digest = put(server, disk)
    image = open_one(lazily, digest, folder)
    wait_until_local(folder)
    lazy.wait_for(lambda: lazily.used() == 0)
    server.down()
    lazy.read_all(image, disk[0])
    lazily.restart()
    lazy.read_all(open_one(lazily, digest, folder), disk[0])


def test_all_layers_of_an_image(server, lazily, disk, tmp_path):
    digests = [put(server, disk, kind) for kind in ("raw", "lz4", "tar")]
    lowers = []
    for number, digest in enumerate(digests):
        (tmp_path / str(number)).mkdir()
        size = len(server._blobs[digest])
        lowers.append({"digest": digest, "size": size, "dir": str(tmp_path / str(number))})
    lazily.open(*digests, lowers=lowers, download=AT_ONCE)
    for number, digest in enumerate(digests):
        wait_until_local(tmp_path / str(number))
        assert_whole(server, digest, tmp_path / str(number))


def test_two_devices_of_one_layer_download_it_once(server, lazily, disk, folder):
    digest = put(server, disk)
    server.delay(0.01)
    images = [open_one(lazily, digest, folder) for _ in range(3)]
    wait_until_local(folder)
    lazy.wait_for(lambda: lazily.used() == 0)
    for image in images:
        lazy.read_all(image, disk[0])
    seen = counts(server, digest)
    assert sum(seen.values()) * 512 < 2 * len(server._blobs[digest])


# ---- when


def test_nothing_is_downloaded_unless_it_is_wanted(server, lazily, disk, folder):
    digest = put(server, disk)
    image = open_one(lazily, digest, folder, enable=False)
    assert image.download is None
    assert open_one(lazily, digest, "").download is None


def test_delay_is_kept(server, lazily, disk, folder):
    open_one(lazily, put(server, disk), folder, delay=1000)
    time.sleep(0.1)
    assert os.listdir(folder) == []


def test_service_settings_are_read_when_a_device_starts(server, make, disk, folder, tmp_path):
    lazily = make()
    path = tmp_path / "overlaybd.json"
    lazily.remote._path = str(path)
    digest = put(server, disk)
    lowers = [{"digest": digest, "dir": str(folder)}]
    path.write_text('{"download": {"enable": true, "delay": 1000}}')
    assert lazily.open(digest, lowers=lowers).download is not None
    path.write_text('{"download": {"enable": false}}')
    assert lazily.open(digest, lowers=lowers).download is None
    path.write_text("broken")
    assert lazily.open(digest, lowers=lowers).download is None
    assert lazily.remote.download_settings(lazily.describe(digest)) == config.DownloadConfig()


def test_image_has_its_own_settings(server, make, disk, folder, caplog):
    """All of them: none is the service's where the image names others."""
    caplog.set_level("INFO")
    lazily = make(download={"enable": True, "delay": 1000, "maxMBps": 7, "tryCnt": 8})
    digest = put(server, disk)
    lowers = [{"digest": digest, "dir": str(folder)}]
    lazily.open(digest, lowers=lowers)
    lazy.wait_for(lambda: "maxMBps=7 tryCnt=8" in caplog.text)
    lazily.open(digest, lowers=lowers, download={"enable": True, "maxMBps": 3})
    lazy.wait_for(lambda: "maxMBps=3 tryCnt=5" in caplog.text)
    assert lazily.open(digest, lowers=lowers, download={"enable": False}).download is None


def test_rate_limit_holds(server, lazily, disk, folder):
    digest = put(server, disk)
    started = time.monotonic()
    open_one(lazily, digest, folder, maxMBps=2)
    wait_until_local(folder)
    megabytes = len(server._blobs[digest]) / (1 << 20)
    assert time.monotonic() - started >= megabytes / 2 * 0.7


def test_download_gives_way_to_who_waits(server, lazily, disk, folder, monkeypatch):
    """Nothing of what comes for it is kept while a read waits for a miss."""
    monkeypatch.setattr(transfer, "GIVE_WAY_S", 1000)
    digest, other = put(server, disk), put(server, disk, "lz4")
    image = lazily.open(other)
    answer = threading.Event()
    server.fault(times=None, hold=answer, match=lambda request: other in request.path)
    with lazy.reading(image, 4096, 1 << 20) as future:
        try:
            lazy.wait_for(lambda: server.registry.in_flight() == 1)
            download = open_one(lazily, digest, folder).download
            lazy.wait_for(lambda: lazily.cache.refill.counters.read().bytes["download"])
            before = download.progress().done
            time.sleep(0.3)  # enough for all of it, if it did not
            assert download.progress().done == before
        finally:
            answer.set()
        assert future.result() == disk[0][1 << 20 :][:4096]
    wait_until_local(folder)


# ---- being stopped


@pytest.mark.parametrize("how", ["waiting", "limited", "stalled", "busy"])
def test_closing_the_image_stops_it_at_once(server, lazily, disk, folder, how):
    digest = put(server, disk)
    settings = {"delay": 1000} if how == "waiting" else {}
    if how == "limited":
        settings = {"maxMBps": 1, "blockSize": 1 << 20}
    if how == "stalled":
        server.fault(times=None, stall_after=5000, match=lambda r: r.range and r.range[1] > UNIT)
    if how == "busy":
        other = partial.Partial(str(folder), digest, 1 << 20, lazily.cache.store)
    image = open_one(lazily, digest, folder, **settings)
    time.sleep(0.1)
    started = time.monotonic()
    image.close()
    assert time.monotonic() - started < 10
    assert not (folder / "overlaybd.commit").exists()
    if how == "busy":
        other.close()


def test_download_goes_on_where_it_was_stopped(server, lazily, disk, folder):
    digest = put(server, disk)
    image = open_one(lazily, digest, folder, maxMBps=2)
    lazy.wait_for(lambda: (folder / ".download").exists())
    lazy.wait_for(lambda: (folder / ".download").stat().st_blocks * 512 > 16 * UNIT)
    image.close()
    lazily.cache.store.remove(digest)
    had = (folder / ".download").stat().st_blocks * 512
    server.clear()
    open_one(lazily, digest, folder)
    wait_until_local(folder)
    assert_whole(server, digest, folder)
    sent = sum(counts(server, digest).values()) * 512
    assert sent <= len(server._blobs[digest]) - had + 8 * UNIT


# ---- what is wrong on the way


def test_failures_are_repeated(server, lazily, disk, folder):
    digest = put(server, disk)
    image = open_one(lazily, digest, folder, delay=1)  # opened by then
    server.fault(times=3, status=500)
    server.fault(times=2, cut_after=9000)
    wait_until_local(folder)
    assert_whole(server, digest, folder)
    image.close()


def test_attempts_are_counted(server, lazily, disk, folder, caplog):
    digest = put(server, disk)
    image = open_one(lazily, digest, folder, delay=1, tryCnt=2)
    server.fault(times=None, status=500)
    lazy.wait_for(lambda: "layer not downloaded" in caplog.text)
    assert caplog.text.count("download failed") == 2
    server.heal()
    lazy.read_all(image, disk[0])


def test_wrong_bytes_never_become_a_layer(server, lazily, disk, folder, caplog):
    digest = put(server, disk, "lz4")
    good = server._blobs[digest]
    image = open_one(lazily, digest, folder, delay=1, tryCnt=0)
    server.replace(digest, good[:100000] + b"\xa5" * 100 + good[100100:])
    lazy.wait_for(lambda: caplog.text.count("have the digest") >= 1)
    assert not (folder / "overlaybd.commit").exists()
    server.replace(digest, good)
    wait_until_local(folder)
    assert hashlib.sha256((folder / "overlaybd.commit").read_bytes()).hexdigest() in digest
    lazy.read_all(image, disk[0])


def test_damage_in_the_cache_is_found_by_the_digest(server, lazily, disk, folder):
    digest = put(server, disk)
    lazy.read_all(lazily.open(digest), disk[0])
    with open(lazily.data_file(digest), "r+b") as file:
        file.seek(200000)
        file.write(b"\xa5" * 100)
    image = open_one(lazily, digest, folder)
    wait_until_local(folder)
    assert_whole(server, digest, folder)
    lazy.read_all(image, disk[0])


def test_damage_in_a_stopped_download_is_fetched_again(server, lazily, disk, folder):
    digest = put(server, disk)
    image = open_one(lazily, digest, folder, maxMBps=2)
    lazy.wait_for(lambda: (folder / ".download").exists())
    lazy.wait_for(lambda: (folder / ".download").stat().st_blocks * 512 > 16 * UNIT)
    image.close()
    with open(folder / ".download", "r+b") as file:
        file.seek(3 * UNIT)
        file.write(b"\xa5" * 100)
    open_one(lazily, digest, folder)
    wait_until_local(folder)
    assert_whole(server, digest, folder)


def test_folder_that_is_gone_stops_nobody(server, lazily, disk, folder, caplog):
    digest = put(server, disk)
    folder.rmdir()
    image = open_one(lazily, digest, folder, tryCnt=1)
    lazy.wait_for(lambda: "layer not downloaded" in caplog.text)
    lazy.read_all(image, disk[0])


def test_link_in_place_of_the_download_is_not_followed(server, lazily, disk, folder, tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (folder / ".download").symlink_to(tmp_path / "precious")
    image = open_one(lazily, put(server, disk), folder, tryCnt=1)
    lazy.wait_for(lambda: not image.download._thread.is_alive())
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_unpacked_layer_is_left_as_it_is(server, lazily, disk, folder):
    """containerd unpacks the blob's tar: another file of the same name, no copy of the blob."""
    digest = put(server, disk, "tar")
    image = open_one(lazily, digest, folder, delay=1)
    (folder / "overlaybd.commit").write_bytes(disk[1])
    lazy.wait_for(lambda: not image.download._thread.is_alive())
    lazy.read_all(image, disk[0])
    assert (folder / "overlaybd.commit").read_bytes() == disk[1]


# ---- the file on its way


def test_one_downloads_and_the_other_waits(lazily, folder):
    digest = "sha256:" + "0" * 64
    with partial.Partial(str(folder), digest, 1000, lazily.cache.store):
        with pytest.raises(partial.Busy):
            partial.Partial(str(folder), digest, 1000, lazily.cache.store)
    partial.Partial(str(folder), digest, 1000, lazily.cache.store).close()


def test_partial_of_another_blob_is_begun_anew(lazily, folder):
    one = partial.Partial(str(folder), "sha256:" + "0" * 64, 3 * 4096, lazily.cache.store)
    one.one.fill(memoryview(bytearray(b"x" * 4096)), 0)
    one.close()
    with partial.Partial(str(folder), "sha256:" + "1" * 64, 4096, lazily.cache.store) as two:
        two.one.recover(0, 4096)
        assert not two.lend(memoryview(bytearray(4096)), 0)
    assert (folder / ".download").stat().st_size == 4096


def test_commit_leaves_the_blob_and_nothing_else(lazily, folder):
    with partial.Partial(str(folder), "sha256:" + "0" * 64, 5, lazily.cache.store) as one:
        one.one.fill(memoryview(bytearray(b"hello")), 0)
        assert one.commit() == str(folder / "overlaybd.commit")
    assert (folder / "overlaybd.commit").read_bytes() == b"hello"
    assert os.listdir(folder) == ["overlaybd.commit"]
