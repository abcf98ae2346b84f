# SPDX-License-Identifier: Apache-2.0
"""What is kept on disk, by whom, for how long, and what becomes of it when there is no room."""

import os
import threading

import pytest

from overlaybd_tcmu import errors, units
from overlaybd_tcmu.cache import folder, store
from overlaybd_tcmu.ffi import native

from ..native import raw_layers as raw

UNIT = 16384
DIGESTS = ["sha256:" + f"{number:064x}" for number in range(100)]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(tmp_path, clock):
    """Opens stores; closed at the end."""
    made = []

    def one(path=tmp_path / "cache", capacity=64 * UNIT):
        made.append(store.Store(str(path) if path else "", capacity, UNIT, clock))
        return made[-1]

    yield one
    for each in made:
        if not each.misses.closed:
            each.close()


def fill(kept, digest, units_=1, letter=b"x", size=64 * UNIT):
    one = kept.open(digest, size)
    for unit in range(units_):
        kept.fill(one, memoryview(bytearray(letter * UNIT)), unit * UNIT)
    kept.trim()
    kept.give_back(one)


def present(kept, digest, size=64 * UNIT):
    """Units of a blob that can be had without a registry."""
    one = kept.open(digest, size)
    one.recover(0, size)
    count = sum(one.gap(unit * UNIT, UNIT) is None for unit in range(size // UNIT))
    kept.give_back(one)
    return count


def test_entry_is_one_for_all_who_use_it(opened):
    kept = opened()
    one, two = kept.open(DIGESTS[0], UNIT), kept.open(DIGESTS[0], UNIT)
    assert one is two
    kept.give_back(one)
    assert kept.hold(DIGESTS[0]) is two
    kept.give_back(two)
    kept.give_back(two)
    assert kept.hold(DIGESTS[0]) is None


def test_blob_has_one_size(opened):
    kept = opened()
    one = kept.open(DIGESTS[0], UNIT)
    with pytest.raises(errors.ImageError, match="16385 bytes, but it has 16384"):
        kept.open(DIGESTS[0], UNIT + 1)
    kept.give_back(one)


def test_size_is_known_after_a_restart(opened):
    kept = opened()
    fill(kept, DIGESTS[0])
    assert kept.size_of(DIGESTS[1]) is None
    kept.close()
    assert opened().size_of(DIGESTS[0]) == 64 * UNIT


def test_room_never_goes_beyond_the_capacity(opened):
    kept = opened()
    for digest in DIGESTS:
        fill(kept, digest)
    assert kept.room.used() <= kept.room.capacity
    assert present(kept, DIGESTS[0]) == 0 and present(kept, DIGESTS[-1]) == 1


def test_files_go_with_their_last_extent(opened, tmp_path):
    kept = opened()
    for digest in DIGESTS:
        fill(kept, digest)
    files = os.listdir(tmp_path / "cache" / "blobs")
    assert len(files) < 2 * len(DIGESTS)
    assert len(files) == 2 * len(kept.folder.digests())


def test_scan_does_not_displace_what_is_in_use(opened, clock):
    kept = opened()
    content = raw.lsmt(b"x" * 20 * UNIT, raw.entry(0, 20 * UNIT // 512, 8))
    one = kept.open(DIGESTS[0], len(content))
    kept.fill(one, memoryview(bytearray(content)), 0)
    with native.Image([native.Layer(one.file.blob())]) as image:
        for turn in range(40):
            clock.now += 30
            kept.tick()
            image.pread(20 * UNIT, 0)
            fill(kept, DIGESTS[1 + turn], 10)
    kept.give_back(one)
    assert present(kept, DIGESTS[0], len(content)) >= 20


def test_pinned_blobs_stay(opened):
    kept = opened()
    fill(kept, DIGESTS[0], 10)
    kept.pin(frozenset({DIGESTS[0]}))
    for digest in DIGESTS[1:]:
        fill(kept, digest)
    assert present(kept, DIGESTS[0]) == 10
    kept.close()
    again = opened()
    assert again.room.pinned == {DIGESTS[0]}


def test_removed_blob_is_gone(opened):
    kept = opened()
    fill(kept, DIGESTS[0], 5)
    fill(kept, DIGESTS[1], 5)
    kept.remove(DIGESTS[0])
    assert kept.room.used() == 5 * UNIT
    assert kept.digests() == [DIGESTS[1]]


def test_blob_in_use_can_be_removed_and_filled_again(opened):
    kept = opened()
    one = kept.open(DIGESTS[0], 64 * UNIT)
    fill(kept, DIGESTS[0], 5)
    kept.remove(DIGESTS[0])
    assert one.gap(0, 64 * UNIT) == (0, 64 * UNIT)
    fill(kept, DIGESTS[0], 3)
    assert kept.room.used() == 3 * UNIT
    kept.give_back(one)
    assert present(kept, DIGESTS[0]) == 3


def test_what_is_missing_is_told_in_bits_of_a_unit_at_least(opened):
    kept = opened()
    one = kept.open(DIGESTS[0], 64 * UNIT)
    for offset, count in ((5 * UNIT, UNIT), (9 * UNIT, UNIT // 2)):
        kept.fill(one, memoryview(bytearray(count)), offset)
    assert one.gaps(2 * UNIT, 10 * UNIT) == [(2 * UNIT, 3 * UNIT), (6 * UNIT, 6 * UNIT)]
    assert one.gaps(5 * UNIT, UNIT) == []
    assert one.gaps(9 * UNIT, UNIT) == [(9 * UNIT + UNIT // 2, UNIT // 2)]
    kept.give_back(one)


# ---- restart


def test_order_of_use_survives_a_restart(opened):
    kept = opened()
    for digest in reversed(DIGESTS[:50]):
        fill(kept, digest)
    kept.close()
    again = opened()
    fill(again, DIGESTS[60], 20)
    assert present(again, DIGESTS[49]) == 0 and present(again, DIGESTS[0]) == 1


def test_smaller_capacity_takes_effect_at_the_next_start(opened):
    kept = opened(capacity=200 * UNIT)
    for digest in DIGESTS:
        fill(kept, digest)
    kept.close()
    again = opened(capacity=64 * UNIT)
    again.trim()
    assert again.room.used() <= 64 * UNIT


def test_files_of_others_are_left_alone(opened, tmp_path):
    (tmp_path / "cache" / "blobs").mkdir(parents=True)
    foreign = [tmp_path / "cache" / "README", tmp_path / "cache" / "blobs" / "x.sums"]
    for path in foreign:
        path.write_bytes(bytes(units.MiB))
    kept = opened()
    for digest in DIGESTS:
        fill(kept, digest)
    assert all(path.stat().st_size == units.MiB for path in foreign)


def test_what_the_original_left_goes_first(opened, tmp_path):
    (tmp_path / "cache").mkdir()
    for digest in DIGESTS[:4]:
        (tmp_path / "cache" / digest).write_bytes(b"x" * 10 * UNIT)
    kept = opened()
    assert kept.room.used() == 40 * UNIT
    fill(kept, DIGESTS[50], 40)
    left = [name for name in os.listdir(tmp_path / "cache") if name.startswith("sha256:")]
    assert len(left) == 1
    assert present(kept, DIGESTS[50]) == 40


def test_data_without_a_record_is_swept_out(opened, tmp_path):
    kept = opened()
    fill(kept, DIGESTS[0])
    kept.close()
    os.unlink(kept.folder.record_path(DIGESTS[0]))
    (tmp_path / "cache" / "blobs" / "sha256-ab.sums.tmp").write_bytes(b"")
    opened()
    assert os.listdir(tmp_path / "cache" / "blobs") == []


def test_large_cache_has_large_extents(opened):
    kept = opened(capacity=1 << 40)
    assert kept.room.extent == 16 * units.MiB
    fill(kept, DIGESTS[0], 2, size=40 * units.MiB)
    assert kept.room.used() == 2 * UNIT


# ---- no room


def test_memory_keeps_a_bounded_amount(opened, monkeypatch):
    kept = opened(path="")
    kept._spill._limit = 10 * UNIT
    fill_all = kept.open(DIGESTS[0], 64 * UNIT)
    fill(kept, DIGESTS[0], 30)
    assert kept._spill.used == 10 * UNIT
    kept.give_back(fill_all)
    assert kept._spill.used == 0


def test_full_disk_makes_the_cache_smaller(opened, small_disk):
    kept = opened(small_disk / "cache", capacity=1 << 30)
    for digest in DIGESTS[:10]:
        fill(kept, digest, 20)
    assert kept.room.used() <= units.MiB
    assert present(kept, DIGESTS[9]) == 20


def test_disk_filled_by_others_leaves_memory(opened, small_disk, caplog):
    kept = opened(small_disk / "cache", capacity=1 << 30)
    one = kept.open(DIGESTS[0], 64 * UNIT)
    with open(small_disk / "others", "wb", buffering=0) as file:
        with pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
    fill(kept, DIGESTS[0], 5)
    assert kept._spill.used == 5 * UNIT
    assert "takes nothing more" in caplog.text
    os.unlink(small_disk / "others")
    kept._clock.now += store.FULL_S
    fill(kept, DIGESTS[0], 6)
    assert kept.room.used() == 6 * UNIT
    kept.give_back(one)


def test_room_others_need_is_given_back(opened, small_disk, clock):
    kept = opened(small_disk / "cache", capacity=1 << 30)
    fill(kept, DIGESTS[0], 40)
    with open(small_disk / "others", "wb") as file:
        file.write(bytes(300 * 1024))
    clock.now += 2
    kept.trim()
    free = os.statvfs(small_disk)
    assert free.f_bavail * free.f_frsize >= units.MiB // 10 - UNIT


# ---- whose it is


def test_second_store_keeps_a_private_cache(opened, tmp_path):
    first, second = opened(), opened()
    assert second.folder.is_private and not first.folder.is_private
    fill(first, DIGESTS[0])
    fill(second, DIGESTS[1])
    assert first.digests() == [DIGESTS[0]] and second.digests() == [DIGESTS[1]]
    second.close()
    assert os.listdir(tmp_path / "cache" / "private") == []


def test_private_cache_of_the_dead_is_removed(opened, tmp_path):
    first = opened()
    dead = folder.Folder.private(str(tmp_path / "cache"))
    os.close(dead._lock_fd)  # as when it is killed
    alive = folder.Folder.private(str(tmp_path / "cache"))
    first.close()
    opened()
    assert os.listdir(tmp_path / "cache" / "private") == [os.path.basename(alive.path)]
    alive.close()


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "g" * 64, "sha256:" + "a" * 31, "../x"]
)
def test_what_is_no_digest(digest):
    assert not folder.is_digest(digest)


def test_who_recovers_beside_another_finds_what_that_one_does(opened):
    """One of a download and a reader would else fetch what is here."""
    kept = opened()
    one = kept.open(DIGESTS[0], UNIT)
    kept.fill(one, memoryview(bytearray(b"x" * UNIT)), 0)
    kept.give_back(one)
    kept.close()
    kept = opened()
    one = kept.open(DIGESTS[0], UNIT)
    recover, looking, go_on, found = one.file.recover, threading.Event(), threading.Event(), []

    def slowly(*arguments):
        looking.set()
        go_on.wait()
        return recover(*arguments)

    def beside():
        one.recover(0, UNIT)
        found.append(one.gap(0, UNIT))

    one.file.recover = slowly
    first = threading.Thread(target=one.recover, args=(0, UNIT))
    threads = [first, threading.Thread(target=beside)]
    first.start()
    looking.wait()
    threads[1].start()
    threads[1].join(0.2)  # it waits, or has found nothing
    go_on.set()
    for thread in threads:
        thread.join()
    assert found == [None]
    kept.give_back(one)
