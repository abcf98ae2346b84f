# SPDX-License-Identifier: Apache-2.0
"""The programs write what the original's have written, byte for byte."""

import filecmp
import json

import pytest

from overlaybd_tcmu.formats import lsmt

from ..support import golden
from .conftest import piped


def uuids(number, letter="a"):
    uuid = f"{letter * 8}-0000-4000-8000-00000000000{{}}"
    options = ["--uuid", uuid.format(number)]
    return options if number == 0 else [*options, "-p", uuid.format(number - 1)]


def assert_golden(path, name):
    assert filecmp.cmp(path, golden.folder() / name, shallow=False), name


# ---- overlaybd-commit

FORMS = {
    "plain/layer{}.lsmt": [],
    "lz4-4k/layer{}.zfile": ["-z"],
    "zstd-4k/layer{}.zfile": ["-z", "--algorithm", "zstd"],
    "tar-lz4-4k/layer{}.tar": ["-z", "-t"],
}


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("target", FORMS)
def test_layer_is_committed_in_any_form(succeeds, tmp_path, number, target):
    layer = golden.folder() / "plain" / f"layer{number}.lsmt"
    succeeds("commit", "--commit_sealed", layer, "out", *uuids(number), *FORMS[target])
    assert_golden(tmp_path / "out", target.format(number))


@pytest.mark.parametrize("source", FORMS)
def test_layer_of_any_form_is_committed(succeeds, tmp_path, source):
    layer = golden.folder() / source.format(2)
    succeeds("commit", "--commit_sealed", layer, "out", *uuids(2))
    assert_golden(tmp_path / "out", "plain/layer2.lsmt")


@pytest.mark.parametrize("size, threads", [(8, 1), (16, 1), (16, 2), (16, 7), (32, 3)])
def test_other_block_sizes_on_any_number_of_threads(succeeds, tmp_path, size, threads):
    layer = golden.folder() / "plain" / "layer1.lsmt"
    options = ["-z", "--bs", size, "--compress_threads", threads, *uuids(1)]
    succeeds("commit", "--commit_sealed", layer, "out", *options)
    assert_golden(tmp_path / "out", f"other-bs/layer1.lz4-{size}k.zfile")


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("algorithm", ["lz4", "zstd"])
def test_blocks_of_64_kib(succeeds, tmp_path, number, algorithm):
    layer = golden.folder() / "c-plain" / f"layer{number}.lsmt"
    options = ["-z", "--bs", 64, "--algorithm", algorithm, *uuids(number, "c")]
    succeeds("commit", "--commit_sealed", layer, "out", *options)
    assert_golden(tmp_path / "out", f"c-{algorithm}-64k/layer{number}.zfile")


@pytest.mark.parametrize("algorithm", ["lz4", "zstd"])
def test_blocks_that_grow(succeeds, tmp_path, algorithm):
    layer = golden.folder() / "plain" / "layer0.lsmt"
    options = ["-z", "--bs", 64, "--algorithm", algorithm, *uuids(0)]
    succeeds("commit", "--commit_sealed", layer, "out", *options)
    assert_golden(tmp_path / "out", f"neg-64k-incompressible/layer0.{algorithm}-64k.zfile")


def test_message_and_no_uuid(succeeds, tmp_path):
    path = golden.folder() / "other-bs" / "layer1.nouuid-msg.lz4-4k.zfile"
    succeeds("zfile", "-x", path, "plain")
    header = lsmt.Record.parse((tmp_path / "plain").read_bytes()[: lsmt.RECORD_SIZE])
    options = ["-z", "-m", header.message.decode()]
    layer = golden.folder() / "plain" / "layer1.lsmt"
    parent = ["-p", header.parent_uuid or "00000000-0000-0000-0000-000000000000"]
    succeeds("commit", "--commit_sealed", layer, "out", *options, *parent)
    assert header.message and not header.uuid
    assert_golden(tmp_path / "out", "other-bs/layer1.nouuid-msg.lz4-4k.zfile")


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("kind", ["", "sparse."])
def test_writable_layer_is_committed(succeeds, rw, kind, target):
    files = [f"layer1.{kind}data", f"layer1.{kind}index", "out"]
    succeeds("commit", *files, *uuids(1), *FORMS[target])
    assert_golden(rw / "out", target.format(1))


def test_sealed_layer_is_committed(succeeds, rw):
    succeeds("commit", "--commit_sealed", "layer1.sealed", "out", "-z", "-t", *uuids(1))
    assert_golden(rw / "out", "tar-lz4-4k/layer1.tar")


