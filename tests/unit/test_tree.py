# SPDX-License-Identifier: Apache-2.0
"""What holds for every source file: its licence and its size; and the boundary of C and Python."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPDX = "SPDX-License-Identifier: Apache-2.0"

# Lines a file and a function may have. At twice the aim one splits, or says here why not.
FILE_LINES = {".py": 400, ".c": 700, ".h": 700}
PYTHON_FUNCTION_LINES = 80
C_FUNCTION_LINES = 120
# One file restates one header, struct by struct and function by function.
LONGER = {"overlaybd_tcmu/ffi/core.py": 600}


def sources(*suffixes):
    for folder in ("native", "overlaybd_tcmu", "tests", "packaging"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and path.is_file():
                yield pytest.param(path, id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize("path", sources(".py", ".c", ".h", ".sh"))
def test_the_licence_is_stated_first(path):
    assert SPDX in "".join(path.read_text().splitlines()[:2])


@pytest.mark.parametrize("path", sources(*FILE_LINES))
def test_a_file_is_short_enough_to_be_read(path):
    limit = LONGER.get(str(path.relative_to(ROOT)), FILE_LINES[path.suffix])
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", sources(".py"))
def test_a_python_function_is_short_enough(path):
    defined = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, defined)
    ]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: n for name, n in lengths.items() if n > PYTHON_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", sources(".c"))
def test_a_c_function_is_short_enough(path):
    bodies = re.findall(r"^\{\n.*?^\}", path.read_text(), re.MULTILINE | re.DOTALL)
    assert [body for body in bodies if body.count("\n") > C_FUNCTION_LINES] == []


def test_every_argument_of_the_core_is_bound():
    """ctypes would pass what it is given; names, order and layouts: tests/native/test_abi.py."""
    text = (ROOT / "native" / "obd.h").read_text()
    header = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    declared = dict(re.findall(r"^OBD_PUBLIC[^(;]*?\bobd_(\w+)\(([^)]*)\);", header, re.MULTILINE))
    counts = {
        name: 0 if arguments.strip() == "void" else arguments.count(",") + 1
        for name, arguments in declared.items()
    }
    binding = ast.parse((ROOT / "overlaybd_tcmu" / "ffi" / "core.py").read_text())
    calls = [node for node in ast.walk(binding) if isinstance(node, ast.Call)]
    bound = {
        call.args[0].value: len(call.args[2].elts)
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "fn"
    }
    assert bound == counts
