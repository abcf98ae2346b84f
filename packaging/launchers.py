# SPDX-License-Identifier: Apache-2.0
"""
Writes a launcher for every program of setup.cfg.

    launchers.py FOLDER                  for the checkout: its venv, its sources
    launchers.py FOLDER PYTHON PACKAGES  for an installation; PACKAGES is relative to FOLDER

Each finds its files from where it lies itself: a checkout may be moved or mounted elsewhere.
"""

import configparser
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]

CHECKOUT = """\
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/../..
python=$root/build/venv/bin/python
[ -x "$python" ] || python=python3
PYTHONPATH=$root${{PYTHONPATH:+:$PYTHONPATH}} exec "$python" -c '
import sys; sys.argv[0] = "{name}"
from {module} import {function}; sys.exit({function}())' "$@"
"""

INSTALLED = """\
#!{python}
import os, sys; sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "{packages}"))
from {module} import {function}; sys.exit({function}())
"""  # noqa: E501


def programs():
    """(name, module, function) of every console script."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for line in setup["options.entry_points"]["console_scripts"].split("\n"):
        if line:
            name, target = (part.strip() for part in line.split("="))
            yield (name, *target.split(":"))


def write(folder, text, **values):
    folder.mkdir(parents=True, exist_ok=True)
    for name, module, function in programs():
        path = folder / name
        path.write_text(text.format(name=name, module=module, function=function, **values))
        path.chmod(0o755)
        print(path)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        write(pathlib.Path(sys.argv[1]), CHECKOUT)
        (ROOT / "build" / ".launchers").touch()
    else:
        write(pathlib.Path(sys.argv[1]), INSTALLED, python=sys.argv[2], packages=sys.argv[3])
