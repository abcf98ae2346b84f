# SPDX-License-Identifier: Apache-2.0
"""The packages, built once, and what is in them."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from overlaybd_tcmu.ffi import load

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD_TIMEOUT_S = 280


def run(*command, **more):
    """Standard output; what went wrong is part of the failure."""
    options = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **more}
    done = subprocess.run([str(part) for part in command], timeout=BUILD_TIMEOUT_S, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


def start(tree, program, *arguments):
    """A program of the package, with its modules and its core, and the libraries of our venv."""
    environment = dict(os.environ)
    environment[load.NATIVE_VARIABLE] = str(tree / "opt/overlaybd/lib/libobd.so")
    path = tree / "opt/overlaybd/bin" / program
    return run(sys.executable, path, *arguments, cwd="/", env=environment)


def need(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="session")
def deb():
    """The package's path."""
    need("dpkg-buildpackage", "dh")
    run("make", "deb", cwd=ROOT)
    return next((ROOT / "build/deb").glob("overlaybd-tcmu_*.deb"))


@pytest.fixture(scope="session")
def rpm():
    need("rpmbuild")
    run("make", "rpm", cwd=ROOT)
    return next(
        path
        for path in (ROOT / "build/rpm").glob("overlaybd-tcmu-*.rpm")
        if "debug" not in path.name
    )


@pytest.fixture(scope="session")
def deb_tree(deb, tmp_path_factory):
    """What it installs, in a folder."""
    tree = tmp_path_factory.mktemp("deb")
    run("dpkg-deb", "-x", deb, tree)
    return tree


@pytest.fixture(scope="session")
def rpm_tree(rpm, tmp_path_factory):
    """What it installs into an empty root: nothing is there that could run its scripts."""
    tree = tmp_path_factory.mktemp("rpm")
    run("rpm", "--root", tree, "--initdb")
    run("rpm", "--root", tree, "-i", "--nodeps", "--noscripts", rpm)
    return tree


@pytest.fixture(params=["deb_tree", "rpm_tree"])
def tree(request):
    return request.getfixturevalue(request.param)
