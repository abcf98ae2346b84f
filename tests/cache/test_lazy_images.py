# SPDX-License-Identifier: Apache-2.0
"""Images that are only in a registry, served through the cache: each byte is fetched once."""

import collections
import io
import random

import pytest

from overlaybd_tcmu import errors, units
from overlaybd_tcmu.registry import client

from ..native import lazy
from ..support.lazy_service import UNIT


def put(server, disk, kind="lz4"):
    return server.put(lazy.wrapped(kind, disk[1]))


def assert_each_byte_was_fetched_once(server, digest):
    """Apart from the first one, which is how a blob is asked for its size."""
    seen = collections.Counter()
    for offset, count in server.ranges(digest):
        if (offset, count) != (0, 1):
            seen.update(range(offset, offset + count, 512))
    assert max(seen.values()) == 1


@pytest.mark.parametrize("kind", lazy.KINDS)
def test_every_byte_is_right_and_fetched_once(server, lazily, disk, kind):
    digest = put(server, disk, kind)
    lazy.read_all(lazily.open(digest), disk[0])
    assert_each_byte_was_fetched_once(server, digest)


def test_opening_fetches_only_its_ends(server, lazily, disk):
    digest = put(server, disk)
    lazily.open(digest)
    fetched = sum(count for _, count in server.ranges(digest))
    assert fetched <= 4 * UNIT + 1


def test_size_need_not_be_known(server, lazily, disk):
    digest = put(server, disk)
    lazy.read_all(lazily.open(digest, sizes=False), disk[0])


def test_64_random_readers_fetch_each_unit_once(server, lazily, disk):
    digest = put(server, disk)
    image = lazily.open(digest)
    seeds = [random.random() for _ in range(64)]
    lazy.in_threads(64, lambda n: lazy.read_randomly(image, disk[0], random.Random(seeds[n]), 10))
    assert_each_byte_was_fetched_once(server, digest)


def test_reading_ahead_leaves_out_what_is_there(server, lazily, disk):
    digest = put(server, disk, "raw")
    image = lazily.open(digest)
    for offset in range(16 * UNIT, len(disk[0]), 16 * UNIT):
        image.pread(512, offset)
    lazy.read_all(image, disk[0], 4096)
    assert_each_byte_was_fetched_once(server, digest)


def test_poisoned_registry_is_not_asked_again(server, lazily, disk):
    digest = put(server, disk)
    lazy.read_all(lazily.open(digest), disk[0])
    server.replace(digest, bytes(len(server._blobs[digest])))
    lazy.read_all(lazily.open(digest), disk[0])
    lazily.restart()
    lazy.read_all(lazily.open(digest), disk[0])


def test_blob_is_shared_by_all_who_have_it(server, lazily, disk):
    digest = put(server, disk)
    for _ in range(3):
        lazy.read_all(lazily.open(digest), disk[0])
    assert_each_byte_was_fetched_once(server, digest)
    assert lazily.used() <= len(server._blobs[digest]) + UNIT


def test_sequential_reader_is_fetched_for_ahead(server, make, disk):
    lazily = make(cacheConfig={"refillSize": 4096})
    digest = put(server, disk, "raw")
    lazy.read_all(lazily.open(digest), disk[0], 4096)
    requests = len(server.ranges(digest))
    assert requests < len(server._blobs[digest]) // 4096 // 8
    assert_each_byte_was_fetched_once(server, digest)


def test_random_reader_fetches_nothing_it_does_not_need(server, lazily, disk):
    digest = put(server, disk, "raw")
    image = lazily.open(digest)
    before = sum(count for _, count in server.ranges(digest))
    for offset in (1 << 20, 3 << 18, 5 << 18):
        image.pread(512, offset)
    assert sum(count for _, count in server.ranges(digest)) - before == 3 * UNIT


# ---- restart


def test_restart_keeps_what_is_there(server, lazily, disk):
    digest = put(server, disk)
    lazy.read_all(lazily.open(digest), disk[0])
    server.down()
    lazily.restart()
    assert 0 <= lazily.used() - len(server._blobs[digest]) <= UNIT
    lazy.read_all(lazily.open(digest), disk[0])


