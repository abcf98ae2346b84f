# SPDX-License-Identifier: Apache-2.0
"""
Programs that are killed, or refused something, at the nth call that changes a file of a folder.

    environment(folder, nth=3)                     killed before the third
    environment(folder, nth=3, error=errno.EIO)    the third fails
    environment(folder, refuse="nameless direct")  a file system that can do less
"""

import functools
import os
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


@functools.lru_cache(maxsize=None)
def library():
    """The compiled nth_call.c; it lives as long as this process."""
    folder = tempfile.TemporaryDirectory()
    library.folder = folder
    path = os.path.join(folder.name, "nth_call.so")
    command = ["cc", "-O1", "-g", "-shared", "-fPIC", "-o", path, HERE / "nth_call.c", "-ldl"]
    subprocess.run(command, check=True)
    return path


def environment(folder, nth=0, error=0, only="", refuse="", log=""):
    """What to add to a program's environment."""
    return {
        # a sanitizer's runtime, if there is one, stays the first
        "LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {library()}".strip(),
        "NTH_FOLDER": str(folder),
        "NTH_LOG": str(log),
        "NTH": str(nth),
        "NTH_ERROR": str(error),
        "NTH_ONLY": only,
        "NTH_REFUSE": refuse,
    }
