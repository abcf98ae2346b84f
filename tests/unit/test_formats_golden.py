# SPDX-License-Identifier: Apache-2.0
"""
The plain readers and writers against what the original wrote: decoded and written again, every
file is the same, byte for byte.
"""

import functools
import hashlib
import subprocess

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.formats import commit, layer, lsmt, stream, tar, view, writable, zfile

from ..support import codecs, golden

HELLO = "published/hello-world.overlaybd.tar"
PLAIN = [f"plain/layer{number}.lsmt" for number in range(3)]
C_PLAIN = [f"c-plain/layer{number}.lsmt" for number in range(2)]
MERGED = "merged/merged.lz4-4k.zfile"
# Each with the layer that it holds.
ZFILES = {
    f"{folder}/{path.split('/')[1].replace('lsmt', 'zfile')}": path
    for folder, paths in [
        ("lz4-4k", PLAIN),
        ("zstd-4k", PLAIN),
        ("c-lz4-64k", C_PLAIN),
        ("c-zstd-64k", C_PLAIN),
    ]
    for path in paths
}
ZFILES.update({f"other-bs/layer1.lz4-{size}k.zfile": PLAIN[1] for size in (8, 16, 32)})
# The original writes these, and cannot read them.
ZFILES.update(
    {f"neg-64k-incompressible/layer0.{algo}-64k.zfile": PLAIN[0] for algo in ("lz4", "zstd")}
)
TARS = {f"tar-lz4-4k/layer{number}.tar": PLAIN[number] for number in range(3)}
WITH_MESSAGE = "other-bs/layer1.nouuid-msg.lz4-4k.zfile"
TOOLS = [f"zfile-tool/layer1.tar.{kind}.zfile" for kind in ("lz4-4k", "zstd-64k")]


def read(name):
    return (golden.folder() / name).read_bytes()


@functools.lru_cache(maxsize=None)
def unwrapped(name):
    """The LSMT stream in a file, or whatever its wrappers hold; decoded once for all tests."""
    return stream.Memory(stream.read(layer.unwrap(stream.Memory(read(name)))))


def opened(name):
    return lsmt.load(unwrapped(name))


def assert_commits_to(layers, expected):
    """expected: a layer, whose texts are taken over."""
    header = expected.header
    made = commit.commit(layers, header.uuid, header.parent_uuid, header.message)
    assert made == stream.read(expected.stream)


def test_golden_data_is_as_recorded():
    golden.folder()
    for name, recorded in golden.hashes()["files"].items():
        assert hashlib.sha256(read(name)).hexdigest() == recorded["sha256"], name


@pytest.mark.parametrize("name", [*ZFILES, *TARS, WITH_MESSAGE, MERGED, HELLO, *TOOLS])
def test_zfile_is_written_again(name):
    stored = tar.unwrap(stream.Memory(read(name))) or stream.Memory(read(name))
    record = zfile.ZFile(stored).record
    again = zfile.encode(
        stream.read(unwrapped(name)),
        record.algo,
        record.block_size,
        final=bool(record.flags & zfile.FINAL),
        compressor=codecs.compress,
    )
    assert again == stream.read(stored)


@pytest.mark.parametrize("name", [*TARS, HELLO])
def test_tar_is_written_again(name):
    payload = tar.unwrap(stream.Memory(read(name)))
    assert tar.wrap(stream.read(payload)) == read(name)


@pytest.mark.parametrize("name", [*PLAIN, *C_PLAIN, *ZFILES, *TARS, WITH_MESSAGE, HELLO])
def test_layer_is_committed_again(name):
    one = opened(name)
    assert_commits_to([one], one)


def test_merging_gives_the_merged_layer():
    assert_commits_to([opened(name) for name in PLAIN], opened(MERGED))


@pytest.mark.parametrize("name, held", [*ZFILES.items(), *TARS.items()])
def test_zfile_holds_the_plain_layer(name, held):
    assert stream.read(unwrapped(name)) == read(held)


