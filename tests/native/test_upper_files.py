# SPDX-License-Identifier: Apache-2.0
"""
The files of writable layers: what is made, written, sealed, and refused. The oracle is
formats/writable.py.
"""

import errno
import os
import subprocess

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import stream, view, writable

from . import raw_layers
from . import upper_files as files

UUID = "0A1B2C3D-4E5F-4A6B-8C7D-0123456789AB"
PARENT = "aaaaaaaa-0000-4000-8000-00000000000f"


@pytest.fixture
def pair(tmp_path):
    """Paths of a pair that is not there yet."""
    return str(tmp_path / "data"), str(tmp_path / "index")


# ---- made


def test_new_pair_is_two_headers(pair):
    native.create_upper(*pair, files.SIZE, uuid=UUID, parent_uuid=PARENT)
    fields = {"virtual_size": files.SIZE, "uuid": UUID.encode(), "parent": PARENT.upper().encode()}
    assert files.content_of(pair[0]) == raw_layers.lsmt_record(3, **fields)
    assert files.content_of(pair[1]) == raw_layers.lsmt_record(
        1, index_offset=files.HEADER, **fields
    )


def test_new_sparse_pair_is_a_header_and_a_hole(pair):
    native.create_upper(*pair, files.SIZE, sparse=True, uuid=UUID)
    header = raw_layers.lsmt_record(19, virtual_size=files.SIZE, uuid=UUID.encode())
    assert files.content_of(pair[0]) == header + bytes(files.SIZE)
    assert os.stat(pair[0]).st_blocks * files.SECTOR <= 8192
    assert files.size(pair[1]) == 0


def test_uuid_is_random_unless_given(tmp_path):
    uuids = set()
    for number in range(4):
        pair = str(tmp_path / f"d{number}"), str(tmp_path / f"i{number}")
        native.create_upper(*pair, files.SIZE)
        data, index = (files.record_of(path) for path in pair)
        assert data.uuid == index.uuid and data.uuid[14] == "4" and data.uuid[19] in "89AB"
        uuids.add(data.uuid)
    assert len(uuids) == 4


def test_files_can_be_read_by_others_as_the_umask_says(pair):
    old = os.umask(0o027)
    try:
        native.create_upper(*pair, files.SIZE)
    finally:
        os.umask(old)
    assert [os.stat(path).st_mode & 0o777 for path in pair] == [0o640, 0o640]


@pytest.mark.parametrize("existing", [0, 1])
def test_existing_file_is_left_alone(pair, existing):
    with open(pair[existing], "wb") as file:
        file.write(b"precious")
    with pytest.raises(errors.NativeError) as caught:
        native.create_upper(*pair, files.SIZE)
    assert caught.value.code == errno.EEXIST and pair[existing] in str(caught.value)
    assert files.content_of(pair[existing]) == b"precious"
    assert os.listdir(os.path.dirname(pair[0])) == [os.path.basename(pair[existing])]


@pytest.mark.parametrize("sparse", [False, True])
def test_index_that_a_crash_has_left_alone_is_replaced(pair, sparse):
    native.create_upper(*pair, files.SIZE, sparse)
    os.unlink(pair[0])
    native.create_upper(*pair, files.SIZE, sparse)
    native.Upper(*pair).close()


def test_index_with_entries_is_not_taken_for_one(pair):
    files.written(pair, (b"x" * 512, 0))
    os.unlink(pair[0])
    with pytest.raises(errors.NativeError) as caught:
        native.create_upper(*pair, files.SIZE)
    assert caught.value.code == errno.EEXIST
    assert not os.path.exists(pair[0])


@pytest.mark.parametrize(
    "options, text",
    [
        ({"virtual_size": 100}, "virtual_size: 100 is not a multiple of 512"),
        ({"virtual_size": (1 << 59) + 512}, "is more than an index can address"),
        ({"uuid": "nonsense"}, "uuid: 'nonsense' is not one"),
        ({"parent_uuid": ""}, "parent_uuid: '' is not one"),
    ],
)
def test_wrong_options_make_nothing(pair, options, text):
    with pytest.raises(errors.NativeError, match=text) as caught:
        native.create_upper(*pair, **options)
    assert caught.value.code == errno.EINVAL
    assert os.listdir(os.path.dirname(pair[0])) == []


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(errors.NativeError) as caught:
        native.create_upper(str(tmp_path / "no" / "d"), str(tmp_path / "i"), files.SIZE)
    assert caught.value.code == errno.ENOENT
    assert os.listdir(tmp_path) == []


# ---- written


