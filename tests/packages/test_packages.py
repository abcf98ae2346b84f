# SPDX-License-Identifier: Apache-2.0
"""What is in the packages, that its programs run there, and what coming from the original keeps."""

import configparser
import gzip
import json
import os
import pathlib
import re
import sys

import pytest

import overlaybd_tcmu

from ..support import layers
from .conftest import ROOT, need, run, start

pytestmark = pytest.mark.timeout(300)

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PROGRAMS = re.findall(r"^(\S+) =", SETUP["options.entry_points"]["console_scripts"], re.M)


def test_every_program_says_its_version(tree):
    assert PROGRAMS
    for program in PROGRAMS:
        assert overlaybd_tcmu.__version__ in start(tree, program, "--version")


def test_programs_are_the_packages_own(tree):
    code = "import sys, overlaybd_tcmu; print(overlaybd_tcmu.__file__)"
    library = tree / "opt/overlaybd/lib/python"
    found = run(sys.executable, "-c", code, cwd="/", env={"PYTHONPATH": str(library)}).strip()
    assert pathlib.Path(found).is_relative_to(library)
    sources = {path.relative_to(ROOT) for path in (ROOT / "overlaybd_tcmu").rglob("*.py")}
    assert {path.relative_to(library) for path in library.rglob("*.py")} == sources


def test_image_is_read_by_the_packages_core(tree, tmp_path):
    layers.write_picture(tmp_path / "layer", "AB-C")
    document = {"lowers": [{"file": str(tmp_path / "layer")}]}
    (tmp_path / "config.json").write_text(json.dumps(document))
    start(tree, "overlaybd-export", tmp_path / "config.json", tmp_path / "package.img")
    run(
        *(sys.executable, "-m", "overlaybd_tcmu.tools.export"),
        *(tmp_path / "config.json", tmp_path / "checkout.img"),
        cwd=ROOT,
    )
    assert (tmp_path / "package.img").read_bytes() == (tmp_path / "checkout.img").read_bytes()


def test_base_layer_is_an_empty_ext4(deb_tree, tmp_path):
    need("dumpe2fs")
    document = {"lowers": [{"file": str(deb_tree / "opt/overlaybd/baselayers/ext4_64")}]}
    (tmp_path / "config.json").write_text(json.dumps(document))
    start(deb_tree, "overlaybd-export", tmp_path / "config.json", tmp_path / "disk")  # sparse
    assert (tmp_path / "disk").stat().st_size == 64 << 30
    said = run("dumpe2fs", "-h", tmp_path / "disk")
    values = dict(re.findall(r"^(\w[^:]*):\s+(.*)$", said, re.M))
    assert (values["Block count"], values["Filesystem state"]) == (str(16 << 20), "clean")
    assert int(values["Inode count"]) - int(values["Free inodes"]) == 11  # lost+found alone