def test_layer_committed_without_uuid_but_with_a_message():
    header = opened(WITH_MESSAGE).header
    # The parent is the writable layer's where none is given, the uuid is not.
    assert (header.uuid, header.parent_uuid[-1]) == ("", "0")
    assert header.message == b"golden commit message"


@pytest.mark.parametrize("name", TOOLS)
def test_zfile_of_the_tool_holds_the_tar(name):
    assert stream.read(unwrapped(name)) == read("tars/layer1.tar")
    with pytest.raises(errors.FormatError, match="no LSMT magic"):
        opened(name)


# ---- views


def whole_digest(disk):
    digest, offset, zeros = hashlib.sha256(), 0, bytes(1 << 20)
    while offset < disk.size:
        start, end = disk.next_data(offset) or (disk.size, disk.size)
        for at in range(offset, start, len(zeros)):
            digest.update(zeros[: start - at])
        digest.update(disk.pread(end - start, start))
        offset = end
    return digest.hexdigest()


@pytest.mark.parametrize("name", [" + ".join(PLAIN), C_PLAIN[0]])
def test_view_of_a_stack(name):
    recorded = golden.view(name)
    disk = view.View([opened(part) for part in name.split(" + ")])
    assert (disk.size, disk.mapped) == (recorded["vsize"], recorded["mapped_bytes"])
    assert whole_digest(disk) == recorded["sha256"]


def test_published_base_layer_with_garbage_in_its_records():
    one = layer.load(stream.Memory(read("published/ext4_64")))  # half a GiB: not all of it
    assert one.virtual_size == 64 << 30
    assert one.trailer.uuid == "C02FB491-B4D4-4904-8684-A014D032AF78"
    assert (one.trailer.index_offset, one.trailer.index_size) == (541798400, 8448)
    assert len(one.segments) == 8323
    assert one.segments[:2] == [lsmt.Segment(0, 8272, 8), lsmt.Segment(8272, 120, 8280, True)]
    assert sum(segment.length for segment in one.segments) * 512 == 64 << 30


def test_published_layer():
    one, recorded = opened(HELLO), golden.view(HELLO)
    assert one.virtual_size == recorded["vsize"]
    assert view.View([one]).mapped == recorded["mapped_bytes"]


# ---- writable layers


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rw")
    archive = golden.folder() / "rw" / "layer1.rw.tar.gz"
    subprocess.run(["tar", "-xSzf", archive, "-C", folder], check=True)
    return folder


@pytest.fixture
def pair(unpacked):
    parts = [unpacked / "layer1.data", unpacked / "layer1.index"]
    return writable.load_pair(*(stream.Memory(part.read_bytes()) for part in parts))


def test_pair_is_committed(pair):
    assert_commits_to([pair], opened(PLAIN[1]))


def test_sealed_layer_is_committed(unpacked):
    sealed = lsmt.load(stream.Memory((unpacked / "layer1.sealed").read_bytes()))
    assert_commits_to([sealed], opened(PLAIN[1]))


def test_pair_is_sealed(unpacked, pair):
    """All but the padding behind the index, where the original leaves what its memory held."""
    theirs, ours = (unpacked / "layer1.sealed").read_bytes(), writable.seal(pair)
    end = pair.stream.size + 16 * len(pair.segments)
    assert ours[:end] == theirs[:end]
    assert (len(ours), ours[-4096:]) == (len(theirs), theirs[-4096:])
    assert not any(ours[end:-4096])


def test_sparse_layer_says_the_same_of_the_disk(unpacked, pair):
    """What it has: the archive kept no difference between a hole and a block of zeros."""
    path = unpacked / "layer1.sparse.data"
    with stream.File(path) as file:
        sparse = view.View([writable.load_sparse(path, file)])
        disk, offset = view.View([pair]), 0
        while (found := disk.next_data(offset)) is not None:
            start, offset = found
            assert sparse.pread(offset - start, start) == disk.pread(offset - start, start)
        assert sparse.mapped > 0
