# SPDX-License-Identifier: Apache-2.0
"""What Python restates of C is what the C compiler sees: fields, functions, and their order."""

import ctypes
import os
import pathlib
import re
import subprocess

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import core, libtcmu, native

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADER = (ROOT / "native" / "obd.h").read_text()


def compiled(folder, source, *flags):
    path = folder / "out"
    (folder / "source.c").write_text(source)
    compiler = os.environ.get("CC", "cc")
    command = [compiler, f"-I{ROOT}/native", *flags, "-o", path, folder / "source.c"]
    subprocess.run(command, check=True, timeout=60)
    return path


def layout_seen_by_c(folder, header, structs):
    """{struct: [(offset, size) of each field, and at last (size, 0)]}"""
    lines = [
        "#include <stddef.h>",
        "#include <stdio.h>",
        f"#include <{header}>",
        "int main(void) {",
    ]
    for name, struct in structs.items():
        for field, *_ in struct._fields_:
            place = f"offsetof(struct {name}, {field}), sizeof(((struct {name} *)0)->{field})"
            lines.append(f'printf("{name} %zu %zu\\n", {place});')
        lines.append(f'printf("{name} %zu 0\\n", sizeof(struct {name}));')
    program = compiled(folder, "\n".join([*lines, "}"]))
    layout = {name: [] for name in structs}
    for line in subprocess.check_output([program], text=True).splitlines():
        name, offset, size = line.split()
        layout[name].append((int(offset), int(size)))
    return layout


def layout_seen_by_python(struct):
    fields = [getattr(struct, field) for field, *_ in struct._fields_]
    return [(field.offset, field.size) for field in fields] + [(ctypes.sizeof(struct), 0)]


def test_structs_of_the_core_have_the_same_layout(tmp_path):
    seen = layout_seen_by_c(tmp_path, "obd.h", core.STRUCTS)
    for name, struct in core.STRUCTS.items():
        assert layout_seen_by_python(struct) == seen[name], name


def test_every_struct_of_the_core_is_bound():
    assert re.findall(r"^struct (obd_\w+) \{", HEADER, re.MULTILINE) == list(core.STRUCTS)


def test_every_function_of_the_core_is_bound_in_its_order():
    declared = re.findall(r"^OBD_PUBLIC [^;(]*?\bobd_(\w+)\(", HEADER, re.MULTILINE)
    bound = re.findall(r'\bfn\(\s*"(\w+)"', pathlib.Path(core.__file__).read_text())
    assert len(declared) > 20
    assert bound == declared


@pytest.mark.parametrize(
    "prefix, kind", [("OBD_ENGINE_", native.Engine), ("OBD_EVENT_", native.EventKind)]
)
def test_enums_have_the_same_values(prefix, kind):
    declared = re.findall(rf"{prefix}(\w+) = (\d+)", HEADER)
    assert declared == [(one.name, str(one.value)) for one in kind]


def test_mailbox_of_the_kernel_has_the_same_layout(tmp_path):
    structs = {"tcmu_mailbox": libtcmu.Mailbox}
    (seen,) = layout_seen_by_c(tmp_path, "linux/target_core_user.h", structs).values()
    assert layout_seen_by_python(libtcmu.Mailbox)[:-1] == seen[:-1]


def test_handler_of_libtcmu_has_the_documented_layout():
    # libtcmu 1.5 and 1.6 on a 64-bit machine; there is no header to compile against.
    offsets = {name: getattr(libtcmu.HandlerStruct, name).offset for name in ("added", "removed")}
    assert offsets == {"added": 56, "removed": 64}
    assert ctypes.sizeof(libtcmu.HandlerStruct) == 88
    assert ctypes.sizeof(libtcmu.CfgInfo) == 16


def fake_core(folder, abi, size):
    source = f"""
        #include "obd.h"
        uint32_t obd_abi(void) {{ return {abi}; }}
        size_t obd_sizeof(const char *name) {{ (void)name; return {size}; }}
        const char *obd_build_info(void) {{ return ""; }}
    """
    return compiled(folder, source, "-shared", "-fPIC")


@pytest.mark.parametrize(
    "abi, size, complaint",
    [
        (core.ABI_VERSION + 1, 512, f"has ABI {core.ABI_VERSION + 1}, but .*core.py was written"),
        (core.ABI_VERSION, 1, "has a struct obd_error of 1 bytes, but .*core.py one of 512"),
    ],
)
def test_another_core_is_refused_with_both_files_named(tmp_path, abi, size, complaint):
    path = fake_core(tmp_path, abi, size)
    with pytest.raises(errors.LibraryError, match=f"^{path}: {complaint}"):
        core.Library(str(path))
