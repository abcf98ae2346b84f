# SPDX-License-Identifier: Apache-2.0
"""What a cache file has, after it was filled, evicted, lost or recovered."""

import errno
import os

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import cachefile

GRANULE = cachefile.GRANULE
UNIT = 4 * GRANULE


@pytest.fixture
def misses():
    with cachefile.Misses(UNIT) as one:
        yield one


@pytest.fixture
def cached(misses, tmp_path):
    """Opens a cache file; closed when the test is over."""
    files = []

    def open_file(size, path=tmp_path / "blob"):
        files.append(cachefile.CacheFile(misses, str(path), size, len(files) + 1))
        return files[-1]

    yield open_file
    for file in files:
        file.close()


def picture(file):
    """A character a granule: '#' present, '-' not."""
    marks = ["#"] * -(-file.size // GRANULE)
    gap = file.next_gap(0)
    while gap:
        first, stop = gap[0] // GRANULE, -(-gap[1] // GRANULE)
        marks[first:stop] = "-" * (stop - first)
        gap = file.next_gap(gap[1])
    return "".join(marks)


def filling(count, letter=b"a"):
    return bytearray(letter * count)


def test_new_file_is_sparse_and_empty(cached, tmp_path):
    file = cached(10 * GRANULE + 5)
    status = os.stat(tmp_path / "blob")
    assert (status.st_size, status.st_blocks) == (10 * GRANULE + 5, 0)
    assert picture(file) == "-" * 11


def test_what_was_filled_is_there(cached):
    file = cached(5 * GRANULE)
    file.fill(filling(2 * GRANULE), GRANULE)
    assert picture(file) == "-##--"


def test_last_granule_may_be_short(cached):
    file = cached(GRANULE + 5)
    file.fill(filling(5), GRANULE)
    assert picture(file) == "-#"
    file.fill(filling(GRANULE), 0)
    assert file.next_gap(0) is None


@pytest.mark.parametrize(
    "offset, count",
    [(1, GRANULE), (0, GRANULE - 1), (0, 0), (8 * GRANULE, GRANULE), (7 * GRANULE, 2 * GRANULE)],
)
def test_what_does_not_fit_is_refused(cached, offset, count):
    file = cached(8 * GRANULE)
    for use in (file.fill, file.spill):
        with pytest.raises(errors.NativeError) as caught:
            use(filling(count), offset)
        assert caught.value.code == errno.EINVAL
    assert picture(file) == "-" * 8


def test_copying_stops_at_the_first_gap(cached):
    file = cached(6 * GRANULE)
    file.fill(filling(2 * GRANULE), GRANULE)
    buffer = bytearray(4 * GRANULE)
    assert file.copy_into(buffer, GRANULE + 10) == 2 * GRANULE - 10
    assert file.copy_into(buffer, 0) == 0


def test_evicted_room_is_given_back(cached, tmp_path):
    file = cached(8 * GRANULE)
    file.fill(filling(8 * GRANULE), 0)
    before = os.stat(tmp_path / "blob").st_blocks
    file.evict(2 * GRANULE, 4 * GRANULE)
    assert picture(file) == "##----##"
    assert os.stat(tmp_path / "blob").st_blocks <= before // 2
    assert os.stat(tmp_path / "blob").st_size == 8 * GRANULE


def test_random_history_against_a_model(cached, rng):
    count = 200
    file, model = cached(count * GRANULE), ["-"] * count
    for _ in range(400):
        first = rng.randrange(count)
        stop = rng.randint(first + 1, min(count, first + 90))
        if rng.random() < 0.5:
            file.fill(filling((stop - first) * GRANULE), first * GRANULE)
            model[first:stop] = "#" * (stop - first)
        else:
            file.evict(first * GRANULE, (stop - first) * GRANULE)
            model[first:stop] = "-" * (stop - first)
        assert picture(file) == "".join(model)


# ---- recovery: what a file that was left behind still holds


def sums_of(file, data):
    return list(file.fill(bytearray(data), 0))


def test_checksums_are_of_each_granule_and_never_zero(cached):
    file = cached(4 * GRANULE)
    first = sums_of(file, b"a" * GRANULE + b"b" * GRANULE + bytes(2 * GRANULE))
    assert first[0] != first[1] != first[2] == first[3]
    assert 0 not in first


def test_intact_content_is_recovered(cached):
    sums = sums_of(cached(2 * GRANULE + 7), b"x" * (2 * GRANULE + 7))
    again = cached(2 * GRANULE + 7)
    assert picture(again) == "---"
    assert again.recover(0, 2 * GRANULE + 7, sums) == 3
    assert picture(again) == "###"


def test_what_has_no_checksum_is_not_recovered(cached):
    sums = sums_of(cached(3 * GRANULE), b"x" * 3 * GRANULE)
    again = cached(3 * GRANULE)
    assert again.recover(0, 3 * GRANULE, [sums[0], 0, sums[2]]) == 2
    assert picture(again) == "#-#"


def test_flipped_bit_is_not_recovered(cached, tmp_path):
    sums = sums_of(cached(3 * GRANULE), b"x" * 3 * GRANULE)
    with open(tmp_path / "blob", "r+b") as file:
        file.seek(GRANULE + 100)
        file.write(b"y")
    again = cached(3 * GRANULE)
    assert again.recover(0, 3 * GRANULE, sums) == 2
    assert picture(again) == "#-#"


def test_lost_pages_are_not_recovered(cached, tmp_path):
    """As after a power failure: the checksums reached the disk, the bytes did not."""
    sums = sums_of(cached(300 * GRANULE), b"x" * 300 * GRANULE)
    os.truncate(tmp_path / "blob", 200 * GRANULE + 5)
    again = cached(300 * GRANULE)
    assert again.recover(0, 300 * GRANULE, sums) == 200
    assert picture(again) == "#" * 200 + "-" * 100


def test_recovery_needs_a_checksum_for_each_granule(cached):
    with pytest.raises(ValueError, match="a checksum for each granule"):
        cached(3 * GRANULE).recover(0, 3 * GRANULE, [1, 2])


# ---- what may stand in the file's place


def refusal(cached, path, size=GRANULE):
    with pytest.raises(errors.NativeError, match="/") as caught:
        cached(size, path)
    return caught.value.code


def test_folder_is_refused(cached, tmp_path):
    assert refusal(cached, tmp_path) == errno.EISDIR


def test_link_is_not_followed(cached, tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("precious")
    assert refusal(cached, tmp_path / "link") == errno.ELOOP
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_missing_folder_is_refused(cached, tmp_path):
    assert refusal(cached, tmp_path / "none" / "blob") == errno.ENOENT


def test_impossible_size_is_refused(cached, tmp_path):
    assert refusal(cached, tmp_path / "blob", 1 << 63) == errno.EFBIG


def test_fifo_does_not_make_it_wait(cached, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert refusal(cached, tmp_path / "fifo") == errno.EINVAL


@pytest.mark.parametrize("unit", [0, 2048, 12288])
def test_unit_must_be_a_power_of_two_of_granules(unit):
    with pytest.raises(errors.NativeError) as caught:
        cachefile.Misses(unit)
    assert caught.value.code == errno.EINVAL


# ---- beside the file: memory, and a whole copy


def test_without_a_file_nothing_is_taken_but_spills_are(cached):
    file = cached(2 * GRANULE, "")
    with pytest.raises(errors.NativeError) as caught:
        file.fill(filling(GRANULE), 0)
    assert caught.value.code == errno.ENOSPC
    file.spill(filling(GRANULE), 0)


def test_whole_copy_ends_all_gaps(cached, tmp_path):
    (tmp_path / "whole").write_bytes(b"w" * (2 * GRANULE + 3))
    file = cached(2 * GRANULE + 3)
    file.switch(str(tmp_path / "whole"))
    buffer = bytearray(2 * GRANULE + 3)
    assert file.next_gap(0) is None
    assert file.copy_into(buffer, 0) == len(buffer)
    assert buffer == b"w" * len(buffer)


def test_whole_copy_is_neither_filled_nor_evicted(cached, tmp_path):
    (tmp_path / "whole").write_bytes(b"w" * 2 * GRANULE)
    file = cached(2 * GRANULE)
    file.switch(str(tmp_path / "whole"))
    file.fill(filling(GRANULE), 0)
    file.spill(filling(GRANULE), 0)
    file.evict(0, 2 * GRANULE)
    assert (tmp_path / "whole").read_bytes() == b"w" * 2 * GRANULE


@pytest.mark.parametrize("size", [GRANULE - 1, GRANULE + 1])
def test_copy_of_another_size_is_refused(cached, tmp_path, size):
    (tmp_path / "whole").write_bytes(b"w" * size)
    file = cached(GRANULE)
    with pytest.raises(errors.NativeError, match="is no file of 4096 bytes"):
        file.switch(str(tmp_path / "whole"))
    assert picture(file) == "-"


def test_folder_is_no_copy(cached, tmp_path):
    with pytest.raises(errors.NativeError):
        cached(GRANULE).switch(str(tmp_path))


def parts_of(file, count):
    """present_in(), granule by granule."""
    marks, granules = picture(file), len(picture(file))
    bounds = [granules * part // count for part in range(count + 1)]
    return [marks[first:stop].count("#") for first, stop in zip(bounds, bounds[1:])]


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 64, 299, 300, 301, 1000])
def test_how_much_of_each_part_is_there(cached, rng, parts):
    file = cached(300 * GRANULE - 7)
    assert file.present() == 0
    for granule in rng.sample(range(299), 120):
        file.fill(filling(GRANULE), granule * GRANULE)
    assert file.present_in(parts) == parts_of(file, parts)
    assert file.present() == sum(file.present_in(parts)) == 120


def test_what_is_in_memory_counts_as_there(cached):
    file = cached(4 * GRANULE)
    file.fill(filling(GRANULE), 0)
    file.spill(filling(2 * GRANULE), 0)
    assert file.present_in(4) == [1, 1, 0, 0]


def test_all_of_a_whole_copy_is_there(cached, tmp_path):
    file = cached(3 * GRANULE)
    (tmp_path / "copy").write_bytes(bytes(3 * GRANULE))
    file.switch(str(tmp_path / "copy"))
    assert file.present_in(2) == [1, 2]


@pytest.mark.parametrize("parts", [0, 65537])
def test_no_parts_and_too_many_are_refused(cached, parts):
    with pytest.raises(errors.NativeError) as caught:
        cached(GRANULE).present_in(parts)
    assert caught.value.code == errno.EINVAL
