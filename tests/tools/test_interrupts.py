# SPDX-License-Identifier: Apache-2.0
"""
A registry falls silent, while layers are opened or in the middle of one: whoever presses Ctrl-C is
not kept waiting, and what was there before is there still.
"""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.units import GiB, KiB, MiB

from ..apply import archive
from ..support import fault_registry
from .conftest import ROOT

# A program whose layers need not open within half a minute: it would wait for longer than we do.
PROGRAM = """
import sys
from overlaybd_tcmu.cache import service
from overlaybd_tcmu.tools import {0}
service.OPEN_S = 3600.0
sys.exit({0}.main())
"""
PATIENCE_S = 90


@pytest.fixture
def server():
    with fault_registry.FaultRegistry() as one:
        yield one


def run(folder, program, *arguments):
    command = [sys.executable, "-m", f"overlaybd_tcmu.tools.{program}", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def blob(tmp_path_factory):
    """A layer with an ext4, a file of which is in its middle."""
    folder = tmp_path_factory.mktemp("made")
    run(folder, "create", "--mkfs", "data", "index", "1")
    upper = {"data": str(folder / "data"), "index": str(folder / "index")}
    (folder / "config.json").write_text(json.dumps({"lowers": [], "upper": upper}))
    content = bytes(range(256)) * 64 * KiB
    (folder / "tar").write_bytes(archive.file(b"file", content) + archive.END)
    run(folder, "apply", "tar", "config.json")
    run(folder, "commit", "data", "index", "blob")
    return (folder / "blob").read_bytes()


@pytest.fixture
def image(server, blob, tmp_path):
    """The folder of an image whose lower layer only a registry has."""
    pair = {"data": str(tmp_path / "data"), "index": str(tmp_path / "index")}
    native.create_upper(pair["data"], pair["index"], GiB)
    config = {"lowers": [{"digest": server.put(blob)}], "repoBlobUrl": server.repo_url()}
    (tmp_path / "config.json").write_text(json.dumps({**config, "upper": pair}))
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache"), "refillSize": 65536}
    service = {"cacheConfig": cache, "credentialConfig": {"mode": "file"}}
    (tmp_path / "service.json").write_text(json.dumps(service))
    (tmp_path / "tar").write_bytes(archive.file(b"another", b"") + archive.END)
    return tmp_path


COMMANDS = {
    "merge": ["--service_config_path", "service.json", "config.json", "out"],
    "export": ["--service-config", "service.json", "config.json", "out"],
    "resize": ["--service_config_path", "service.json", "--config", "config.json", "--size", "2"],
    "apply": ["--service_config_path", "service.json", "tar", "config.json"],
}


def anything(_request):
    return True


def in_the_middle(request):
    """Behind what opening the layer takes: the blob begins with the file system's first blocks."""
    return request.range is not None and 4 * MiB <= request.range[0] < 12 * MiB


def silent_while(server, image, program, match, how):
    """Exit status and stderr of who is interrupted while the registry says nothing."""
    asked, never = threading.Event(), threading.Event()

    def noted(request):
        wanted = match(request)
        if wanted:
            asked.set()
        return wanted

    server.fault(times=None, match=noted, hold=never)
    command = [sys.executable, "-c", PROGRAM.format(program), *COMMANDS[program]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=image, env=environment, stderr=subprocess.PIPE)
    try:
        assert asked.wait(PATIENCE_S)
        process.send_signal(how)
        said = process.communicate(timeout=PATIENCE_S)[1]
    finally:
        never.set()
        process.kill()
        process.wait()
    return process.returncode, said.decode()


def content_of(folder):
    """Of all files but the index, whose header says who has opened it."""
    return {
        path.name: path.read_bytes() if path.name != "index" else b""
        for path in folder.iterdir()
        if path.is_file()
    }


@pytest.mark.parametrize(
    "program, match, how",
    [
        ("merge", anything, signal.SIGINT),
        ("apply", anything, signal.SIGTERM),
        ("resize", anything, signal.SIGTERM),
        ("export", in_the_middle, signal.SIGTERM),
        ("resize", in_the_middle, signal.SIGINT),
    ],
)
def test_interrupt_while_the_registry_is_silent(server, image, program, match, how):
    before = content_of(image)
    status, said = silent_while(server, image, program, match, how)
    assert (status, said) == (130, f"overlaybd-{program}: stopped\n")
    assert content_of(image) == before
