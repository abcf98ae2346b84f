# SPDX-License-Identifier: Apache-2.0
"""
What the original's tools wrote, read by the core: every stack has the recorded digest, whatever the
engine.

A digest is of the whole disk, mostly zeros, and hashing a GiB takes half a second. So the program
is run for a few stacks; for all of them and each engine, what is mapped is read and hashed with its
places, and only the first disk of each kind is hashed from end to end. Of the 64 GiB ones what is
mapped is held against the plain model instead.
"""

import functools
import hashlib
import json
import pathlib
import subprocess
import sys

import pytest

from overlaybd_tcmu import errors, units
from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import layer, stream, view
from overlaybd_tcmu.image import config, opener

from ..support import engines, golden, native_test

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHUNK = 4 * units.MiB
PLAIN = [f"plain/layer{number}.lsmt" for number in range(3)]
ZFILES = {
    **{f"{kind}/layer{n}.zfile": PLAIN[n] for kind in ("lz4-4k", "zstd-4k") for n in range(3)},
    **{f"tar-lz4-4k/layer{n}.tar": PLAIN[n] for n in range(3)},
    **{
        f"{kind}/layer{n}.zfile": f"c-plain/layer{n}.lsmt"
        for kind in ("c-lz4-64k", "c-zstd-64k")
        for n in range(2)
    },
    **{f"other-bs/layer1.lz4-{size}k.zfile": PLAIN[1] for size in (8, 16, 32)},
    **{f"neg-64k-incompressible/layer0.{algo}-64k.zfile": PLAIN[0] for algo in ("lz4", "zstd")},
}


def stacks(folder, suffix, count):
    """A layer alone, two, three: the names that hashes.json has for them."""
    paths = [f"{folder}/layer{number}.{suffix}" for number in range(count)]
    return [" + ".join(paths[: height + 1]) for height in range(count)]


STACKS = [
    *stacks("plain", "lsmt", 3),
    *stacks("lz4-4k", "zfile", 3),
    *stacks("zstd-4k", "zfile", 3),
    *stacks("tar-lz4-4k", "tar", 3),
    *stacks("c-plain", "lsmt", 2),
    *stacks("c-lz4-64k", "zfile", 2),
    *stacks("c-zstd-64k", "zfile", 2),
    *(f"{PLAIN[0]} + other-bs/layer1.lz4-{size}k.zfile" for size in (8, 16, 32)),
    f"{PLAIN[0]} + other-bs/layer1.nouuid-msg.lz4-4k.zfile",
    "merged/merged.lz4-4k.zfile",
    "plain/layer1.lsmt (alone)",
    "plain/layer2.lsmt (alone)",
    "c-plain/layer1.lsmt (alone)",
    "neg-64k-incompressible/layer0.lz4-64k.zfile",
    "neg-64k-incompressible/layer0.zstd-64k.zfile",
]
HUGE = ["published/hello-world.overlaybd.tar", "published/ext4_64"]
CONFIGS = [
    ("plain", 0),
    ("lz4-4k", 1),
    ("zstd-4k", 2),
    ("tar-lz4-4k", 0),
    ("c-plain", 1),
    ("c-lz4-64k", 2),
    ("c-zstd-64k", 0),
]


def opened(paths, engine):
    """A stack as the daemon opens it."""
    lowers = [{"file": str(path)} for path in paths]
    return opener.open_image(config.parse("golden", {"lowers": lowers}), engine)


def ranges(disk):
    """[start, end) of everything mapped, of a native.Image or a view.View."""
    found, offset = [], 0
    while (mapped := disk.next_data(offset)) is not None:
        found.append(mapped)
        offset = mapped[1]
    return found


def chunks(start, end):
    return [(at, min(CHUNK, end - at)) for at in range(start, end, CHUNK)]


def disk_of(image):
    """Its size, and (offset, bytes) of all that is mapped."""
    parts = [
        (at, image.pread(count, at))
        for start, end in ranges(image)
        for at, count in chunks(start, end)
    ]
    return image.info().virtual_size, tuple(parts)