def test_image_starts_while_the_registry_is_down(server, lazily, disk):
    digest = put(server, disk)
    lazily.open(digest)
    server.down()
    lazily.restart()
    image = lazily.open(digest, sizes=False)
    server.up()
    lazy.read_all(image, disk[0])


def test_flipped_bits_are_fetched_again(server, lazily, disk, rng):
    digest = put(server, disk, "raw")
    lazy.read_all(lazily.open(digest), disk[0])
    lazily.stop()
    with open(lazily.data_file(digest), "r+b") as file:
        for _ in range(20):
            file.seek(rng.randrange(len(server._blobs[digest])))
            file.write(b"\xa5\x5a")
    lazily.start()
    lazy.read_all(lazily.open(digest), disk[0])


@pytest.mark.parametrize("name", ["data", "record"])
@pytest.mark.parametrize("how", ["empty", "zeros", "noise", "gone", "folder"])
def test_damaged_files_are_made_anew(server, lazily, disk, name, how):
    digest = put(server, disk)
    lazy.read_all(lazily.open(digest), disk[0])
    lazily.stop()
    path = lazily.data_file(digest)
    path = path if name == "data" else path.with_name(path.name + ".sums")
    size = path.stat().st_size
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes({"empty": b"", "zeros": bytes(size), "noise": b"\xa5" * size}[how])
    lazily.start()
    lazy.read_all(lazily.open(digest), disk[0])


def test_damage_under_a_running_service_heals(server, lazily, disk, rng):
    digest = put(server, disk)
    image = lazily.open(digest)
    lazy.read_all(image, disk[0])
    for _ in range(5):
        with open(lazily.data_file(digest), "r+b") as file:
            file.seek(rng.randrange(len(server._blobs[digest])))
            file.write(b"\xa5\x5a\xa5\x5a")
        lazy.read_all(image, disk[0])


def test_damaged_index_is_fetched_again_at_once(server, lazily, disk):
    """In memory alone: the bytes match what is recorded of them, but they are wrong."""
    digest = put(server, disk)
    good = server._blobs[digest]
    server.replace(digest, good[:-512] + bytes(512))
    with pytest.raises(errors.ImageError, match="failed to open layer 0"):
        lazily.open(digest)
    server.replace(digest, good)
    lazy.read_all(lazily.open(digest), disk[0])


# ---- no room


def test_deleted_folder_serves_on_and_is_made_again(server, lazily, disk):
    first, second = put(server, disk), put(server, disk, "raw")
    image = lazily.open(first)
    image.pread(4096, 0)
    lazy.remove_tree(lazily.folder / "cache")
    lazy.read_all(image, disk[0])
    lazy.read_all(lazily.open(second), disk[0])
    assert lazily.data_file(second).exists()
    lazily.restart()
    server.down()
    lazy.read_all(lazily.open(second), disk[0])


def test_folder_that_cannot_be_made_leaves_memory(server, make, tmp_path, disk):
    (tmp_path / "file").write_text("in the way")
    lazily = make(cacheConfig={"cacheDir": str(tmp_path / "file" / "cache")})
    lazy.read_all(lazily.open(put(server, disk)), disk[0])
    assert lazily.cache.store.room is None


