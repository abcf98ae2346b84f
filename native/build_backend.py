# SPDX-License-Identifier: Apache-2.0
"""
What pip calls to build us: setuptools, after the core's own Makefile has run.

The core and libobd_ext4.so travel inside the package, in overlaybd_tcmu/ffi, reached through
ctypes: a wheel therefore suits any Python 3, but only this kind of machine, and its tag says so.
"""

import os
import pathlib
import shutil
import subprocess
import sysconfig
import tempfile

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  hooks that need nothing of ours
    build_sdist,
    get_requires_for_build_sdist,
)

LIBRARIES = [pathlib.Path("build/native") / name for name in ("libobd.so", "libobd_ext4.so")]
SOURCES = [
    "native",
    "overlaybd_tcmu",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
]


def get_requires_for_build_wheel(config_settings=None):
    # setuptools learned to make wheels by itself in 70.1; before that the wheel package did.
    return build_meta.get_requires_for_build_wheel(config_settings) + ["wheel"]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """
    Works in a copy of the sources: setuptools leaves files that a later wheel would pick up, and a
    core inside the checkout's package would be loaded instead of the one make builds.
    """
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    settings = dict(config_settings or {})
    settings["--build-option"] = ["--plat-name", platform]
    home = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="overlaybd-tcmu-") as copy:
        for name in SOURCES:
            if os.path.isdir(name):
                ignore = shutil.ignore_patterns("__pycache__", "libobd*.so")
                shutil.copytree(name, os.path.join(copy, name), ignore=ignore)
            elif os.path.exists(name):
                shutil.copy(name, copy)
        os.chdir(copy)
        try:
            _build_core()
            for library in LIBRARIES:
                shutil.copy(library, "overlaybd_tcmu/ffi")
            return build_meta.build_wheel(os.path.join(home, wheel_directory), settings)
        finally:
            os.chdir(home)


def get_requires_for_build_editable(config_settings=None):
    return get_requires_for_build_wheel(config_settings)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """The checkout's own core is found beside the package, so nothing has to be copied."""
    _build_core()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def _build_core():
    subprocess.run(["make", "-C", "native", f"-j{os.cpu_count() or 1}"], check=True)
