# SPDX-License-Identifier: Apache-2.0
"""An RPM of ours replaced by the next one, with its scripts, in a root of its own."""

import pathlib
import re
import shutil

import pytest

import overlaybd_tcmu

from .conftest import ROOT, need, run, start

pytestmark = pytest.mark.timeout(300)

SPEC = ROOT / "packaging/rpm/overlaybd-tcmu.spec"
NEXT = "99.1"
CONFIG = pathlib.Path("etc/overlaybd/overlaybd.json")
LAYER = pathlib.Path("opt/overlaybd/baselayers/ext4_64")
MODULES = pathlib.Path("opt/overlaybd/lib/python/overlaybd_tcmu")
# What the scripts run.
PROGRAMS = ("sh", "cp", "mv", "chmod", "find", "grep", "rm")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Of a machine that has a shell and no package; programs leave there what Python compiles."""
    need("rpm", "ldd")
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
        monkeypatch.delenv(name, raising=False)
    tree = tmp_path / "root"
    for name in PROGRAMS:
        program = shutil.which(name)
        libraries = re.findall(r"(/\S+) \(0x", run("ldd", program))
        copies = [(library, library) for library in libraries] + [(program, f"/bin/{name}")]
        for source, target in copies:
            (tree / target[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pathlib.Path(source).resolve(), tree / target[1:])
    run("rpm", "--root", tree, "--initdb")
    return tree


@pytest.fixture
def follower(rpm_tree, tmp_path):
    """The next version: another default, one module less and one more."""
    need("rpmbuild")
    tree = tmp_path / "next"
    ignored = ("root", "var", "doc", "licenses", ".build-id", "__pycache__")
    shutil.copytree(rpm_tree, tree, ignore=shutil.ignore_patterns(*ignored))
    (tree / MODULES / "units.py").rename(tree / MODULES / "measures.py")
    (tree / CONFIG).write_text('{"next": true}\n')
    (tree / LAYER).write_text("the next base layer")
    text = re.sub(r"^Version:.*", f"Version: {NEXT}", SPEC.read_text(), flags=re.M)
    body = f"%prep\n%build\n%install\ncp -a {tree}/. %{{buildroot}}\n"
    text = re.sub(r"^%prep.*?(?=^# The original)", body, text, flags=re.M | re.S)
    text = re.sub(r"^%(license|doc) .*\n", "", text, flags=re.M)
    spec = tmp_path / "next.spec"
    spec.write_text(text)
    defines = {
        "_topdir": tmp_path / "top",
        "_binary_payload": "w1.gzdio",
        "debug_package": "%{nil}",
    }
    options = [part for pair in defines.items() for part in ("--define", "%s %s" % pair)]
    run("rpmbuild", "-bb", "--nodeps", *options, spec)
    return next((tmp_path / "top" / "RPMS").rglob("*.rpm"))


def files_in(root):
    """What is in the folders that are ours."""
    found = [path for path in (root / "opt/overlaybd").rglob("*") if path.is_file()]
    found += [path for path in (root / "etc").rglob("overlaybd*") if path.is_file()]
    return {f"/{path.relative_to(root)}" for path in found}


def owned(root):
    names = run("rpm", "--root", root, "-ql", "overlaybd-tcmu").split()
    return {name for name in names if (root / name[1:]).is_file()}


def test_upgrade_keeps_what_is_the_operator_s_and_nothing_else(rpm, follower, root):
    run("rpm", "--root", root, "-i", "--nodeps", rpm)
    assert overlaybd_tcmu.__version__ in start(root, "overlaybd-tcmu", "--version")
    assert list((root / MODULES).rglob("*.pyc")), "nothing was left to be removed"
    (root / CONFIG).write_text('{"ioEngine": 2}')
    (root / LAYER).write_text("the operator's")
    run("rpm", "--root", root, "-U", "--nodeps", follower)
    assert (root / CONFIG).read_text() == '{"ioEngine": 2}'
    assert (root / LAYER).read_text() == "the operator's"
    news = {f"/{path}.rpmnew" for path in (CONFIG, LAYER)}
    assert (root / f"{CONFIG}.rpmnew").read_text() == '{"next": true}\n'
    inside = [name for name in owned(root) if name.startswith(("/opt/overlaybd/", "/etc/"))]
    inside = {name for name in inside if "logrotate" not in name}
    found = {name for name in files_in(root) if "logrotate" not in name}
    assert found == inside | news
    assert not (root / MODULES / "units.py").exists()
    assert (root / MODULES / "measures.py").exists()
    assert run("rpm", "--root", root, "-qa").split() == [f"overlaybd-tcmu-{NEXT}-1.x86_64"]


def test_removal_leaves_what_the_operator_changed(rpm, root):
    run("rpm", "--root", root, "-i", "--nodeps", rpm)
    (root / CONFIG).write_text('{"ioEngine": 2}')
    assert overlaybd_tcmu.__version__ in start(root, "overlaybd-tcmu", "--version")
    run("rpm", "--root", root, "-e", "--nodeps", "overlaybd-tcmu")
    assert files_in(root) == {f"/{CONFIG}.rpmsave"}
    assert not (root / "opt/overlaybd").exists()
