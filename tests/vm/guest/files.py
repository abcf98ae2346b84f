# SPDX-License-Identifier: Apache-2.0
"""Small files the tests make in the guest; folders are made for them."""
import json
import os
import shutil


def _make_folder(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)


def write_json(path, document):
    _make_folder(path)
    with open(path, "w") as file:
        json.dump(document, file)


def write_bytes(path, text):
    _make_folder(path)
    with open(path, "w") as file:
        file.write(text)


def copy_part(source, target, count):
    """The first count bytes of a file."""
    _make_folder(target)
    with open(source, "rb") as reader, open(target, "wb") as writer:
        writer.write(reader.read(count))


def link(source, target):
    """A symbolic link, in place of whatever target was."""
    _make_folder(target)
    if os.path.lexists(target):
        os.unlink(target)
    os.symlink(source, target)


def unlink(path):
    os.unlink(path)


def remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
