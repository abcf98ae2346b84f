# SPDX-License-Identifier: Apache-2.0
"""
Imports point one way, and names of modules are imported, not names in them.

    tools   daemon ------ audit
      |       |             |
      |      ops            |
      |       |             |
      `---- tcmu            |
              |             |
            image -------- ffi   formats
              |             |       |
           download         |       |
              |             |       |
            cache ----------|       |
              |             |       |
           registry         |       |
              |             |       |
              `--------- leaves ----'

Read top to bottom: whoever stands higher may import whoever stands lower, never the other way round
nor sideways. Only ffi knows ctypes.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = "overlaybd_tcmu"

# What each part may import of ours, itself aside. A module beside the packages is a leaf.
MAY_IMPORT = {
    "leaves": set(),
    "formats": {"leaves"},
    "ffi": {"leaves"},
    "registry": {"leaves"},
    "cache": {"leaves", "ffi", "registry"},
    "download": {"leaves", "ffi", "registry", "cache"},
    "image": {"leaves", "formats", "ffi", "registry", "cache", "download"},
    "tcmu": {"leaves", "ffi", "image"},
    "audit": {"leaves", "ffi"},
    "ops": {"leaves", "ffi", "cache", "image", "tcmu"},
    "daemon": {"leaves", "audit", "ffi", "registry", "cache", "image", "tcmu", "ops"},
    "tools": {"leaves", "formats", "ffi", "registry", "cache", "image", "tcmu"},
}


def part_of(module):
    """overlaybd_tcmu.image.opener belongs to image, overlaybd_tcmu.errors to the leaves."""
    head = (module.split(".") + [""])[1]
    return head if head in MAY_IMPORT else "leaves"


def imported(source, module, in_init=False):
    """(line, module, name) of every import; name is "" for a plain import."""
    package = module.split(".") if in_init else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join(base + ([node.module] if node.module else []))
            for alias in node.names:
                yield node.lineno, target, alias.name


def is_package(name):
    return ROOT.joinpath(*name.split(".")).is_dir()


def complaints(source, module, in_init=False):
    """One line for each import that breaks a rule."""
    part = part_of(module)
    for line, target, name in imported(source, module, in_init):
        where = f"{module}:{line}"
        if target.split(".")[0] == "ctypes" and part != "ffi":
            yield f"{where}: only ffi imports ctypes"
        if target.split(".")[0] != PACKAGE or name == "__version__":
            continue
        # What comes out of one of our packages is a module: their __init__.py are empty.
        full = f"{target}.{name}" if is_package(target) and name else target
        if part_of(full) != part and part_of(full) not in MAY_IMPORT[part]:
            yield f"{where}: {part} may not import {part_of(full)} ({full})"
        if name and full == target:
            yield f"{where}: import the module {target}, not {name} from it"


def modules():
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        in_init = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if in_init else parts)
        yield pytest.param(path, name, in_init, id=name)


@pytest.mark.parametrize("path, module, in_init", modules())
def test_imports_point_one_way(path, module, in_init):
    assert list(complaints(path.read_text(), module, in_init)) == []


@pytest.mark.parametrize(
    "module, source, complaint",
    [
        (
            "overlaybd_tcmu.image.opener",
            "from ..tcmu import device",
            "image may not import tcmu",
        ),
        (
            "overlaybd_tcmu.image.opener",
            "from .. import daemon",
            "image may not import daemon",
        ),
        (
            "overlaybd_tcmu.formats.lsmt",
            "from ..ffi import native",
            "formats may not import ffi",
        ),
        (
            "overlaybd_tcmu.errors",
            "import overlaybd_tcmu.image",
            "leaves may not import image",
        ),
        (
            "overlaybd_tcmu.registry.blob",
            "from ..image import config",
            "registry may not import image",
        ),
        (
            "overlaybd_tcmu.daemon",
            "from .tools import export",
            "daemon may not import tools",
        ),
        ("overlaybd_tcmu.tcmu.device", "import ctypes", "only ffi imports ctypes"),
        (
            "overlaybd_tcmu.tcmu.device",
            "from ctypes import c_int",
            "only ffi imports ctypes",
        ),
        (
            "overlaybd_tcmu.tcmu.device",
            "from ..errors import Error",
            "import the module",
        ),
    ],
)
def test_a_wrong_import_is_found(module, source, complaint):
    (found,) = complaints(source, module)
    assert complaint in found


@pytest.mark.parametrize(
    "module, source",
    [
        ("overlaybd_tcmu.image.opener", "from .. import errors, units"),
        ("overlaybd_tcmu.image.opener", "from . import config"),
        ("overlaybd_tcmu.tcmu.device", "from ..image import opener"),
        ("overlaybd_tcmu.ffi.load", "import ctypes"),
        ("overlaybd_tcmu.image.opener", "from ..registry import blob"),
    ],
)
def test_a_right_import_is_not(module, source):
    assert list(complaints(source, module)) == []
