# SPDX-License-Identifier: Apache-2.0
"""Mounts as the snapshotter makes them, and what is in them."""
import ctypes
import hashlib
import os
import stat
import time

MOUNT_TRIES = 50
MOUNT_PAUSE_S = 0.01
MS_RDONLY = 1
CHUNK_BYTES = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)

_KINDS = (
    (stat.S_ISREG, "f"),
    (stat.S_ISDIR, "d"),
    (stat.S_ISLNK, "l"),
    (stat.S_ISBLK, "b"),
    (stat.S_ISCHR, "c"),
    (stat.S_ISFIFO, "p"),
    (stat.S_ISSOCK, "s"),
)


def mount(disk, place, read_only=True, options="discard"):
    """mount(2) of an ext4 disk: 50 tries, 10 ms apart, then the last error."""
    os.makedirs(place, exist_ok=True)
    flags = MS_RDONLY if read_only else 0
    for attempt in range(MOUNT_TRIES):
        arguments = (
            f"/dev/{disk}".encode(),
            place.encode(),
            b"ext4",
            flags,
            options.encode(),
        )
        if _libc.mount(*arguments) == 0:
            return
        if attempt < MOUNT_TRIES - 1:
            time.sleep(MOUNT_PAUSE_S)
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), f"/dev/{disk}")


def unmount(place):
    if _libc.umount2(place.encode(), 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), place)


def mounted(under="/mnt"):
    """Mount points below a folder, the deepest first."""
    with open("/proc/self/mounts") as lines:
        places = [line.split()[1] for line in lines]
    return sorted((place for place in places if place.startswith(under + "/")), reverse=True)


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def manifest(place):
    """
    The tree as lines: path, type, mode, uid, gid, size, nlink, link target if a link, sha256 if a
    file.
    """
    lines = []
    for folder, folders, files in os.walk(place):
        folders.sort()
        for name in folders + files:
            path = os.path.join(folder, name)
            lines.append(_describe(path, os.path.relpath(path, place)))
    return sorted(lines)


def _describe(path, shown):
    info = os.lstat(path)
    kind = next(letter for test, letter in _KINDS if test(info.st_mode))
    mode = format(stat.S_IMODE(info.st_mode), "o")
    fields = [shown, kind, mode, info.st_uid, info.st_gid, info.st_size, info.st_nlink]
    if kind == "l":
        fields.append(os.readlink(path))
    fields.append(_sha256(path) if kind == "f" else "-")
    return "\t".join(str(field) for field in fields)


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while True:
            data = file.read(CHUNK_BYTES)
            if not data:
                return digest.hexdigest()
            digest.update(data)


def digest(path):
    """sha256 of a file."""
    return _sha256(path)


def digests(place):
    """Path to sha256 of every regular file in a folder; a FIFO would keep its reader for ever."""
    found = {}
    for folder, _, names in os.walk(place):
        for name in names:
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                found[os.path.relpath(path, place)] = _sha256(path)
    return found


def difference(place, expected):
    """
    Lines of the tree that expected lacks (with +), and the other way round (with -); counts what
    was compared.
    """
    found, wanted = set(manifest(place)), set(expected)
    lines = ["+ " + line for line in sorted(found - wanted)]
    lines += ["- " + line for line in sorted(wanted - found)]
    return {"lines": lines, "count": len(found)}
