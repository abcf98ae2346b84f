# SPDX-License-Identifier: Apache-2.0
"""Command lines are understood as the original understands them, and its exit statuses are kept."""

import pytest

from overlaybd_tcmu.tools import command_line, commit, create, merge, zfile

MODULES = {"create": create, "commit": commit, "merge": merge, "zfile": zfile}


def status_of(module, *arguments):
    with pytest.raises(SystemExit) as caught:
        module.parse_arguments(list(arguments))
    return caught.value.code


# Whatever containerd's snapshotter and its convertor run, word for word but for the paths.
CONTRACT = [
    (create, "data index 64", {"vsize": 64 << 30, "s": False, "mkfs": False}),
    (create, "data index 0 -s", {"vsize": 0, "s": True}),
    (create, "data index 64 -s --mkfs", {"s": True, "mkfs": True}),
    (create, "data index -s 64 --turboOCI --mkfs", {"vsize": 64 << 30, "turboOCI": True}),
    (create, "data index 256 -s --turboOCI", {"vsize": 256 << 30, "turboOCI": True}),
    (commit, "--seal data index", {"seal": True, "data_file": "data", "index_file": "index"}),
    (
        commit,
        "--commit_sealed in out -z -t",
        {"commit_sealed": True, "data_file": "in", "index_file": "out", "z": True, "t": True},
    ),
    (
        commit,
        "data index out -z -t --uuid u --parent-uuid p",
        {"commit_file": "out", "uuid": "u", "parent_uuid": "p"},
    ),
    (commit, "data index out -z --fastoci", {"turboOCI": True}),
    (commit, "data index out -z --turboOCI", {"turboOCI": True}),
]


@pytest.mark.parametrize("module, line, expected", CONTRACT)
def test_what_the_snapshotter_runs(module, line, expected):
    options = vars(module.parse_arguments(line.split()))
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize(
    "module, line, expected",
    [
        (commit, "-m text data -p x index -z out", {"m": "text", "parent_uuid": "x", "z": True}),
        (commit, "-ztf data index out", {"z": True, "t": True, "f": True}),
        (commit, "data index out --bs=8 --algorithm=zstd", {"bs": 8, "algorithm": "zstd"}),
        (commit, "data index out --seal=false -z=true", {"seal": False, "z": True}),
        (commit, "data index out --compress_threads 4", {"compress_threads": 4}),
        (commit, "-- data -z out", {"data_file": "data", "index_file": "-z", "z": False}),
        (merge, "config out", {"compress": True, "t": False}),
        (merge, "--compress config out", {"compress": True, "image_config": "config"}),
        (merge, "--compress=false config out", {"compress": False, "image_config": "config"}),
        (merge, "config", {"output": None}),
        (merge, "--service_config_path /none config out", {"image_config": "config"}),
        (zfile, "-x -f in out", {"x": True, "f": True, "source": "in", "target": "out"}),
        (zfile, "out", {"source": "out", "target": None}),
        (create, "--verbose --raw data index 1", {"raw": True, "verbose": True}),
    ],
)
def test_where_options_may_stand(module, line, expected):
    options = vars(module.parse_arguments(line.split()))
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize(
    "status, module, line",
    [
        (command_line.EXIT_REQUIRED, create, ""),
        (command_line.EXIT_REQUIRED, create, "data index"),
        (command_line.EXIT_REQUIRED, commit, "data index"),
        (command_line.EXIT_REQUIRED, commit, "--commit_sealed data"),
        (command_line.EXIT_REQUIRED, commit, ""),
        (command_line.EXIT_REQUIRED, merge, ""),
        (command_line.EXIT_REQUIRED, zfile, "-x"),
        (command_line.EXIT_EXTRA, create, "data index 1 more"),
        (command_line.EXIT_EXTRA, create, "data index 1 --unknown"),
        (command_line.EXIT_EXTRA, create, "data index 1 --mkf"),
        (command_line.EXIT_EXTRA, commit, "a b c d"),
        (command_line.EXIT_EXTRA, zfile, "a b c"),
        (command_line.EXIT_INVALID, create, "data index one"),
        (command_line.EXIT_INVALID, create, "data index 1.5"),
        (command_line.EXIT_INVALID, commit, "a b c --bs four"),
        (command_line.EXIT_INVALID, commit, "a b c --compress_threads -1"),
        (command_line.EXIT_INVALID, commit, "a b c --uuid"),
        (command_line.EXIT_INVALID, merge, "--compress=perhaps config out"),
    ],
)
def test_wrong_arguments(capsys, status, module, line):
    assert status_of(module, *line.split()) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{module.PROG}: ")
    assert said.err.endswith("; --help tells more\n") and said.err.count("\n") == 1


@pytest.mark.parametrize("module", MODULES.values())
def test_help_tells_options_arguments_and_statuses(capsys, module):
    assert status_of(module, "--help") == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"usage: {module.PROG} [options] ")
    for status in (0, 105, 106, 109, 255):
        assert f"\n  {status:3}  " in said.out


@pytest.mark.parametrize("name", MODULES)
def test_programs_need_no_configuration_and_no_core_for_help(tool, name):
    done = tool(name, "--help", env={"OVERLAYBD_NATIVE": "/none"})
    assert (done.returncode, done.stderr) == (0, "")