def test_reads_go_on_when_the_disk_is_full(server, make, small_disk, disk):
    """Of what comes it takes some, and some not."""
    lazily = make(cacheConfig={"cacheDir": str(small_disk / "cache")})
    digest = put(server, disk, "raw")
    image = lazily.open(digest)
    with open(small_disk / "others", "wb", buffering=0) as file:
        file.write(bytes(500 * units.KiB))
        lazy.read_all(image, disk[0][: len(disk[0]) // 4], units.MiB // 2)
        with pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
    for _ in range(2):
        lazy.read_all(image, disk[0], units.MiB)
    assert lazily.used() < len(server._blobs[digest]) - 400 * units.KiB
    assert image.stats().errors == 0


def test_eviction_keeps_the_cache_within_its_size(server, make, disk):
    lazily = make(cacheConfig={"cacheSizeGB": 0, "refillSize": 4096})  # 64 units
    digest = put(server, disk, "raw")
    image = lazily.open(digest)
    for _ in range(2):
        lazy.read_all(image, disk[0])
    blocks = lazily.data_file(digest).stat().st_blocks * 512
    assert lazily.used() <= 64 * 4096 + (1 << 20)
    assert blocks <= 64 * 4096 + (1 << 20)


def test_eviction_under_readers_shows_no_wrong_byte(server, make, disk, rng):
    lazily = make(cacheConfig={"cacheSizeGB": 0, "refillSize": 4096})
    image = lazily.open(put(server, disk))
    seeds = [rng.random() for _ in range(4)]
    lazy.in_threads(4, lambda n: lazy.read_randomly(image, disk[0], random.Random(seeds[n]), 40))


# ---- who may have it


def test_other_repository_is_asked_before_it_gets_what_is_here(server, lazily, disk):
    digest = put(server, disk)
    lazily.open(digest, repository="team/a")
    server.fault(times=None, match=lambda request: "team/b" in request.path, status=404)
    with pytest.raises(errors.ImageError, match="No such file or directory"):
        lazily.open(digest, repository="team/b")
    lazily.restart()
    with pytest.raises(errors.ImageError):
        lazily.open(digest, repository="team/b")
    lazily.open(digest, repository="team/a")


def test_repository_that_refuses_is_replaced_by_another_that_has_it_open(server, lazily, disk):
    digest = put(server, disk)
    one = lazily.open(digest, repository="team/a")
    lazily.open(digest, repository="team/b")
    server.fault(times=None, match=lambda request: "team/a" in request.path, status=403)
    lazy.read_all(one, disk[0])


@pytest.mark.parametrize("digest", ["sha256:../../x", "sha256:" + "A" * 64, "x", "a/b:" + "0" * 64])
def test_digest_that_is_none_is_refused(server, lazily, digest):
    with pytest.raises(errors.ImageError, match="Invalid argument"):
        lazily.open(digest)


def test_blob_of_another_size_is_refused(server, lazily, disk):
    digest = put(server, disk)
    size = len(server._blobs[digest])
    lowers = [{"digest": digest, "size": size + 1}]
    with pytest.raises(errors.ImageError, match=f"{size} bytes"):
        lazily.open(digest, lowers=lowers)


# ---- how the bytes come


@pytest.mark.parametrize("buffered", [1024, 8192, 128 * units.KiB, units.MiB])
def test_what_came_with_an_answers_head_is_part_of_it(server, lazily, disk, monkeypatch, buffered):
    """Python 3.14 may have 128 KiB of a body in its buffer when the core goes on, others 8."""
    monkeypatch.setattr(io, "DEFAULT_BUFFER_SIZE", buffered)
    digest = put(server, disk, "raw")
    image = lazily.open(digest)
    lazy.read_all(image, disk[0], units.MiB)
    assert_each_byte_was_fetched_once(server, digest)


@pytest.mark.parametrize("how", [
    dict(cut_after=100), dict(cut_after=12_000), dict(close=True), dict(stall_after=12_000),
    dict(status=500), dict(shift=512), dict(chunked=True, cut_after=12_000),
])  # fmt: skip
def test_answer_that_breaks_off_is_made_up_for(server, lazily, disk, monkeypatch, caplog, how):
    """Past Python, and from a signed URL, which nothing that fails on the way shows."""
    monkeypatch.setattr(client, "READ_S", 0.5)
    caplog.set_level("DEBUG")
    server.redirect()
    image = lazily.open(put(server, disk, "raw"))
    server.fault(on="store", times=2, **how)
    lazy.read_all(image, disk[0], units.MiB)
    assert "fetch failed" in caplog.text or "close" in how  # sent again at once, as it was kept
    assert server.requests("store")
    assert "Signature" not in caplog.text + image.reason() + repr(lazily.cache.report())
