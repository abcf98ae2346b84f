# SPDX-License-Identifier: Apache-2.0
"""overlaybd-export as a program: the right bytes for every engine, one line for every failure."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from overlaybd_tcmu import units
from overlaybd_tcmu.tools import export

from ..support import engines, layers

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMEOUT_S = 60


def run(*arguments, **options):
    command = [sys.executable, "-m", "overlaybd_tcmu.tools.export", *map(str, arguments)]
    options = {"capture_output": True, "timeout": TIMEOUT_S, "cwd": ROOT, **options}
    return subprocess.run(command, check=False, **options)


def assert_fails(done, status, complaint):
    assert done.returncode == status
    assert done.stdout == b""
    message = done.stderr.decode()
    assert message.startswith("overlaybd-export: ")
    assert complaint in message
    assert message.count("\n") == 1


@pytest.fixture
def image(tmp_path):
    """Writes an image of layers given as pictures, the lowest first; its config's path."""

    def write(*pictures):
        lowers = []
        for number, picture in enumerate(pictures):
            layers.write_picture(tmp_path / f"layer{number}", picture)
            lowers.append({"file": str(tmp_path / f"layer{number}")})
        path = tmp_path / "config.v1.json"
        path.write_text(json.dumps({"lowers": lowers, "resultFile": str(tmp_path / "result")}))
        return path

    return write


def view_of(picture):
    return layers.view(picture)


@pytest.mark.parametrize("engine", engines.ALL)
def test_view_is_written_whatever_the_engine(image, tmp_path, engine):
    config = image("AA--A-", "-B0--C")
    done = run(config, tmp_path / "out", "--engine", int(engine))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "out").read_bytes() == view_of("AB0-AC")


@pytest.mark.parametrize("engine", engines.ALL)
def test_digest_is_of_the_whole_view_whatever_the_engine(image, engine):
    config = image("AA--A-", "-B0--C")
    done = run("--sha256", config, "--engine", int(engine))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == hashlib.sha256(view_of("AB0-AC")).hexdigest() + "\n"


def test_standard_output_gets_every_byte(image):
    done = run(image("-A--B---"), "-")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == view_of("-A--B---")


def test_digest_instead_of_the_view_on_standard_output(image):
    done = run(image("-A-"), "-", "--sha256")
    assert done.stdout.decode() == hashlib.sha256(view_of("-A-")).hexdigest() + "\n"


def test_digest_beside_a_file(image, tmp_path):
    done = run("--sha256", image("-A-"), tmp_path / "out")
    assert done.stdout.decode() == hashlib.sha256(view_of("-A-")).hexdigest() + "\n"
    assert (tmp_path / "out").read_bytes() == view_of("-A-")


def test_holes_take_no_space(image, tmp_path):
    count = 8 * units.MiB // layers.CLUSTER
    config = image("A" + "-" * (count - 2) + "B")
    assert run(config, tmp_path / "out").returncode == 0
    status = os.stat(tmp_path / "out")
    assert status.st_size == 8 * units.MiB
    assert status.st_blocks * 512 <= units.MiB


def test_image_of_nothing_but_holes(image):
    done = run("--sha256", image("----"))
    assert done.stdout.decode() == hashlib.sha256(view_of("----")).hexdigest() + "\n"


def test_result_file_is_the_daemons_alone(image, tmp_path):
    assert run("--sha256", image("A")).returncode == 0
    assert not (tmp_path / "result").exists()


def test_existing_file_is_replaced_only_by_force(image, tmp_path):
    config = image("AB")
    (tmp_path / "out").write_text("precious")
    done = run(config, tmp_path / "out")
    assert_fails(done, export.EXIT_CONFIG, "out: exists; --force replaces it")
    assert (tmp_path / "out").read_text() == "precious"
    assert run(config, tmp_path / "out", "--force").returncode == 0
    assert (tmp_path / "out").read_bytes() == view_of("AB")


