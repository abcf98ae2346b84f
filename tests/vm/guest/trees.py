# SPDX-License-Identifier: Apache-2.0
"""Every path of a mounted file system, with all that the kernel says of it."""
import hashlib
import os
import stat


def _content(path, status):
    """Digest and size of a file, target of a symbolic link, number of a device."""
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return [status.st_size, hashlib.sha256(file.read()).hexdigest()]
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return [os.major(status.st_rdev), os.minor(status.st_rdev)]
    return None


def _describe(path):
    status = os.lstat(path)
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return {
        "mode": status.st_mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime": status.st_mtime_ns,
        "content": _content(path, status),
        "links": 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
        "xattrs": [[n, os.getxattr(path, n, follow_symlinks=False).hex()] for n in names],
    }


def tree(place):
    """{path: facts}; lost+found and the place itself are left out."""
    found = {}
    for folder, folders, files in os.walk(place):
        if folder == place and "lost+found" in folders:
            folders.remove("lost+found")
        for name in folders + files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, place)] = _describe(path)
    return found
