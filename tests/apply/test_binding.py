# SPDX-License-Identifier: Apache-2.0
"""What Python restates of obd_ext4.h is what the C compiler sees; and who loads the library."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import ext4, load
from tests.native import test_abi

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADER = (ROOT / "native" / "ext4" / "obd_ext4.h").read_text()
BINDING = pathlib.Path(ext4.__file__).read_text()


def test_structs_have_the_same_layout(tmp_path):
    seen = test_abi.layout_seen_by_c(tmp_path, "ext4/obd_ext4.h", ext4.STRUCTS)
    for name, struct in ext4.STRUCTS.items():
        assert test_abi.layout_seen_by_python(struct) == seen[name], name


def test_every_struct_is_bound():
    declared = re.findall(r"^struct (obd_\w+) \{", HEADER, re.MULTILINE)
    assert ["obd_error", *declared] == list(ext4.STRUCTS)


def test_every_function_is_bound_in_its_order_with_its_arguments():
    text = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    declared = re.findall(r"^OBD_PUBLIC [^;(]*?\bobd_ext4_(\w+)\(([^;]*)\);", text, re.MULTILINE)
    bound = re.findall(r'\bfn\("(\w+)", \w+, \[(.*?)\]\)', BINDING)
    counts = [(name, 0 if text == "void" else text.count(",") + 1) for name, text in declared]
    assert len(declared) == 6
    assert [(name, len(text.split(",")) if text else 0) for name, text in bound] == counts


@pytest.mark.parametrize("abi, size", [(ext4.ABI_VERSION + 1, 512), (ext4.ABI_VERSION, 1)])
def test_another_library_is_refused(tmp_path, abi, size):
    source = f"""
        #include "ext4/obd_ext4.h"
        uint32_t obd_ext4_abi(void) {{ return {abi}; }}
        size_t obd_ext4_sizeof(const char *name) {{ (void)name; return {size}; }}
    """
    path = test_abi.compiled(tmp_path, source, "-shared", "-fPIC")
    with pytest.raises(errors.LibraryError, match=f"{path}: has .*ext4.py"):
        ext4.Library(str(path))


def test_demanded_core_brings_its_own(monkeypatch, tmp_path):
    for name in (load.NATIVE_NAME, ext4.NAME):
        (tmp_path / name).touch()
    monkeypatch.setenv(load.NATIVE_VARIABLE, str(tmp_path / load.NATIVE_NAME))
    assert load.find_library(ext4.NAME) == str(tmp_path / ext4.NAME)
    (tmp_path / ext4.NAME).unlink()
    with pytest.raises(errors.LibraryError, match=f"{tmp_path}/{ext4.NAME}: no such file"):
        load.find_library(ext4.NAME)


def test_daemon_loads_nothing_of_ext4():
    program = "import overlaybd_tcmu.daemon; from overlaybd_tcmu.ffi import core; core.library()"
    program += "; print(open('/proc/self/maps').read())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    maps = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "libobd.so" in maps
    assert "libobd_ext4" not in maps and "libext2fs" not in maps