def test_sealing_differs_only_where_the_original_leaves_rubbish(succeeds, rw):
    theirs = (rw / "layer1.sealed").read_bytes()
    succeeds("commit", "--seal", "layer1.data", "layer1.index")
    ours = (rw / "layer1.data").read_bytes()
    trailer = lsmt.Record.parse(ours[-lsmt.RECORD_SIZE :])
    end = trailer.index_offset + trailer.index_size * lsmt.ENTRY_SIZE
    padding = len(ours) - lsmt.RECORD_SIZE - end
    assert 0 < padding < 512
    assert ours[:end] == theirs[:end]
    assert ours[end:][:padding] == bytes(padding)
    assert ours[-lsmt.RECORD_SIZE :] == theirs[-lsmt.RECORD_SIZE :]


@pytest.mark.parametrize("kind", ["", "sparse."])
def test_what_was_sealed_is_committed(succeeds, rw, kind):
    succeeds("commit", "--seal", f"layer1.{kind}data", f"layer1.{kind}index")
    succeeds("commit", "--commit_sealed", f"layer1.{kind}data", "out", *uuids(1))
    assert_golden(rw / "out", "plain/layer1.lsmt")


# ---- overlaybd-merge


@pytest.fixture
def image(tmp_path):
    """Writes an image's configuration; its path."""

    def write(*layers, **more):
        path = tmp_path / "config.v1.json"
        lowers = [{"file": str(golden.folder() / layer)} for layer in layers]
        path.write_text(json.dumps({"lowers": lowers, **more}))
        return path

    return write


@pytest.mark.parametrize("form", FORMS)
def test_layers_are_merged(succeeds, image, tmp_path, form):
    succeeds("merge", image(*(form.format(number) for number in range(3))), "out")
    assert_golden(tmp_path / "out", "merged/merged.lz4-4k.zfile")


def test_merged_layer_may_stay_plain(succeeds, image, tmp_path):
    config = image(*(f"plain/layer{number}.lsmt" for number in range(3)))
    succeeds("merge", "--compress=false", config, "out")
    succeeds("zfile", "out", "compressed")
    assert_golden(tmp_path / "compressed", "merged/merged.lz4-4k.zfile")


def test_writable_layer_is_merged_too(succeeds, image, rw):
    files = {"data": str(rw / "layer1.data"), "index": str(rw / "layer1.index")}
    succeeds("merge", image("plain/layer0.lsmt", upper=files), "out")
    (rw / "merged.json").write_text(json.dumps({"lowers": [{"file": str(rw / "out")}]}))
    digest = succeeds("export", "--sha256", "merged.json").strip()
    assert digest == golden.view("plain/layer0.lsmt + plain/layer1.lsmt")["sha256"]


# ---- overlaybd-zfile


@pytest.mark.parametrize("algorithm, size", [("lz4", 4), ("zstd", 64)])
def test_file_is_compressed(succeeds, tmp_path, algorithm, size):
    source = golden.folder() / "tars" / "layer1.tar"
    succeeds("zfile", "--algorithm", algorithm, "--bs", size, source, "out")
    assert_golden(tmp_path / "out", f"zfile-tool/layer1.tar.{algorithm}-{size}k.zfile")


@pytest.mark.parametrize("algorithm, size", [("lz4", 4), ("zstd", 64)])
def test_what_comes_through_a_pipe_is_compressed(succeeds, tmp_path, algorithm, size):
    # The original makes a short block of a short read, and a wrong file of that.
    source = golden.folder() / "tars" / "layer1.tar"
    options = ["--algorithm", algorithm, "--bs", size]
    with piped(source.read_bytes(), 9904) as pipe:
        succeeds("zfile", *options, "out", stdin=pipe)
    assert_golden(tmp_path / "out", f"zfile-tool/layer1.tar.{algorithm}-{size}k.zfile")


@pytest.mark.parametrize("name", ["zstd-4k/layer0.zfile", "other-bs/layer1.lz4-32k.zfile"])
def test_zfile_is_extracted_and_compressed_again(succeeds, tmp_path, name):
    path = golden.folder() / name
    data = path.read_bytes()
    block_size, algorithm = int.from_bytes(data[72:76], "little"), {1: "lz4", 2: "zstd"}[data[76]]
    succeeds("zfile", "-x", path, "plain")
    succeeds("zfile", "--algorithm", algorithm, "--bs", block_size // 1024, "plain", "out")
    # Of what commit writes only the header says more.
    ours = (tmp_path / "out").read_bytes()
    assert ours[512:] == data[512:]
