# SPDX-License-Identifier: Apache-2.0
"""
Damaged archives, and archives on damaged file systems: an error or success, never a crash; and a
file system that was whole stays so. Under the sanitizers this is where they earn their keep.
"""

import random
import shutil

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.units import KiB, MiB

from . import archive, disk, model, test_random, test_sparse

ROUNDS = 150


@pytest.fixture(scope="module")
def corpus(seed):
    """Archives with something of everything."""
    rng = random.Random(f"{seed} corpus")
    found = [
        test_sparse.old_gnu(),
        test_sparse.pax_00(),
        test_sparse.pax_01(),
        test_sparse.pax_10(),
    ]
    found = [data + archive.pad(test_sparse.DATA) + archive.END for data in found]
    for _ in range(6):
        layer = test_random.Layer(rng, model.Tree())
        for _ in range(15):
            try:
                layer.add()
            except model.Refused:
                pass
        found.append(layer.data + archive.END)
    return found


def mended(data, at):
    """The block around at gets a checksum that fits: the damage is read, not refused at once."""
    start = at // 512 * 512
    block = bytes(data[start : start + 512]).ljust(512, b"\0")
    data[start + 148 : start + 156] = b"%06o\0 " % archive.checksum(block)


def damage(rng, data):
    """A few bytes, blocks or lengths are not what they were."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        way = rng.random()
        if way < 0.4:
            data[at] = rng.choice([0, 0xFF, 0x80, ord("0"), ord("9"), ord("/"), rng.randrange(256)])
            mended(data, at)
        elif way < 0.6:
            start = at // 512 * 512 + rng.choice([100, 108, 116, 124, 136, 329, 337, 483])
            data[start : start + 8] = rng.choice(
                [b"\xff" * 8, b"77777777", b"\x80" + bytes(7), bytes(8)]
            )
            mended(data, at)
        elif way < 0.8:
            to = rng.randrange(len(data)) // 512 * 512
            data[to : to + 512] = data[at // 512 * 512 :][:512]
        elif way < 0.9:
            del data[at // 512 * 512 :][: 512 * rng.randint(1, 3)]
        else:
            del data[at:]
            break
        data = data or bytearray(512)
    return bytes(data)


def test_damaged_archives(tmp_path, rng, corpus):
    image = disk.Image(tmp_path / "disk", 4 * MiB).mkfs()
    for number in range(ROUNDS):
        try:
            image.apply(damage(rng, rng.choice(corpus)))
        except errors.NativeError as error:
            assert "\n" not in str(error)
        if number % 10 == 9:
            image.check()
            image.apply(archive.opaque(b""))
    image.check()


def test_random_bytes(tmp_path, rng):
    image = disk.Image(tmp_path / "disk", 4 * MiB).mkfs()
    for _ in range(50):
        blocks = [bytearray(rng.randbytes(512)) for _ in range(rng.randint(1, 8))]
        for block in blocks:
            mended(block, 0)
        with pytest.raises(errors.NativeError):
            image.apply(b"".join(blocks))
    image.check()


def test_damaged_file_systems(tmp_path, rng, corpus):
    """Bytes of its first MiB are wrong: bitmaps, inodes, directories, trees of extents."""
    whole = disk.Image(tmp_path / "whole", 4 * MiB).mkfs()
    for data in corpus:
        try:
            whole.apply(data)
        except errors.NativeError:
            pass
    entries = archive.many(archive.hard(b"", b"one"), (b"big/" + b"%d" % i * 8 for i in range(500)))
    whole.apply(archive.file(b"one") + b"".join(entries))
    image = disk.Image(tmp_path / "disk", 4 * MiB)
    for _ in range(ROUNDS):
        shutil.copy(whole.path, image.path)
        with open(image.path, "r+b") as file:
            for _ in range(rng.randint(1, 20)):
                file.seek(
                    rng.choice([rng.randrange(4 * KiB, 4 * MiB), rng.randrange(4 * KiB, MiB)])
                )
                file.write(rng.randbytes(rng.randint(1, 8)))
        try:
            image.apply(rng.choice(corpus))
            image.apply(archive.opaque(b"") + archive.file(b"big/new"))
        except errors.NativeError as error:
            assert "\n" not in str(error)
