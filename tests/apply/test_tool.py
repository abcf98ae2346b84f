# SPDX-License-Identifier: Apache-2.0
"""overlaybd-apply as its callers see it: arguments, exit status, what it says where."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from overlaybd_tcmu.ffi import ext4, native
from overlaybd_tcmu.tools import apply
from overlaybd_tcmu.units import MiB

from . import archive, disk

DATA = archive.file(b"d/f", b"text" * 5000) + archive.END
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def layer(tmp_path):
    path = tmp_path / "layer.tar"
    path.write_bytes(DATA)
    return str(path)


@pytest.fixture
def config(tmp_path):
    """An image with nothing but an empty writable layer of 32 MiB."""
    files = {name: str(tmp_path / f"writable_{name}") for name in ("data", "index")}
    native.create_upper(files["data"], files["index"], 32 * MiB)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"repoBlobUrl": "", "lowers": [], "upper": files, "resultFile": ""}))
    return str(path)


@pytest.fixture
def run(capsys):
    """The program on these arguments: (exit status, stdout, stderr)."""

    def call(*arguments):
        try:
            status = apply.main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code
        return (status, *capsys.readouterr())

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_layer_onto_an_image(run, layer, config):
    assert run("--mkfs", layer, config) == (0, "overlaybd-apply done\n", "\n")
    assert run(layer, config) == (0, "overlaybd-apply done\n", "\n")


def test_layer_onto_a_plain_disk(run, layer, tmp_path):
    image = disk.Image(tmp_path / "disk")
    assert run("--raw", layer, image.path, "--mkfs")[0] == 0
    assert image.check().debugfs("cat d/f") == "text" * 5000


def test_checksum_is_repeated(run, layer, config):
    assert run("--mkfs", layer, config, "--checksum", DIGEST)[::2] == (0, DIGEST + "\n")


def test_checksum_that_differs_leaves_the_image_alone(run, layer, tmp_path):
    image = disk.Image(tmp_path / "disk").mkfs()
    before = image.path.read_bytes()
    status, out, err = run("--raw", layer, image.path, "--checksum", "sha256:" + "0" * 64)
    assert (status, out) == (255, "")
    assert "sha256 checksum mismatch, expect: " + "0" * 64 + f", got: {DIGEST[7:]}" in err
    assert image.path.read_bytes() == before


def test_checksum_of_a_pipe(tmp_path, run):
    image = disk.Image(tmp_path / "disk").mkfs()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for digest, expected in ((DIGEST, 0), ("sha256:" + "0" * 64, 255)):
        thread = threading.Thread(target=pipe.write_bytes, args=(DATA,))
        thread.start()
        assert run("--raw", pipe, image.path, "--checksum", digest)[0] == expected
        thread.join()


@pytest.mark.parametrize("text", ["sha256:12", "md5:" + "0" * 32, "0" * 64, "sha256:" + "g" * 64])
def test_checksum_that_is_none(run, layer, config, text):
    status, _, err = run(layer, config, "--checksum", text)
    assert status == 105 and "64 hexadecimal digits" in err


def test_failure_is_one_line_that_names_file_entry_and_place(run, tmp_path, config):
    bad = tmp_path / "bad.tar"
    bad.write_bytes(archive.file(b"good") + archive.hard(b"bad", b"none"))
    status, out, err = run("--mkfs", bad, config)
    assert (status, out) == (255, "")
    assert err == (
        f"overlaybd-apply: failed to extract {bad}: entry 'bad' at offset 512: "
        "the target of the hard link, 'none': No such file or directory\n"
    )


def test_warning_is_told(run, tmp_path, config):
    layer = tmp_path / "tar"
    entries = [
        archive.pax({b"SCHILY.xattr.os2.x": b"v"}) + archive.file(b"f%d" % i) for i in (1, 2)
    ]
    layer.write_bytes(b"".join(entries))
    status, _, err = run("--mkfs", layer, config)
    assert status == 0
    assert "WARNING f1: attribute os2.x is left out: no ext4 has such (and 1 more)" in err


@pytest.mark.parametrize(
    "arguments, status, reason",
    [
        ([], 106, "input is required"),
        (["{layer}"], 106, "image_config is required"),
        (["{layer}", "{config}", "more"], 109, "more"),
        (["--unknown", "{layer}", "{config}"], 109, "--unknown"),
        (["/none/layer.tar", "{config}"], 255, "/none/layer.tar"),
        (["{layer}", "/none/config.json"], 255, "/none/config.json"),
        (["--raw", "{layer}", "/none/disk"], 255, "/none/disk"),
        (["--raw", "{layer}", "/dev/null"], 255, "neither a regular file nor a block device"),
        (["{layer}", "{config}"], 255, "there is no ext4 on the disk"),
        (["--from_qcow2", "{layer}", "{config}"], 255, "--from_qcow2 is not supported"),
        (["--gz_index_path", "x", "{layer}", "{config}"], 255, "turboOCI"),
        (["--fstype", "erofs", "{layer}", "{config}"], 255, "--fstype erofs is not supported"),
    ],
)
def test_arguments_that_are_wrong(run, layer, config, arguments, status, reason):
    given = [argument.format(layer=layer, config=config) for argument in arguments]
    ended, out, err = run(*given)
    assert (ended, out) == (status, "")
    assert reason in err and err.count("\n") == 1


def test_image_without_a_writable_layer(run, layer, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"repoBlobUrl": "", "lowers": [{"file": layer}], "upper": {}}))
    status, _, err = run(layer, path)
    assert status == 255 and "upper: there is no writable layer to apply to" in err


def test_disk_without_a_size(run, layer, tmp_path):
    (tmp_path / "disk").touch()
    status, _, err = run("--raw", "--mkfs", layer, tmp_path / "disk")
    assert status == 255 and "mkfs failed, " in err and "size is zero" in err


def test_image_that_another_program_writes(run, layer, config):
    files = json.loads(pathlib.Path(config).read_text())["upper"]
    with native.Upper(files["data"], files["index"]):
        status, _, err = run("--mkfs", layer, config)
    assert status == 255 and "failed to open upper" in err


def test_service_config_that_is_named_must_be_there(run, layer, config, tmp_path):
    status, _, err = run("--service_config_path", "/none", "--mkfs", layer, config)
    assert status == 255 and "/none" in err
    service = tmp_path / "service.json"
    service.write_text("{}")
    assert run("--service_config_path", service, "--mkfs", layer, config)[0] == 0


def test_interrupt_leaves_a_file_system_that_is_whole(tmp_path):
    """Whoever feeds the pipe stops in the middle of an entry; Ctrl-C does not wait for more."""
    image = disk.Image(tmp_path / "disk").mkfs()
    program = [sys.executable, "-m", "overlaybd_tcmu.tools.apply", "--raw", "-", str(image.path)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(archive.file(b"first", bytes(4 * MiB)) + archive.header(b"f", size=MiB))
        process.stdin.flush()
        # More than a pipe holds: it is at work.
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b"overlaybd-apply: stopped\n"
    image.check()


def test_help_needs_no_library(monkeypatch, run):
    monkeypatch.setenv("OVERLAYBD_NATIVE", "/none/libobd.so")
    ext4.library.cache_clear()
    status, out, _ = run("--help")
    assert status == 0 and "--checksum" in out and "exit status:" in out
