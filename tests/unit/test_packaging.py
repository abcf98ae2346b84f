# SPDX-License-Identifier: Apache-2.0
"""What the packages ship and ask for is what the code has and needs."""

import configparser
import pathlib
import re
import subprocess
import sys

import pytest

from overlaybd_tcmu import config

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def required(setup):
    lines = setup["options"]["install_requires"].split("\n")[1:]
    return {package(re.match(r"[\w-]+", line).group()) for line in lines}


def package(name):
    """Distributions differ in what stands between its words."""
    return "python3-" + name.replace("_", "-")


@pytest.mark.parametrize("file", ["deb/debian/control", "rpm/overlaybd-tcmu.spec"])
def test_packages_require_what_pip_does(setup, file):
    text = (ROOT / "packaging" / file).read_text()
    found = {package(name) for name in re.findall(r"\bpython3-([\w-]+)", text)}
    assert found == required(setup)


def test_shipped_configuration_is_accepted_without_a_warning():
    _, warnings = config.load(str(ROOT / "etc" / "overlaybd" / "overlaybd.json"))
    assert warnings == []


def test_launchers_start_every_program(setup, tmp_path):
    script = ROOT / "packaging" / "launchers.py"
    folder = tmp_path / "bin"
    (tmp_path / "lib").symlink_to(ROOT)
    subprocess.run([sys.executable, script, folder, sys.executable, "../lib"], check=True)
    programs = re.findall(r"^([\w-]+) =", setup["options.entry_points"]["console_scripts"], re.M)
    assert sorted(path.name for path in folder.iterdir()) == sorted(programs)
    for name in programs:
        run = [folder / name, "--version"]
        shown = subprocess.run(run, check=True, capture_output=True, text=True, cwd="/")
        assert shown.stdout.startswith(name + " ")
