# SPDX-License-Identifier: Apache-2.0
"""
What an image costs: little beside its index while it works, nearly nothing once it rests. The core
keeps things for five seconds; here for a moment.
"""

import contextlib
import re
import time

import pytest

from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import commit, lsmt, zfile
from overlaybd_tcmu.units import KiB, MiB

from ..support import engines
from . import tcmu_device as scsi

PATIENCE_S = 60
SEGMENT = 16  # bytes of the merged index


@pytest.fixture
def layer(tmp_path, rng):
    data = rng.randbytes(scsi.MAPPED)
    scsi.write_layer(tmp_path / "layer", data)
    return tmp_path / "layer"


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setenv("OVERLAYBD_IDLE_MS", "50")


def becomes(value, wanted):
    until = time.monotonic() + PATIENCE_S
    while value() != wanted:
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def resident(pattern):
    """Bytes in memory of the mappings whose description matches, of this process."""
    with open("/proc/self/smaps", encoding="ascii", errors="replace") as file:
        text = file.read()
    sections = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE)
    found = [one for one in sections if re.search(pattern, one, flags=re.MULTILINE)]
    return sum(int(re.search(r"^Rss: +(\d+) kB", one, re.MULTILINE)[1]) * KiB for one in found)


def read_everything(device):
    for lba in range(0, scsi.BLOCKS, 64):
        scsi.good(device.ask(scsi.read_10(lba, 64), 64 * 512))


def test_helpers_end(layer, short):
    with native.Image([native.Layer.open(str(layer))], helpers=2) as image:

        def help_is_seen():
            """After a read; where we have to wait for a CPU it may have ended again already."""
            image.pread(scsi.SIZE, 0)
            return image.stats().threads > 0

        assert becomes(help_is_seen, True)
        assert becomes(lambda: image.stats().threads, 0)
        assert becomes(help_is_seen, True)  # new ones start


def test_mapped_pages_are_given_back(layer, monkeypatch):
    monkeypatch.setenv("OVERLAYBD_IN_PLACE", "always")
    monkeypatch.setenv("OVERLAYBD_IDLE_MS", "1000")  # longer than it takes to read everything
    with scsi.Device([layer]) as device:
        read_everything(device)
        assert device.image.stats().in_place > 0
        assert resident(re.escape(str(layer))) > 0
        assert becomes(lambda: resident(re.escape(str(layer))), 0)
        read_everything(device)


@pytest.mark.skipif(engines.SANITIZED, reason="the sanitizer's memory is not ours")
def test_memory_of_an_engine_is_given_back(layer, monkeypatch):
    monkeypatch.setenv("OVERLAYBD_IDLE_MS", "300")
    options = {"engine": native.Engine.LIBAIO}
    with scsi.Device([layer], image_options=options, data=16 * MiB) as device:
        if device.image.info().engine != native.Engine.LIBAIO:
            pytest.skip("no O_DIRECT here")
        read_much_at_once(device)  # Python's own memory grows now, and not again
        time.sleep(0.7)
        before = own_memory()
        read_much_at_once(device)
        assert own_memory() - before > MiB
        assert becomes(lambda: own_memory() - before < MiB // 4, True)
        read_much_at_once(device)


def read_much_at_once(device):
    """32 slots of the engine, 64 KiB each."""
    for number in range(32):
        device.kernel.queue(scsi.read_10(number * 32, 128), 64 * KiB)
    device.kernel.kick()
    assert all(scsi.good(answer) for answer in device.kernel.answers(32).values())


def own_memory():
    with open("/proc/self/status", encoding="ascii") as file:
        return int(re.search(r"^RssAnon:\s+(\d+) kB", file.read(), re.MULTILINE)[1]) * KiB


# ---- how much


def write_zfiles(folder, rng):
    """Layers of what decoders need most memory for: 64 KiB blocks, with either algorithm."""
    letters = [bytes([letter]) * 40 for letter in b"abcdefgh"]
    data = b"".join(rng.choice(letters) + rng.randbytes(24) for _ in range(2 * MiB // 64))
    sectors = len(data) // 512
    segments = [
        lsmt.Segment(at, 8, lsmt.FIRST_SECTOR + at, False) for at in range(0, sectors - 8, 16)
    ]
    plain = commit.assemble(
        data, commit.padded_index(segments), lsmt.Record(0, virtual_size=len(data))
    )
    for algo in (zfile.LZ4, zfile.ZSTD):
        path = folder / f"layer{algo}"
        path.write_bytes(zfile.encode(plain, algo, 64 * KiB))
        yield path


def index_of(image):
    return image.info().segments * SEGMENT


@pytest.mark.skipif(engines.SANITIZED, reason="the sanitizer's memory is not ours")
def test_image_takes_less_than_a_mebibyte_beside_its_index(tmp_path, rng):
    """While it reads all ways there are, its own thread and a helper together."""
    paths, count = list(write_zfiles(tmp_path, rng)), 40
    with contextlib.ExitStack() as stack:
        before, images = own_memory(), []
        for _ in range(count):
            layers = [native.Layer.open(str(path)) for path in paths]
            images.append(stack.enter_context(native.Image(layers, helpers=1)))
            exercise(images[-1])
        grown = own_memory() - before - sum(index_of(image) for image in images)
        assert all(image.stats().blocks_decoded > 0 for image in images)
    assert grown / count < MiB


def exercise(image):
    size = image.info().virtual_size
    image.pread(size, 0)
    for offset in range(0, size - 4 * KiB, 37 * KiB):
        image.pread(4 * KiB, offset)
