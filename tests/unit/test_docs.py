# SPDX-License-Identifier: Apache-2.0
"""Documents that nobody checks drift; these hold what they say against the tree."""

import ast
import json
import pathlib
import re

import pytest

from overlaybd_tcmu import config, reload, schema
from overlaybd_tcmu.image import config as image_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGES.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_TEXT = "\n".join(path.read_text() for path in DOCUMENTS)


def document(name):
    return (ROOT / "docs" / name).read_text()


def ids(path):
    return str(path.relative_to(ROOT))


# ---- make


def targets():
    return re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("target", targets())
def test_every_make_target_is_in_the_readme(target):
    assert f"make {target}`" in (ROOT / "README.md").read_text()


def test_every_make_target_in_the_documents_exists():
    rules = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"`make ([a-z-]+)", ALL_TEXT))
    assert named - set(" ".join(rules).split()) == set()


# ---- configuration


def keys_of(document_schema, prefix=""):
    """{dotted name: default} of every key that is not a section itself."""
    found = {}
    for name, value in document_schema["properties"].items():
        if value["type"] == "object":
            found.update(keys_of(value, f"{prefix}{name}."))
        elif value["type"] == "array":
            found.update(keys_of(value["items"], f"{prefix}{name}[]."))
        else:
            found[prefix + name] = value["default"]
    return found


def documented(heading):
    """{key: default} of the tables under a heading: | `key` | `default` | acts | ..."""
    text = document("configuration.md").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| \w+ \|", text, re.MULTILINE)
    return {key: json.loads(default) for key, default in rows}


def test_every_service_key_is_documented_with_its_default():
    assert documented("Service configuration") == keys_of(config.service_schema())


def test_every_image_key_is_documented_with_its_default():
    expected = keys_of(schema.schema_of(image_config.ImageConfig))
    assert documented("Image configuration") == expected


def test_when_a_key_acts_after_a_reload_is_documented():
    text = document("configuration.md").split("\n### Reload\n")[1].split("\n### ")[0]
    for when, said in ((reload.When.NOW, "at once"), (reload.When.NEXT_DEVICE, "when a device ")):
        (row,) = re.findall(rf"^\| {said}.*", text, re.MULTILINE)
        named = set(re.findall(r"`([^`]+)`", row))
        assert named == {key for key, value in reload.WHEN.items() if value is when}
    assert set(reload.WHEN) <= set(keys_of(config.service_schema()))


# ---- locks


def locks():
    """(file, name) of every lock of the core and of the control plane."""
    for path in sorted((ROOT / "native").glob("*.[ch]")):
        for name in re.findall(r"^\s+pthread_(?:mutex|rwlock)_t (\w+)", path.read_text(), re.M):
            yield path.name, name
    for path in sorted((ROOT / "overlaybd_tcmu").rglob("*.py")):
        pattern = r"(\w+)\s*=\s*threading\.(?:Lock|RLock|Condition)\("
        for name in re.findall(pattern, path.read_text()):
            yield path.name, name


@pytest.mark.parametrize("file, name", sorted(set(locks())))
def test_every_lock_is_in_the_concurrency_document(file, name):
    rows = [line for line in document("concurrency.md").splitlines() if line.startswith("|")]
    assert [row for row in rows if f"`{file}`" in row and f"`{name}`" in row]


# ---- references


def functions_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node.name


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_named_test_exists(path):
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", path.read_text()):
        assert (ROOT / file).is_file()
        assert not name or name in functions_of(ROOT / file)


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_link_leads_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_named_source_exists(path):
    pattern = r"`((?:native|overlaybd_tcmu|tests|packaging|etc|docs)/[\w./-]+\.\w+)`"
    assert [
        name for name in re.findall(pattern, path.read_text()) if not (ROOT / name).exists()
    ] == []
