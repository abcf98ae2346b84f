# SPDX-License-Identifier: Apache-2.0
"""overlaybd-cache, beside a running service and without one."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from overlaybd_tcmu.cache import control, folder
from overlaybd_tcmu.tools import cache

from ..native import lazy
from ..support.lazy_service import UNIT

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(lazily, capsys):
    """Runs it on the service's cache: (exit status, output, errors)."""

    def run(*arguments):
        status = cache.main(["--cache-dir", str(lazily.folder / "cache"), *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(params=["running", "stopped"])
def blob(request, server, lazily, disk):
    """Digest of a blob that is wholly in the cache; the service runs, or not."""
    digest = server.put(lazy.wrapped("raw", disk[1]))
    lazy.read_all(lazily.open(digest), disk[0])
    lazy.wait_for(lambda: lazily.used() >= len(server._blobs[digest]))
    if request.param == "stopped":
        lazily.stop()
    yield digest
    if request.param == "stopped":
        lazily.start()


def test_list(tool, blob, server):
    status, output, _ = tool("list")
    assert status == 0
    assert output.splitlines()[0].split() == [blob, "100%", "1.0", "MiB", "of", "1.0", "MiB"]
    assert output.splitlines()[1].startswith("1 blobs, ")


def test_list_for_programs(tool, blob, server):
    (one,) = json.loads(tool("list", "--json")[1])
    size = len(server._blobs[blob])
    assert (one["digest"], one["size"], one["present"]) == (blob, size, size)
    assert one["sources"] == [server.repo_url()] and not one["pinned"]


def test_part_of_a_blob_is_counted(tool, server, lazily, disk):
    digest = server.put(lazy.wrapped("lz4", disk[1]))
    lazily.open(digest)
    lazily.stop()
    (one,) = json.loads(tool("list", "--json")[1])
    assert 0 < one["present"] <= 4 * UNIT < one["size"]
    assert one["present"] % 4096 == one["size"] % 4096
    lazily.start()


def test_verify_what_is_right(tool, blob):
    assert tool("verify") == (0, f"{blob}  right\n", "")
    assert tool("verify", "--quiet", blob) == (0, "", "")


def damage(lazily, digest, offset=200000):
    with open(lazily.data_file(digest), "r+b") as file:
        file.seek(offset)
        file.write(b"\xa5\x5a")


def test_verify_finds_damage(tool, blob, lazily):
    damage(lazily, blob)
    assert tool("verify") == (1, f"{blob}  4096 bytes damaged\n", "")


def test_verify_finds_another_blob_under_the_digest(tool, server, lazily, disk):
    """Every checksum is right: the registry sent something else."""
    digest = server.put(lazy.wrapped("raw", disk[1]))
    content = bytearray(server._blobs[digest])
    content[300000] ^= 1
    server.replace(digest, bytes(content))
    image = lazily.open(digest)
    for offset in range(0, len(disk[0]), 1 << 18):
        image.pread(1 << 18, offset)
    lazy.wait_for(lambda: lazily.used() >= len(content))
    assert tool("verify")[0] == 1


def test_mending_evicts_what_is_damaged(tool, blob, lazily, server, disk):
    damage(lazily, blob)
    status, output, _ = tool("verify", "--mend")
    assert status == 0 and "1 evicted" in output
    assert all(not one["present"] for one in json.loads(tool("list", "--json")[1]))


def test_evict(tool, blob, lazily, server, disk):
    assert tool("evict", blob) == (0, "", "")
    assert all(one["present"] == 0 for one in json.loads(tool("list", "--json")[1]))


def test_evicting_all_leaves_what_is_pinned(tool, blob):
    tool("pin", blob)
    tool("evict", "--all")
    (one,) = json.loads(tool("list", "--json")[1])
    assert one["pinned"] and one["present"] == one["size"]
    tool("unpin", blob)
    tool("evict", "--all")
    assert all(not one["present"] for one in json.loads(tool("list", "--json")[1]))


def test_readers_go_on_after_an_eviction(tool, server, lazily, disk):
    digest = server.put(lazy.wrapped("lz4", disk[1]))
    image = lazily.open(digest)
    lazy.read_all(image, disk[0])
    tool("evict", digest)
    lazy.read_all(image, disk[0])


def test_pin_all_layers_of_an_image(tool, blob, tmp_path, lazily):
    document = {"repoBlobUrl": "http://r/v2/x/blobs", "lowers": [{"digest": blob}]}
    (tmp_path / "c.json").write_text(json.dumps(document))
    tool("pin", "--image", tmp_path / "c.json")
    assert folder.pinned_in(str(lazily.folder / "cache")) == {blob}


def test_folder_that_was_deleted_and_made_again(tool, server, lazily, disk):
    """Whoever keeps it is to be found in the new one."""
    lazily.open(server.put(lazy.wrapped("raw", disk[1])))
    lazy.remove_tree(lazily.folder / "cache")
    digest = server.put(lazy.wrapped("lz4", disk[1]))
    lazy.read_all(lazily.open(digest), disk[0])
    assert tool("pin", digest)[0] == 0
    assert lazily.cache.store.pinned() == {digest}


def test_how_much_of_an_image_is_local(tool, blob, tmp_path, server, disk):
    (tmp_path / "local").write_bytes(disk[1])
    lowers = [
        {"digest": blob},
        {"file": str(tmp_path / "local")},
        {"digest": "sha256:" + "0" * 64, "size": 4096},
    ]
    document = {"repoBlobUrl": "http://r/v2/x/blobs", "lowers": lowers}
    (tmp_path / "c.json").write_text(json.dumps(document))
    (report,) = json.loads(tool("image", "--json", tmp_path / "c.json")[1])
    size = len(server._blobs[blob])
    shares = [(one["present"], one["size"]) for one in report["layers"]]
    assert shares == [(size, size), (len(disk[1]), len(disk[1])), (0, 4096)]
    lines = tool("image", tmp_path / "c.json")[1].splitlines()
    assert len(lines) == 5 and lines[-1].split()[1] == "99%"


def test_no_cache_is_an_empty_one(tmp_path, capsys):
    assert cache.main(["--cache-dir", str(tmp_path / "none"), "list"]) == 0
    assert capsys.readouterr().out == "0 blobs, 0 B\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["evict", "x"], "x: is no digest"),
        (["pin", "sha256:../../etc"], "is no digest"),
        (["evict"], "which blobs?"),
        (["image", "/none.json"], "cannot be read"),
        (["pin", "--image", "/none.json"], "cannot be read"),
    ],
)
def test_wrong_arguments(tool, arguments, complaint):
    status, output, errors = tool(*arguments)
    assert (status, output) == (cache.EXIT_CONFIG, "")
    assert errors.startswith("overlaybd-cache: ") and complaint in errors


