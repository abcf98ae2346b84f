# SPDX-License-Identifier: Apache-2.0
"""
Opening an image all of whose metadata is in the cache: no registry is asked for anything, and the
kernel for little. What another process asks the kernel for strace counts, where it is installed.
"""

import collections
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys

import pytest

from overlaybd_tcmu.image import config, opener

from ..native import lazy
from ..support.lazy_service import UNIT
from . import opened

LAYERS = 10
ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM_S = 100

# What a layer may take: its record and its data opened, their ends and indexes read, its size seen.
FILES_OPENED = 2
READS = 16
OTHERS = 10
# And the image: its config read, its result written.
ONCE = 60

READING = {"read", "pread64", "preadv", "preadv2"}
# Of threads, locks and memory, which come as the scheduler likes.
NOT_COUNTED = {
    *("futex", "sched_yield", "clone", "clone3", "rseq", "set_robust_list", "exit", "gettid"),
    *("rt_sigprocmask", "mmap", "munmap", "mprotect", "madvise", "brk", "restart_syscall"),
}
# Whoever opens an image has no business with these: with the network, with waiting for the disk.
NEVER = {
    *("socket", "connect", "sendto", "sendmsg", "recvfrom", "recvmsg", "bind"),
    *("fsync", "fdatasync", "sync_file_range", "rename", "unlink", "mkdir", "nanosleep"),
    *("clock_nanosleep", "execve", "fork", "vfork"),
}


@pytest.fixture
def image(server, tmp_path, seed):
    """(its config, that of another one); a registry with tokens has the layers of both."""
    rng = random.Random(seed)
    server.require_bearer(anonymous=True)

    def put(name, layers):
        blobs = [lazy.wrapped("lz4", lazy.stream_of(rng, 1024)[1]) for _ in range(layers)]
        lowers = [{"digest": server.put(one), "size": len(one)} for one in blobs]
        document = {"repoBlobUrl": server.repo_url(), "lowers": lowers, "upper": {}}
        document["resultFile"] = str(tmp_path / f"{name}.result")
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
        return str(tmp_path / f"{name}.json")

    return put("image", LAYERS), put("other", 1)


def requests(server):
    return server.requests("blob") + server.requests("token") + server.requests("store")


def open_once(lazily, path):
    def open_one(one: config.ImageConfig):
        return opener.open_image(one, remote=lazily.remote)

    opener.open_with_result(path, open_one).close()


def test_registry_is_asked_for_nothing(server, lazily, image):
    open_once(lazily, image[0])
    assert len(requests(server)) >= LAYERS
    server.clear()
    open_once(lazily, image[0])
    lazily.restart()
    open_once(lazily, image[0])
    assert requests(server) == []
    server.down()
    open_once(lazily, image[0])


def test_kernel_is_asked_for_little(server, tmp_path, image):
    if not shutil.which("strace"):
        pytest.skip("strace is not here and could not be installed")
    command = [sys.executable, "-m", opened.__name__, str(tmp_path / "cache"), str(UNIT), *image]
    subprocess.run(command, cwd=ROOT, check=True, timeout=PROGRAM_S)
    server.clear()
    log = tmp_path / "strace"
    traced = ["strace", "-f", "-qq", "-o", str(log), *command]
    done = subprocess.run(traced, cwd=ROOT, stderr=subprocess.PIPE, timeout=PROGRAM_S)
    if b"ptrace" in done.stderr:
        pytest.skip(f"strace may trace nothing here: {done.stderr.decode().strip()}")
    assert done.returncode == 0, done.stderr
    assert requests(server) == []
    calls = between_marks(log.read_text())
    print(f"{LAYERS} layers: {sum(calls.values())} system calls, {dict(calls.most_common())}")
    assert not set(calls) & NEVER
    reads = sum(calls[name] for name in READING)
    assert LAYERS <= reads <= READS * LAYERS + ONCE
    assert calls["openat"] <= FILES_OPENED * LAYERS + ONCE
    assert sum(calls.values()) <= (FILES_OPENED + READS + OTHERS) * LAYERS + ONCE


def between_marks(text):
    """How often each call was made while the image was opened."""
    start, end = text.index(opened.BEGIN), text.index(opened.END)
    names = re.findall(r"^\d+ +(\w+)\(", text[text.index("\n", start) : end], re.MULTILINE)
    return collections.Counter(name for name in names[:-1] if name not in NOT_COUNTED)