def test_base_layer_is_the_same_everywhere(deb_tree, rpm_tree):
    files = [tree / "opt/overlaybd/baselayers/ext4_64" for tree in (deb_tree, rpm_tree)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_base_layer_that_is_given_is_installed(tmp_path):
    layers.write_picture(tmp_path / "given", "AB-C")
    target = [f"DESTDIR={tmp_path}", f"BASELAYER={tmp_path / 'given'}"]
    run("make", "install", *target, cwd=ROOT)
    installed = tmp_path / "opt/overlaybd/baselayers/ext4_64"
    assert installed.read_bytes() == (tmp_path / "given").read_bytes()
    (tmp_path / "given").write_text("no layer")
    with pytest.raises(AssertionError, match="given"):
        run("make", "install", *target, cwd=ROOT)


def test_unit_is_at_the_original_s_place_and_the_system_s(tree):
    text = (ROOT / "packaging/overlaybd-tcmu.service").read_text()
    assert (tree / "opt/overlaybd/overlaybd-tcmu.service").read_text() == text
    system = [tree / "lib/systemd/system", tree / "usr/lib/systemd/system"]
    assert [(path / "overlaybd-tcmu.service").exists() for path in system].count(True) == 1


def test_every_program_has_a_page_and_a_completion(tree):
    pages = {path.name.split(".")[0] for path in (tree / "usr/share/man").rglob("*.*")}
    assert pages == set(PROGRAMS)
    folder = tree / "usr/share/bash-completion/completions"
    assert {path.name for path in folder.iterdir()} == set(PROGRAMS)


@pytest.mark.parametrize(
    "program, begun, offered",
    [("overlaybd-tcmu", "--sh", ["--show-config"]), ("overlaybd-ctl", "res", ["resize"])],
)
def test_completion_offers_options_and_commands(tree, program, begun, offered):
    need("bash")
    path = tree / f"usr/share/bash-completion/completions/{program}"
    code = f'source {path}; compgen -W "$(complete -p {program} | cut -d\\\' -f2)" -- {begun}'
    assert run("bash", "-c", code).split() == offered


def test_man_pages_have_no_errors(tree, tmp_path):
    need("man")
    for page in (tree / "usr/share/man").rglob("*.*"):
        environment = dict(os.environ, LC_ALL="C.UTF-8", MANWIDTH="80")
        text = run("man", "--warnings", "-l", page, env=environment)
        assert "warning" not in text
        assert "OPTIONS" in text and "EXIT STATUS" in text


def test_configuration_is_kept_on_upgrade(deb, rpm, tmp_path):
    run("dpkg-deb", "-e", deb, tmp_path / "control")
    marked = (tmp_path / "control/conffiles").read_text().split()
    expected = ["/etc/logrotate.d/overlaybd-tcmu", "/etc/overlaybd/overlaybd.json"]
    assert sorted(marked) == expected
    expected += ["/opt/overlaybd/baselayers/ext4_64"]  # theirs, if it is not ours
    assert sorted(run("rpm", "-qp", "--configfiles", rpm).split()) == expected


def test_old_logs_are_put_aside(deb_tree, tmp_path):
    need("logrotate")
    text = (deb_tree / "etc/logrotate.d/overlaybd-tcmu").read_text()
    (tmp_path / "rules").write_text(text.replace("/var/log", str(tmp_path)))
    logs = ("overlaybd.log", "overlaybd-audit.log")
    for name in logs:
        (tmp_path / name).write_text(name)
    run("logrotate", "-f", "-s", tmp_path / "state", tmp_path / "rules")
    for name in logs:
        assert not (tmp_path / name).exists()
        (aside,) = tmp_path.glob(f"{name}-*.gz")
        assert gzip.decompress(aside.read_bytes()) == name.encode()


def test_packages_replace_the_original_s(deb, rpm):
    assert (
        run("dpkg-deb", "-f", deb, "Conflicts", "Replaces", "Provides").split()[1::2]
        == ["overlaybd"] * 3
    )
    assert "overlaybd < 99" in run("rpm", "-qp", "--obsoletes", rpm)
    assert f"overlaybd = {overlaybd_tcmu.__version__}" in run("rpm", "-qp", "--provides", rpm)


def test_lintian_has_nothing_to_say(deb):
    need("lintian")
    assert run("lintian", "--allow-root", "--fail-on", "error,warning", deb) in ("", None)


# ---- coming from the original


def original(folder):
    """A package with the original's files at their places and no scripts."""
    files = {
        "opt/overlaybd/bin/overlaybd-tcmu": "theirs",
        "opt/overlaybd/overlaybd-tcmu.service": "theirs",
        "opt/overlaybd/cred.json": "theirs",
        "opt/overlaybd/baselayers/ext4_64": "their base layer",
        "etc/overlaybd/overlaybd.json": "theirs",
        "DEBIAN/control": "Package: overlaybd\nVersion: 1.0.18\nArchitecture: all\n"
        "Maintainer: nobody <a@b.c>\nDescription: the original\n",
    }
    for name, text in files.items():
        path = folder / "original" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run("dpkg-deb", "-b", folder / "original", folder / "original.deb")
    return folder / "original.deb"


def install(root, *packages):
    database = root / "var/lib/dpkg"
    for name in ("info", "updates"):
        (database / name).mkdir(parents=True, exist_ok=True)
    (database / "status").touch()
    dpkg(root, "--auto-deconfigure", "-i", *packages)


def dpkg(root, *action):
    options = ["--force-depends", "--force-script-chrootless", "--force-not-root"]
    options += ["--force-confold", "--no-triggers", "--force-bad-path"]
    run("dpkg", f"--root={root}", *options, *action)


def test_upgrade_from_the_original_keeps_what_is_the_operator_s(deb, tmp_path):
    root = tmp_path / "root"
    install(root, original(tmp_path))
    kept = {
        root / "etc/overlaybd/overlaybd.json": '{"ioEngine": 1}',
        root / "opt/overlaybd/cred.json": '{"auths": {}}',
        root / "opt/overlaybd/baselayers/ext4_64": "their base layer",
        root / "opt/overlaybd/registry_cache/a": "cached",
    }
    for path, text in kept.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    install(root, deb)
    assert {path: path.read_text() for path in kept} == kept
    assert (root / "opt/overlaybd/cred.json").stat().st_mode & 0o077 == 0
    assert "theirs" not in (root / "opt/overlaybd/bin/overlaybd-tcmu").read_text()
    assert overlaybd_tcmu.__version__ in start(root, "overlaybd-tcmu", "--version")
    assert run(
        "dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} "
    ).split() == ["overlaybd-tcmu"]


def test_upgrade_of_ours_keeps_the_configuration_and_the_base_layer(deb, deb_tree, tmp_path):
    root = tmp_path / "root"
    install(root, deb)
    path, layer = root / "etc/overlaybd/overlaybd.json", "opt/overlaybd/baselayers/ext4_64"
    path.write_text('{"ioEngine": 2}')
    install(root, deb)
    assert path.read_text() == '{"ioEngine": 2}'
    assert (root / layer).read_bytes() == (deb_tree / layer).read_bytes()
    for _ in range(2):
        (root / layer).write_text("the operator's")
        install(root, deb)
        assert (root / layer).read_text() == "the operator's"
    assert not list((root / layer).parent.glob("*.kept"))


def test_removal_takes_along_what_python_compiled(deb, tmp_path, monkeypatch):
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "root"
    install(root, deb)
    assert overlaybd_tcmu.__version__ in start(root, "overlaybd-tcmu", "--version")
    assert list((root / "opt").rglob("*.pyc"))
    dpkg(root, "-r", "overlaybd-tcmu")
    assert not (root / "opt/overlaybd").exists()


def test_rpmlint_has_nothing_to_say(rpm):
    need("rpmlint")
    said = run("rpmlint", "--strict", "-c", ROOT / "packaging/rpm/rpmlint.toml", rpm)
    assert "0 errors, 0 warnings" in said, said
