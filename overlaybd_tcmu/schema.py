# SPDX-License-Identifier: Apache-2.0
"""
JSON documents as frozen dataclasses: a key's name, type, default and limits are declared once.

A field made by key() or section() carries its JSON name; schema_of() derives the JSON Schema
(draft 7), build() the record. Every complaint is a ConfigError naming file and key, such as
"lowers[2].file". A leaf: knows no particular document.
"""

import dataclasses
import json
from typing import Any, Dict, Iterator, List, Tuple, Type, TypeVar

from . import errors

Document = Dict[str, Any]
_Record = TypeVar("_Record")

_TYPES = {bool: "boolean", int: "integer", str: "string"}
_ARTICLES = {"integer": "an integer", "array": "an array", "object": "an object"}


def key(name: str, default: Any, **limits: Any) -> Any:
    """A plain value; limits are JSON Schema keywords."""
    return dataclasses.field(default=default, metadata={"key": name, "limits": limits})


def section(name: str, kind: Type[Any]) -> Any:
    """A nested object."""
    return dataclasses.field(default_factory=kind, metadata={"key": name, "section": kind})


def rows(name: str, kind: Type[Any], **limits: Any) -> Any:
    """An array of objects, as a tuple."""
    metadata = {"key": name, "rows": kind, "limits": limits}
    return dataclasses.field(default=(), metadata=metadata)


def schema_of(kind: Type[Any]) -> Document:
    """The JSON Schema of a record."""
    properties: Document = {}
    for field in dataclasses.fields(kind):
        if "key" not in field.metadata:
            continue
        properties[field.metadata["key"]] = _schema_of_field(field)
    return {"type": "object", "properties": properties}


def _schema_of_field(field: "dataclasses.Field[Any]") -> Document:
    metadata = field.metadata
    if "section" in metadata:
        return schema_of(metadata["section"])
    if "rows" in metadata:
        return {
            "type": "array",
            "items": schema_of(metadata["rows"]),
            **metadata["limits"],
        }
    limits = dict(metadata["limits"])
    if isinstance(field.default, str):
        # A NUL would cut the name short for the kernel: no path, URL or address has one.
        limits.setdefault("pattern", "^[^\\x00]*$")
    return {"type": _TYPES[type(field.default)], "default": field.default, **limits}


def build(kind: Type[_Record], document: Document, **more: Any) -> _Record:
    """The record a checked document describes; more are fields that are not in the document."""
    values = dict(more)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        name = field.metadata.get("key")
        if name not in document:
            continue
        value = document[name]
        if "section" in field.metadata:
            value = build(field.metadata["section"], value)
        elif "rows" in field.metadata:
            value = tuple(build(field.metadata["rows"], row) for row in value)
        elif type(field.default) is int:
            value = int(value)  # JSON's 1.0 is an integer
        values[field.name] = value
    return kind(**values)


def document_of(record: Any) -> Document:
    """The inverse of build(): every key with its effective value."""
    document: Document = {}
    for field in dataclasses.fields(record):
        if "key" not in field.metadata:
            continue
        value = getattr(record, field.name)
        if "section" in field.metadata:
            value = document_of(value)
        elif "rows" in field.metadata:
            value = [document_of(row) for row in value]
        document[field.metadata["key"]] = value
    return document


def unknown_keys(schema: Document, document: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of the keys that schema does not have: misspelt, or of another version."""
    properties = schema.get("properties", {})
    for name, value in document.items():
        if name not in properties:
            yield prefix + name
        elif properties[name].get("type") == "object":
            yield from unknown_keys(properties[name], value, prefix + name + ".")


def read(path: str) -> Document:
    """The JSON object in a file, strictly: see parse()."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise errors.ConfigError(path, "", f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise errors.ConfigError(path, "", f"cannot be read: {error}") from error
    return parse(path, text)


def parse(path: str, text: bytes) -> Document:
    """The JSON object in text, strictly: no NaN, no key twice. path is only named."""

    def pairs(items: List[Tuple[str, Any]]) -> Document:
        document = dict(items)
        if len(document) != len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise errors.ConfigError(path, twice, "is given twice")
        return document

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        document = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise errors.ConfigError(path, "", f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise errors.ConfigError(path, "", "must be an object, not " + _shown(document))
    return document


def check(path: str, schema: Document, document: Document) -> None:
    """Raises ConfigError for the first key, by name, that breaks the schema."""
    import jsonschema  # here: it takes 80 ms, and --help need not wait for it

    found = list(jsonschema.Draft7Validator(schema).iter_errors(document))
    if found:
        first = min(found, key=lambda error: [str(part) for part in error.absolute_path])
        raise errors.ConfigError(path, _dotted(first.absolute_path), _complaint(first))


def _dotted(parts: Any) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _complaint(error: Any) -> str:
    limit = error.validator_value
    shown = _shown(error.instance)
    if error.validator == "type":
        return f"must be {_ARTICLES.get(limit, 'a ' + limit)}, not {shown}"
    if error.validator == "minimum":
        return f"must be at least {limit}, not {shown}"
    if error.validator == "maximum":
        return f"must be at most {limit}, not {shown}"
    if error.validator == "enum":
        return f"must be one of {', '.join(map(json.dumps, limit))}, not {shown}"
    if error.validator == "maxItems":
        return f"has {len(error.instance)} entries, at most {limit} are possible"
    if error.validator == "pattern":
        return f"has an impossible value: {shown}"
    return str(error.message)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
