# SPDX-License-Identifier: Apache-2.0
"""The Debian package of this checkout, and versions that follow it."""
from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from typing import List, Optional

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ("overlaybd_tcmu", "native", "packaging", "etc")
BUILDERS = ("dpkg-buildpackage", "dh")


def missing() -> List[str]:
    """Programs without which there is no package."""
    return [program for program in BUILDERS if not shutil.which(program)]


def build() -> pathlib.Path:
    """The package's path; what "make packages" has just built is good."""
    found = _find()
    if found is None or found.stat().st_mtime < _newest_source():
        # We may have been started by make; its flags are not for this one.
        env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(["make", "-s", "deb"], cwd=ROOT, env=env, **options)
        assert done.returncode == 0, done.stdout
        found = _find()
    assert found is not None
    return found


def followers(package: pathlib.Path, folder: pathlib.Path, count: int) -> List[pathlib.Path]:
    """The same package as the next so many versions, in a folder."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "-R", str(package), str(tree)], check=True)
    control = tree / "DEBIAN" / "control"
    text = control.read_text()
    version = next(line for line in text.splitlines() if line.startswith("Version: "))
    made = []
    for number in range(1, count + 1):
        control.write_text(text.replace(version, f"{version}+{number}"))
        made.append(folder / f"follower-{number:03}.deb")
        command = [
            "dpkg-deb",
            "--root-owner-group",
            "-Zgzip",
            "-z1",
            "-b",
            str(tree),
            str(made[-1]),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return made


def _find() -> Optional[pathlib.Path]:
    found = (ROOT / "build" / "deb").glob("overlaybd-tcmu_*.deb")
    return next(iter(found), None)


def _newest_source() -> float:
    paths = [ROOT / "setup.cfg", ROOT / "Makefile"]
    for name in SOURCES:
        paths += [path for path in (ROOT / name).rglob("*") if path.suffix != ".pyc"]
    return max(path.stat().st_mtime for path in paths if path.is_file())
