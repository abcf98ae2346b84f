# SPDX-License-Identifier: Apache-2.0
"""
Makes a man page and a bash completion for every program of setup.cfg out of what its --help prints.

    manpages.py MAN-FOLDER COMPLETION-FOLDER
"""

import os
import pathlib
import re
import subprocess
import sys

import launchers

SECTIONS = {"overlaybd-tcmu": 8}  # the others are 1


def help_of(name, module, function):
    """What a program's --help prints, 80 columns wide."""
    code = f"import sys; sys.argv[0] = '{name}'; from {module} import {function}; {function}()"
    environment = dict(os.environ, PYTHONPATH=str(launchers.ROOT), COLUMNS="80", LC_ALL="C.UTF-8")
    command = [sys.executable, "-B", "-c", code, "--help"]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def escaped(text):
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return r"\&" + text if text.startswith((".", "'")) else text


def paragraphs(text):
    """(heading or "", lines) of each block; blank lines part blocks."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.split("\n")
        if re.fullmatch(r"\S[^:]*:", lines[0]) and len(lines) > 1:
            yield lines[0][:-1], lines[1:]
        else:
            yield "", lines


def items(lines):
    """(term, text) of a list: terms are indented by little, what follows by more."""
    found = []
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    for line in lines:
        if len(line) - len(line.lstrip()) <= indent + 2:
            term, _, text = line.strip().partition("  ")
            found.append((term, [text.strip()] if text.strip() else []))
        elif found:
            found[-1][1].append(line.strip())
    return [(term, " ".join(text)) for term, text in found]


def page(name, text):
    """The man page's source."""
    usage, *rest = paragraphs(text)
    synopsis = re.sub(r"\s+", " ", " ".join(usage[1])).replace("usage: ", "", 1)
    description = " ".join(rest[0][1])
    section = SECTIONS.get(name, 1)
    lines = [
        f'.TH {escaped(name)} {section} "" "overlaybd\\-tcmu"',
        ".SH NAME",
        f"{escaped(name)} \\- {escaped(description.split('.')[0])}",
        ".SH SYNOPSIS",
        f".B {escaped(name)}",
        escaped(synopsis.partition(" ")[2]),
        ".SH DESCRIPTION",
        escaped(description),
    ]
    for heading, body in rest[1:]:
        if heading:
            lines.append(f".SH {escaped(heading.upper())}")
            for term, meaning in items(body):
                lines += [".TP", f".B {escaped(term)}", escaped(meaning) or r"\&"]
        elif all(line.startswith("  ") for line in body):
            for term, meaning in items(body):
                lines += [".TP", f".B {escaped(term)}", escaped(meaning) or r"\&"]
        else:
            lines += [".PP", *(escaped(line.strip()) for line in body)]
    lines += [".SH SEE ALSO", "/usr/share/doc/overlaybd\\-tcmu"]
    return "\n".join(lines) + "\n"


def completion(name, text):
    options = sorted(set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", text)))
    commands = re.findall(r"^ {4}([a-z][\w-]*)(?: {2}|$)", text, re.MULTILINE)
    return f'complete -o bashdefault -o default -W "{" ".join(options + commands)}" {name}\n'


def main(man, completions):
    completions.mkdir(parents=True, exist_ok=True)
    for name, module, function in launchers.programs():
        text = help_of(name, module, function)
        section = SECTIONS.get(name, 1)
        folder = man / f"man{section}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.{section}").write_text(page(name, text))
        (completions / name).write_text(completion(name, text))


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