@functools.lru_cache(maxsize=None)
def whole_digest(size, parts):
    """Of the whole disk; the same content is hashed once."""
    digest, offset, zeros = hashlib.sha256(), 0, bytes(units.MiB)
    for start, data in (*parts, (size, b"")):
        for at in range(offset, start, len(zeros)):
            digest.update(zeros[: start - at])
        digest.update(data)
        offset = start + len(data)
    return digest.hexdigest()


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("engine", engines.ALL)
def test_stack_has_the_recorded_digest(name, engine):
    recorded = golden.view(name)
    with opened(golden.layers_of(name), engine) as image:
        assert image.info().virtual_size == recorded["vsize"]
        assert image.info().mapped == recorded["mapped_bytes"]
        assert whole_digest(*disk_of(image)) == recorded["sha256"]


@pytest.mark.parametrize("name, engine", CONFIGS)
def test_exporter_prints_the_recorded_digest(tmp_path, name, engine):
    text = (golden.folder() / "configs" / f"{name}.json").read_text()
    names = [lower["file"].replace("@GOLDEN@/", "") for lower in json.loads(text)["lowers"]]
    (tmp_path / "config.v1.json").write_text(text.replace("@GOLDEN@", str(golden.folder())))
    if native.Engine(engine) not in engines.ALL:
        engine = native.Engine.PSYNC
    command = [sys.executable, "-m", "overlaybd_tcmu.tools.export", "--sha256", "--engine"]
    arguments = [str(int(engine)), str(tmp_path / "config.v1.json")]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().strip() == golden.view(" + ".join(names))["sha256"]


@pytest.mark.parametrize("name", HUGE)
def test_published_layer_is_what_the_model_reads(name):
    """All that is mapped, half a GiB of it, and what lies around; a part under the sanitizers."""
    path = golden.folder() / name
    with stream.File(path) as file, opened([path], native.Engine.PSYNC) as image:
        disk = view.View([layer.load(file)])
        assert image.info().virtual_size == disk.size == golden.view(name)["vsize"]
        assert image.info().mapped == disk.mapped
        assert ranges(image) == ranges(disk)
        parts = [part for start, end in ranges(disk) for part in chunks(start, end)]
        for at, count in parts[:: 10 if engines.SANITIZED else 1]:
            assert image.pread(count, at) == disk.pread(count, at), at
        for _, end in ranges(disk):
            assert not any(image.pread(min(4096, disk.size - end), end))


# ---- layers


@pytest.mark.parametrize("name, held", ZFILES.items())
def test_zfile_streams_the_plain_layer(name, held):
    expected = (golden.folder() / held).read_bytes()
    with native.Layer.open(str(golden.folder() / name)) as one:
        assert one.info().stream_size == len(expected)
        assert native_test.layer_pread(one, len(expected), 0) == expected


def test_what_the_layers_say_of_themselves():
    with native.Layer.open(str(golden.folder() / "lz4-4k/layer2.zfile")) as one:
        assert one.info().uuid == "AAAAAAAA-0000-4000-8000-000000000002"
        assert one.info().parent_uuid == "AAAAAAAA-0000-4000-8000-000000000001"
    name = "other-bs/layer1.nouuid-msg.lz4-4k.zfile"
    with native.Layer.open(str(golden.folder() / name)) as one:
        assert (one.info().uuid, one.info().message) == ("", "golden commit message")


@pytest.mark.parametrize("kind", ["lz4-4k", "zstd-64k"])
def test_zfile_of_a_tar_is_no_layer(kind):
    path = golden.folder() / f"zfile-tool/layer1.tar.{kind}.zfile"
    with pytest.raises(errors.NativeError, match="no LSMT magic in the header at offset 0"):
        native.Layer.open(str(path))


@pytest.mark.parametrize("engine", engines.ALL)
def test_sealed_layer(tmp_path, engine):
    archive = golden.folder() / "rw/layer1.rw.tar.gz"
    subprocess.run(["tar", "-xzf", archive, "-C", tmp_path, "./layer1.sealed"], check=True)
    paths = [golden.folder() / PLAIN[0], tmp_path / "layer1.sealed"]
    with opened(paths, engine) as image:
        recorded = golden.view(" + ".join(PLAIN[:2]))["sha256"]
        assert whole_digest(*disk_of(image)) == recorded