def test_what_is_written_reads_as_the_format_says(pair, rng):
    model = bytearray(files.SIZE)
    native.create_upper(*pair, files.SIZE)
    with native.Image([], upper=native.Upper(*pair)) as image:
        for _ in range(200):
            offset = rng.randrange(files.SIZE // files.SECTOR) * files.SECTOR
            data = rng.randbytes(min(files.SECTOR * rng.randrange(1, 40), files.SIZE - offset))
            image.pwrite(data, offset)
            model[offset : offset + len(data)] = data
    assert view.View([files.load(pair)]).pread(files.SIZE, 0) == model
    assert files.shown(pair) == model


def test_closed_index_file_ends_with_its_last_entry(pair):
    files.written(pair, (b"a" * 1024, 0), (b"b" * 512, 4096))
    assert files.size(pair[0]) == files.HEADER + 1536
    assert files.content_of(pair[1])[files.HEADER :] == raw_layers.entry(
        0, 2, 8
    ) + raw_layers.entry(8, 1, 10)


def test_header_keeps_its_fields_while_it_confirms(pair):
    native.create_upper(*pair, files.SIZE)
    before = files.content_of(pair[1])
    with native.Image([], upper=native.Upper(*pair)) as image:
        image.pwrite(b"x" * 512, 0)
        image.flush()
    assert files.content_of(pair[1])[:390] == before[:390]
    assert files.content_of(pair[1])[390:2048] == before[390:2048]


def test_size_is_inherited_and_stated(pair, tmp_path):
    lower = tmp_path / "lower"
    lower.write_bytes(raw_layers.lsmt(b"", b"", virtual_size=files.SIZE))
    native.create_upper(*pair)
    layers = [native.Layer.open(str(lower))]
    with native.Image(layers, upper=native.Upper(*pair)) as image:
        assert image.info().virtual_size == files.SIZE
    assert [files.record_of(path).virtual_size for path in pair] == [files.SIZE, files.SIZE]


def test_sparse_file_grows_with_the_size_it_inherits(pair, tmp_path):
    lower = tmp_path / "lower"
    lower.write_bytes(raw_layers.lsmt(b"", b"", virtual_size=files.SIZE))
    native.create_upper(*pair, sparse=True)
    native.Image([native.Layer.open(str(lower))], upper=native.Upper(*pair)).close()
    assert files.size(pair[0]) == files.HEADER + files.SIZE


def test_nobody_states_a_size(pair):
    native.create_upper(*pair)
    with native.Upper(*pair) as upper:
        with pytest.raises(errors.NativeError, match="virtual_size: no layer of the image"):
            native.Image([], upper=upper)


@pytest.mark.parametrize("number", [0, 1])
def test_size_that_a_crash_has_put_into_one_header(pair, number):
    """The index file's counts, if it has one; then both have it."""
    native.create_upper(*pair)
    files.patch(pair[number], 48, (files.SIZE).to_bytes(8, "little"))
    with native.Upper(*pair) as upper:
        assert upper.info().virtual_size == files.SIZE
    assert [files.record_of(path).virtual_size for path in pair] == [files.SIZE, files.SIZE]


@pytest.mark.parametrize("sparse", [False, True])
def test_resize(pair, sparse):
    native.create_upper(*pair, files.SIZE, sparse)
    before = [files.content_of(path) for path in pair]
    for changed in (2 * files.SIZE, files.SIZE):
        with native.Upper(*pair) as upper:
            upper.resize(changed)
            assert upper.info().virtual_size == changed
        assert files.record_of(pair[0]).virtual_size == changed
        assert files.size(pair[0]) == files.HEADER + (changed if sparse else 0)
    assert files.content_of(pair[0]) == before[0]
    assert files.content_of(pair[1])[:2048] == before[1][:2048]


# ---- one writer


def test_second_writer_is_refused(pair):
    native.create_upper(*pair, files.SIZE)
    with native.Upper(*pair):
        for read_only in (False, True):
            code, text = files.refusal(pair, read_only)
            assert code == errno.EBUSY and "is in use by another process" in text
    native.Upper(*pair).close()


def test_readers_share_and_keep_writers_out(pair):
    native.create_upper(*pair, files.SIZE)
    with native.Upper(*pair, read_only=True), native.Upper(*pair, read_only=True):
        assert files.refusal(pair)[0] == errno.EBUSY


# ---- sealed


@pytest.mark.parametrize("sparse", [False, True])
def test_sealed_layer_is_what_the_format_says(pair, rng, sparse):
    native.create_upper(*pair, files.SIZE, sparse, uuid=UUID, parent_uuid=PARENT)
    with native.Image([], upper=native.Upper(*pair)) as image:
        for _ in range(50):
            image.pwrite(rng.randbytes(4096), rng.randrange(files.SIZE // 4096) * 4096)
        image.discard(8192, 65536)
        content = image.pread(files.SIZE, 0)
    data = stream.Memory(files.content_of(pair[0]))
    expected = writable.seal(writable.load_sparse(pair[0], data) if sparse else files.load(pair))
    with native.Upper(*pair, exact=True) as upper:
        upper.seal()
    assert files.content_of(pair[0]) == expected
    with native.Image([native.Layer.open(pair[0])]) as image:
        assert image.pread(files.SIZE, 0) == content


def test_sealed_layer_says_who_it_is(pair):
    native.create_upper(*pair, files.SIZE, uuid=UUID, parent_uuid=PARENT)
    with native.Upper(*pair) as upper:
        upper.seal()
    with native.Layer.open(pair[0]) as opened:
        info = opened.info()
    assert (info.uuid, info.parent_uuid) == (UUID, PARENT.upper())
    assert (info.virtual_size, info.segments, info.sparse) == (files.SIZE, 0, 0)


def test_pair_that_was_sealed_is_still_a_pair(pair):
    """Between --seal and its being renamed a crash may leave both."""
    files.written(pair, (b"a" * 4096, 0))
    with native.Upper(*pair) as upper:
        upper.seal()
    with native.Image([], upper=native.Upper(*pair)) as image:
        image.pwrite(b"b" * 4096, 8192)
        assert image.pread(12288, 0) == b"a" * 4096 + bytes(4096) + b"b" * 4096
    assert files.shown(pair, count=12288) == b"a" * 4096 + bytes(4096) + b"b" * 4096


def test_open_for_reading_is_not_sealed(pair):
    native.create_upper(*pair, files.SIZE)
    with native.Upper(*pair, read_only=True) as upper:
        for change in (upper.seal, lambda: upper.resize(files.SIZE * 2)):
            with pytest.raises(errors.NativeError) as caught:
                change()
            assert caught.value.code == errno.EROFS


# ---- refused


@pytest.mark.parametrize(
    "number, change, text",
    [
        (0, lambda path: os.truncate(path, 4095), "the file is shorter than 4096 bytes"),
        (0, lambda path: files.patch(path, 0, b"x"), "no LSMT magic in the header at offset 0"),
        (0, lambda path: files.patch(path, 8, b"x"), "no LSMT magic in the header at offset 0"),
        (
            0,
            lambda path: files.patch(path, 28, b"\x02"),
            "are not those of a writable layer's data file",
        ),
        (
            0,
            lambda path: files.patch(path, 48, b"\1"),
            "LSMT virtual_size: 1048577 is not a multiple",
        ),
        (1, lambda path: os.truncate(path, 100), "the file is shorter than 4096 bytes"),
        (1, lambda path: files.patch(path, 0, b"x"), "no LSMT magic in the header at offset 0"),
        (
            1,
            lambda path: files.patch(path, 28, b"\0"),
            "are not those of a writable layer's index file",
        ),
        (
            1,
            lambda path: files.patch(path, 28, b"\3"),
            "are not those of a writable layer's index file",
        ),
        (
            1,
            lambda path: files.patch(path, 28, b"\5"),
            "are not those of a writable layer's index file",
        ),
        (
            1,
            lambda path: files.patch(path, 32, b"\1"),
            "LSMT index_offset: 4097, in an index file it is",
        ),
        (1, lambda path: os.truncate(path, 4096 + 16 * 128_000_001), "128000001 entries, at most"),
    ],
)
def test_wrong_headers_are_refused(pair, number, change, text):
    native.create_upper(*pair, files.SIZE)
    change(pair[number])
    code, message = files.refusal(pair)
    assert code in (errno.EINVAL, errno.EFBIG)
    assert message.startswith(pair[number]) and text in message


@pytest.mark.parametrize("number", [0, 1])
def test_lost_file(pair, number):
    native.create_upper(*pair, files.SIZE)
    os.unlink(pair[number])
    code, text = files.refusal(pair)
    assert code == errno.ENOENT and text.startswith(f"{pair[number]}: No such file or directory")


def test_pair_without_an_index_is_refused(pair):
    native.create_upper(*pair, files.SIZE)
    assert files.refusal((pair[0], ""))[0] == errno.EINVAL


def test_sparse_layer_needs_no_index(pair):
    native.create_upper(*pair, files.SIZE, sparse=True)
    native.Upper(pair[0], "").close()


def test_files_that_are_none(pair, tmp_path):
    subprocess.run(["mkfifo", tmp_path / "fifo"], check=True)
    for path in (str(tmp_path), str(tmp_path / "fifo"), "/dev/null"):
        with pytest.raises(errors.NativeError):
            native.Upper(path, path)