def test_unknown_digest_cannot_be_verified(tool):
    assert tool("verify", "sha256:" + "0" * 64)[0] == 1


def test_cache_of_a_program_that_does_not_answer(tool, lazily):
    os.unlink(lazily.folder / "cache" / "control")
    status, _, errors = tool("evict", "sha256:" + "0" * 64)
    assert status == cache.EXIT_FAILED
    assert "is kept by another program, which does not answer" in errors


def test_folder_comes_from_the_service_configuration(tmp_path, capsys):
    path = tmp_path / "overlaybd.json"
    path.write_text('{"cacheConfig": {"cacheType": "file", "cacheDir": "/none/x"}}')
    options = cache.parse_arguments(["--service-config", str(path), "list"])
    assert cache.cache_dir_of(options) == "/none/x"


def test_it_is_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "overlaybd_tcmu.tools.cache", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0
    assert "exit status:" in done.stdout


# ---- the socket


@pytest.mark.parametrize(
    "request_",
    [
        b"\n",
        b"x\n",
        b"{}\n",
        b"[]\n",
        b'{"command": 5}\n',
        b'{"command": "remove", "digests": 5}\n',
        b'{"command": "remove", "digests": ["../x"]}\n',
        b"[" * 100000 + b"\n",
    ],
)
def test_nonsense_is_answered(lazily, request_):
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(str(lazily.folder / "cache" / "control"))
        asker.sendall(request_)
        answer = b""
        while not answer.endswith(b"\n"):
            answer += asker.recv(4096)
        assert "error" in json.loads(answer)


def test_asker_that_goes_away_is_nobodys_trouble(lazily):
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as asker:
            asker.connect(str(lazily.folder / "cache" / "control"))
            asker.sendall(b'{"comm')
    assert control.ask(str(lazily.folder / "cache"), "pin", []) == []


def test_only_root_may_ask(lazily):
    assert os.stat(lazily.folder / "cache" / "control").st_mode & 0o777 == 0o600


def test_folder_with_a_long_name(make, tmp_path):
    path = tmp_path / ("x" * 200)
    path.mkdir()
    lazily = make(folder=path)
    assert control.ask(str(lazily.folder / "cache"), "pin", []) == []
