# SPDX-License-Identifier: Apache-2.0
"""overlaybd-commit beside what golden files say: its words, its refusals, sealing twice."""

import errno
import os

import pytest

from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import layer, lsmt, stream, writable

from ..support import layers

DONE = "overlaybd-commit has committed files SUCCESSFULLY\n"


@pytest.fixture
def pair(tmp_path):
    """A writable layer with some writes and a discard, in data and index."""
    model = writable.Pair(1 << 20)
    model.write(layers.cluster("A", 0), 0)
    model.write(layers.cluster("B", 9), 9 * layers.CLUSTER)
    model.discard(layers.CLUSTER, 4 * layers.CLUSTER)
    model.write(layers.cluster("C", 0), 0)
    (tmp_path / "data").write_bytes(model.data)
    (tmp_path / "index").write_bytes(model.index)
    return tmp_path


def view_of(path):
    with native.Image([native.Layer.open(str(path))]) as image:
        return image.pread(image.info().virtual_size, 0)


def expected_view():
    parts = {0: layers.cluster("C", 0), 9: layers.cluster("B", 9)}
    return b"".join(parts.get(n, bytes(layers.CLUSTER)) for n in range((1 << 20) // 4096))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_committed_layer_shows_the_same(succeeds, pair):
    assert succeeds("commit", "data", "index", "out") == DONE
    assert view_of(pair / "out") == expected_view()
    assert names(pair) == ["data", "index", "out"]


def test_rewritten_data_is_left_behind(succeeds, pair):
    succeeds("commit", "data", "index", "out")
    # Two clusters of three, header, trailer, and the index padded to one.
    assert (pair / "out").stat().st_size == 5 * 4096


def test_inputs_stay_as_they_were(succeeds, pair):
    before = [(pair / name).read_bytes() for name in ("data", "index")]
    succeeds("commit", "data", "index", "out", "-z")
    assert [(pair / name).read_bytes() for name in ("data", "index")] == before


def test_inputs_need_not_be_writable(succeeds, pair):
    os.chmod(pair / "data", 0o444)
    os.chmod(pair / "index", 0o444)
    assert succeeds("commit", "data", "index", "out") == DONE


def test_progress_is_shown_on_a_terminal(tool, pair):
    ours, theirs = os.openpty()
    done = tool(
        "commit", "data", "index", "out", "-z", stderr=theirs, stdout=-1, capture_output=False
    )
    os.close(theirs)
    shown = os.read(ours, 1000)
    os.close(ours)
    assert (done.returncode, done.stdout) == (0, DONE)
    assert shown.startswith(b"\r100%  ") and shown.endswith(b"\n")


def test_existing_output_is_replaced_only_by_force(succeeds, fails, pair):
    (pair / "out").write_text("precious")
    line = fails(255, "commit", "data", "index", "out")
    assert line == "failed to open file 'out', 17: File exists"
    assert (pair / "out").read_text() == "precious"
    succeeds("commit", "-f", "data", "index", "out")
    assert view_of(pair / "out") == expected_view()


def test_device_is_never_replaced(fails, pair):
    os.symlink("/dev/null", pair / "out")
    assert "not a regular file" in fails(255, "commit", "-f", "data", "index", "out")


@pytest.mark.parametrize("missing", ["data", "index"])
def test_missing_input_is_named(fails, pair, missing):
    (pair / missing).unlink()
    line = fails(255, "commit", "data", "index", "out")
    assert missing in line and "No such file or directory" in line
    assert "out" not in names(pair)


def test_input_that_is_no_layer(fails, pair):
    (pair / "data").write_bytes(b"X" * 8192)
    assert "data: no LSMT magic" in fails(255, "commit", "data", "index", "out")
    assert "data" in fails(255, "commit", "--commit_sealed", "data", "out")
    assert names(pair) == ["data", "index"]


def test_failure_never_says_success(tool, pair):
    done = tool("commit", "data", "index", "none/out")
    assert (done.returncode, done.stdout) == (255, "")
    assert "failed to perform commit(), 2: none/out: No such file" in done.stderr


def test_layer_in_use_by_a_writer_is_refused(fails, pair):
    with native.Upper(str(pair / "data"), str(pair / "index")):
        line = fails(255, "commit", "data", "index", "out")
    assert os.strerror(errno.EBUSY) in line and names(pair) == ["data", "index"]


@pytest.mark.parametrize("option, value", [("--algorithm", "lzo"), ("--bs", "5"), ("--bs", "128")])
@pytest.mark.parametrize("mode", [[], ["-z"]])
def test_wrong_compression_is_refused(fails, pair, option, value, mode):
    line = fails(255, "commit", "data", "index", "out", option, value, *mode)
    assert line == f"invalid '{option}' parameters."
    assert names(pair) == ["data", "index"]


@pytest.mark.parametrize("options", [["--bs", "4"], ["--algorithm", "zstd"]])
def test_compression_without_effect_is_told(tool, pair, options):
    done = tool("commit", "data", "index", "out", *options)
    assert (done.returncode, done.stdout) == (0, DONE)
    text = "WARNING option '--bs' and '--algorithm' will be ignored without '-z'\n\n"
    assert done.stderr == text


def test_tar_without_effect_is_told(tool, pair):
    done = tool("commit", "data", "index", "out", "-t")
    assert (done.returncode, done.stdout) == (0, DONE)
    assert done.stderr == "WARNING option '-t' will be ignored without '-z'\n\n"
    assert view_of(pair / "out") == expected_view()


@pytest.mark.parametrize("option, field", [("--uuid", "uuid"), ("--parent-uuid", "parent_uuid")])
def test_uuid_that_is_none_is_ignored_aloud(tool, pair, option, field):
    done = tool("commit", "data", "index", "out", option, "0123" * 100)
    assert done.returncode == 0
    assert done.stderr.startswith(f"WARNING {option} '01230123")
    header = lsmt.Record.parse((pair / "out").read_bytes()[: lsmt.RECORD_SIZE])
    assert getattr(header, field) == ""


def test_message_of_every_length_but_too_long(succeeds, fails, pair):
    for size in (0, 1, 255, 256):
        succeeds("commit", "-f", "data", "index", "out", "-m", "m" * size)
        header = lsmt.Record.parse((pair / "out").read_bytes()[: lsmt.RECORD_SIZE])
        assert header.message == b"m" * size
    line = fails(255, "commit", "-f", "data", "index", "out", "-m", "m" * 257)
    assert line.startswith("failed to perform commit(), 105: ")
    assert "257 bytes, at most 256" in line


def test_parent_is_taken_over_and_uuid_is_not(succeeds, tmp_path):
    parent = "0123ABCD-4567-89AB-CDEF-0123456789AB"
    succeeds("create", "data", "index", "1", "-u", parent)
    succeeds("commit", "data", "index", "out")
    header = lsmt.Record.parse((tmp_path / "out").read_bytes()[: lsmt.RECORD_SIZE])
    assert (header.uuid, header.parent_uuid) == ("", parent)


def test_upload_is_refused_with_a_reason(fails, pair):
    line = fails(255, "commit", "data", "index", "out", "-z", "--upload", "http://host/x")
    assert "'--upload' is not supported yet" in line
    line = fails(255, "commit", "data", "index", "out", "-z", "-t", "--upload", "http://host/x")
    assert line == "unsupport option with '-t' and '--upload' at the same time."


def test_turbo_layer_is_refused_with_a_reason(fails, pair):
    line = fails(255, "commit", "data", "index", "out", "-z", "--fastoci")
    assert line == "turboOCI layers are not supported yet"


# ---- sealing


def test_sealed_layer_shows_the_same(succeeds, pair):
    assert succeeds("commit", "--seal", "data", "index") == DONE
    assert view_of(pair / "data") == expected_view()
    with stream.File(pair / "data") as file:
        assert layer.load(file).header.flags & lsmt.SEALED == 0


def test_sealing_twice_is_sealing_once(succeeds, pair):
    succeeds("commit", "--seal", "data", "index")
    sealed = (pair / "data").read_bytes()
    assert succeeds("commit", "--seal", "data", "index") == DONE
    (pair / "index").unlink()
    assert succeeds("commit", "--seal", "data", "index") == DONE
    assert (pair / "data").read_bytes() == sealed


def test_sparse_layer_is_sealed_without_its_index(succeeds, tmp_path):
    succeeds("create", "-s", "data", "index", "1")
    succeeds("commit", "--seal", "data")
    succeeds("commit", "--seal", "data", "index")
    with native.Layer.open(str(tmp_path / "data")) as sealed:
        assert (sealed.info().virtual_size, sealed.info().sparse) == (1 << 30, 1)


def test_data_that_looks_like_a_trailer_is_sealed(succeeds, tmp_path):
    # A disk may hold the files of other layers, up to its very end.
    inner = writable.Pair(1 << 20)
    inner.write(b"inside" * 2048, 0)
    outer = writable.Pair(1 << 20, "0123ABCD-4567-89AB-CDEF-0123456789AB")
    files = stream.Memory(bytes(inner.data)), stream.Memory(bytes(inner.index))
    content = writable.seal(writable.load_pair(*files))
    outer.write(content, 0)
    (tmp_path / "data").write_bytes(outer.data)
    (tmp_path / "index").write_bytes(outer.index)
    succeeds("commit", "--seal", "data", "index")
    assert view_of(tmp_path / "data")[: len(content)] == content


def test_committed_layer_is_not_sealed(fails, pair, succeeds):
    succeeds("commit", "data", "index", "out")
    before = (pair / "out").read_bytes()
    fails(255, "commit", "--seal", "out")
    assert (pair / "out").read_bytes() == before