def test_device_node_is_never_replaced(image):
    done = run(image("A"), "/dev/null", "--force")
    assert_fails(done, export.EXIT_CONFIG, "/dev/null: is not a regular file")


def test_failed_read_leaves_no_file(image, tmp_path):
    config = image("ABCDEFGH")
    layers.damage_data(tmp_path / "layer0")
    done = run(config, tmp_path / "out")
    assert_fails(done, export.EXIT_FAILED, "layer0")
    assert sorted(os.listdir(tmp_path)) == ["config.v1.json", "layer0"]


def test_folder_that_is_missing(image, tmp_path):
    done = run(image("A"), tmp_path / "none" / "out")
    assert_fails(done, export.EXIT_FAILED, "No such file or directory")


@pytest.mark.parametrize(
    "document, status, complaint",
    [
        ({"lowers": 1}, export.EXIT_CONFIG, "lowers: must be an array"),
        ({}, export.EXIT_CONFIG, "lowers: no layers"),
        ({"lowers": [{"file": "/none"}]}, export.EXIT_FAILED, "empty repoBlobUrl"),
        ({"lowers": [{"file": __file__}]}, export.EXIT_FAILED, "failed to open layer 0: "),
    ],
)
def test_image_that_cannot_be_opened(tmp_path, document, status, complaint):
    (tmp_path / "c.json").write_text(json.dumps(document))
    assert_fails(run("--sha256", tmp_path / "c.json"), status, complaint)


def test_missing_image_configuration_is_named(tmp_path):
    done = run("--sha256", tmp_path / "none.json")
    assert_fails(done, export.EXIT_CONFIG, "none.json: cannot be read: No such file")


@pytest.mark.parametrize("arguments", [[], ["c.json"], ["c.json", "o", "--engine", "3"]])
def test_wrong_arguments(arguments):
    done = run(*arguments)
    assert done.returncode == export.EXIT_CONFIG
    assert done.stderr.startswith(b"usage: overlaybd-export")


def test_help_documents_every_exit_status():
    done = run("--help")
    assert done.returncode == 0
    for status in range(export.EXIT_OK, export.EXIT_CONFIG + 1):
        assert f"\n  {status}  ".encode() in done.stdout


def test_named_service_configuration_must_be_right(image, tmp_path):
    service = tmp_path / "overlaybd.json"
    service.write_text('{"ioEngine": 3}')
    done = run("--sha256", image("A"), "--service-config", service)
    assert_fails(done, export.EXIT_CONFIG, "ioEngine: must be one of 0, 1, 2, not 3")
    done = run("--sha256", image("A"), "--service-config", tmp_path / "none")
    assert_fails(done, export.EXIT_CONFIG, "none: cannot be read")


def test_engine_comes_from_the_service_configuration(tmp_path):
    service = tmp_path / "overlaybd.json"
    service.write_text('{"ioEngine": 2}')
    arguments = ["c.json", "o", "--service-config", str(service)]
    assert export.service_of(export.parse_arguments(arguments)).io_engine == 2
    assert export.service_of(export.parse_arguments([*arguments, "--engine", "1"])).io_engine == 1


def test_missing_default_service_configuration_is_no_failure(monkeypatch):
    monkeypatch.setattr(export.config, "DEFAULT_PATH", "/none/overlaybd.json")
    assert export.service_of(export.parse_arguments(["c.json", "o"])).io_engine == 0


def test_reader_that_goes_away_ends_it_in_silence(image):
    config = image("A" * (4 * units.MiB // layers.CLUSTER))
    reader, writer = os.pipe()
    os.close(reader)
    done = run(config, "-", stdout=writer, capture_output=False, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (export.EXIT_FAILED, b"")


def test_progress_is_shown_on_a_terminal(image, tmp_path):
    ours, theirs = os.openpty()
    done = run(image("AB"), tmp_path / "out", stderr=theirs, capture_output=False)
    os.close(theirs)
    shown = os.read(ours, 1000)
    os.close(ours)
    assert done.returncode == 0
    assert shown.startswith(b"\r100%  ") and shown.endswith(b"\n")
