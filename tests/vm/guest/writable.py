# SPDX-License-Identifier: Apache-2.0
"""Writable layers in the guest: made and sealed with the installed core, written by the kernel."""
import json
import os
import pathlib
import re
import subprocess
import sys
import time

from guest import programs

PYTHON = "/opt/overlaybd/lib/python"
GiB = 1 << 30


def _core():
    if PYTHON not in sys.path:
        sys.path.insert(0, PYTHON)
    from overlaybd_tcmu.ffi import native

    return native


def tool(name, *arguments):
    """Runs an installed program of ours as the snapshotter does; it must succeed."""
    programs.output(f"/opt/overlaybd/bin/overlaybd-{name}", *map(str, arguments))


def paths(folder):
    return {"data": f"{folder}/writable_data", "index": f"{folder}/writable_index"}


def create(folder, size_gib, lowers=(), sparse=False):
    """New files and a config that names them; its path."""
    os.makedirs(folder, exist_ok=True)
    upper = paths(folder)
    _core().create_upper(upper["data"], upper["index"], size_gib * GiB, sparse)
    config = {"repoBlobUrl": "", "lowers": list(lowers), "upper": upper, "resultFile": ""}
    pathlib.Path(folder, "config.v1.json").write_text(json.dumps(config))
    return f"{folder}/config.v1.json"


def magic(folder):
    """The first bytes of the data file."""
    with open(paths(folder)["data"], "rb") as file:
        return file.read(24).hex()


def take_sealed(folder):
    """What the snapshotter does with the files of a layer that was sealed; where it lies then."""
    upper = paths(folder)
    os.makedirs(f"{folder}/fs", exist_ok=True)
    os.rename(upper["data"], f"{folder}/fs/overlaybd.sealed")
    os.unlink(upper["index"])
    return f"{folder}/fs/overlaybd.sealed"


def seal(folder):
    """Right after a detach: what --seal does; its config."""
    upper = paths(folder)
    with _core().Upper(upper["data"], upper["index"]) as layer:
        layer.seal()
    take_sealed(folder)
    config = {"repoBlobUrl": "", "lowers": [{"dir": f"{folder}/fs"}], "upper": {}, "resultFile": ""}
    pathlib.Path(folder, "sealed.json").write_text(json.dumps(config))
    return f"{folder}/sealed.json"


def used(folder):
    """Bytes that the data file takes."""
    return os.stat(paths(folder)["data"]).st_blocks * 512


def mkfs(disk):
    """As the snapshotter does for a first layer; how long it took."""
    options = "-O ^has_journal,sparse_super,flex_bg -G 1 -E discard -F".split()
    started = time.monotonic()
    subprocess.run(["mkfs", "-t", "ext4", "-q", *options, f"/dev/{disk}"], check=True)
    return time.monotonic() - started


def check(disk):
    """e2fsck without changing anything: its status, and what it said."""
    return programs.outcome("e2fsck", "-fn", f"/dev/{disk}")


def write_random(path, count):
    """A file of random bytes, synced."""
    with open(path, "wb") as file:
        file.write(os.urandom(count))
        file.flush()
        os.fsync(file.fileno())


def verify(path, size, seed, only=False):
    """fio writes blocks that carry their sums and reads them; only: just reads them."""
    command = ["fio", "--name=verify", f"--filename={path}", f"--size={size}", "--rw=randwrite"]
    command += ["--bsrange=4k-64k", "--ioengine=libaio", "--iodepth=16", "--direct=1", "--thread"]
    command += ["--verify=crc32c", "--verify_fatal=1", f"--randseed={seed}", "--fsync=32"]
    command += ["--verify_only"] if only else ["--do_verify=1"]
    done = programs.outcome(*command)
    return {**done, "output": done["output"][-2000:]}


def wait_written(disk, more, timeout_s=30):
    """Waits until so many more writes have been finished by the disk."""
    stat = pathlib.Path("/sys/block") / disk / "stat"
    wanted = int(stat.read_text().split()[4]) + more
    deadline = time.monotonic() + timeout_s
    while int(stat.read_text().split()[4]) < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{disk} writes nothing: {stat.read_text()}")
        time.sleep(0.002)


def write_until_full(disk, letter, piece=256 << 10, most=1 << 30):
    """Writes to the disk, around the page cache, until it refuses: bytes written, and the errno."""
    import mmap

    buffer = mmap.mmap(-1, piece)
    buffer.write(letter.encode() * piece)
    fd = os.open(f"/dev/{disk}", os.O_WRONLY | os.O_DIRECT)
    written = 0
    try:
        while written < most:
            written += os.pwrite(fd, buffer, written)
        return {"written": written, "errno": 0}
    except OSError as error:
        return {"written": written, "errno": error.errno}
    finally:
        os.close(fd)


def fill(place, first, size=1 << 20, most=1000):
    """Files numbered from first, each synced, until one is refused: how many, and the errno."""
    for number in range(first, first + most):
        try:
            with open(f"{place}/{number:03}", "wb", buffering=0) as file:
                file.write(bytes([number % 251]) * size)
                os.fsync(file.fileno())
        except OSError as error:
            return {"count": number - first, "errno": error.errno}
    return {"count": most, "errno": 0}


def filled(place, size=1 << 20):
    """Which of fill's files are there, all of them with their content."""
    found = []
    for path in sorted(pathlib.Path(place).glob("[0-9]*")):
        if path.read_bytes() == bytes([int(path.name) % 251]) * size:
            found.append(int(path.name))
    return found


def mend(disk):
    """e2fsck's status, which may correct what a full disk has left out."""
    command = ["e2fsck", "-fy", f"/dev/{disk}"]
    return subprocess.run(command, capture_output=True).returncode


def letters(disk, count, piece=256 << 10):
    """The letter each piece of the disk consists of, '?' for a mixture."""
    found = ""
    with open(f"/dev/{disk}", "rb", buffering=0) as file:
        for _ in range(count // piece):
            data = file.read(piece)
            whole = data.count(data[:1]) == len(data)
            found += ("-" if data[:1] == b"\0" else data[:1].decode()) if whole else "?"
    return found


def end_of(*files):
    """Behind which byte of their disk nothing of these files lies."""
    said = programs.output("filefrag", "-b1", "-v", *files)
    return 1 + max(int(end) for end in re.findall(r"^ *\d+: .*: *\d+\.\. *(\d+): ", said, re.M))
