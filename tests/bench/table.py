# SPDX-License-Identifier: Apache-2.0
"""The table in README.md, made from a result and from nothing else."""

import pathlib
from typing import Any, Dict, List, Tuple

from . import probe

BEGIN = "<!-- bench:start -->"
END = "<!-- bench:end -->"

DISTURBED = "°"

Row = Dict[str, Any]
Column = Tuple[str, int, int, int]  # access, count, depth, threads

LAZILY = (
    "Images that only a registry has, from one on loopback with a set delay, beside a bare C "
    "client that fetches the same ranges and drops them, or keeps them in a sparse file, as a "
    "cache has to (idle CPUs kept awake for the first of a unit); what is cached, beside a local "
    "file:"
)

KINDS = {
    ("random", 4096): "random 4 KiB",
    ("sequential", 128 * 1024): "sequential 128 KiB",
    ("sequential", 1024 * 1024): "sequential 1 MiB",
}


def markdown(result: Row) -> str:
    machine = result["machine"]
    shared = ", shared with others" if _is_shared(result) else ""
    lines = [
        f"Measured {result['date']} at commit `{result['commit']}` on {machine['cpus']} CPUs "
        f"({machine['cpu']}{shared}), page cache warm; "
        f"medians of {result['rounds']} rounds in which ours and the limit take turns. Each cell: "
        "ours / limit **ratio**; random in thousand reads a second, sequential in GB/s. The limit "
        "is a bare C loop on **one** thread: `pread`, and for ZFiles the checksum and the whole "
        "block decoded. Ours reads in place, without `pread`, what the page cache has, and lz4 "
        "blocks only as far as wanted.",
        "",
    ]
    lines += _reads(result["reads"])
    if any(_disturbed(row) for row in result["reads"] + result["commits"]):
        lines += ["", f"{DISTURBED} others had the CPUs for most of the time."]
    lines += [
        "",
        "Finding a segment, in million lookups a second, beside a binary search:",
        "",
    ]
    lines += _lookups(result["lookups"])
    lines += [
        "",
        "Committing a layer as lz4 in blocks of 4 KiB to a file that is on the disk at the end, "
        "beside `LZ4_compress_default` on one thread, from memory to nowhere; in MB/s:",
        "",
    ]
    lines += _commits(result["commits"])
    if result.get("applies"):
        lines += ["", *_applies(result["applies"])]
    lines += [
        "",
        "Random 4 KiB writes to an append-only layer, in thousand a second, beside a loop that "
        "appends the same bytes to the same two files and syncs both as often:",
        "",
    ]
    lines += _appends(result["appends"])
    if result.get("lazy"):
        lines += ["", LAZILY, "", *_lazily(result["lazy"])]
    if result.get("vm"):
        lines += [
            "",
            "`fio` on the device in the virtual machine (software emulation):",
            "",
        ]
        lines += _vm(result["vm"])
    return "\n".join(lines)


def _reads(rows: List[Row]) -> List[str]:
    columns: List[Column] = []
    lines: Dict[Tuple[str, int], Dict[Column, str]] = {}
    for row in rows:
        column = (row["access"], row["count"], row["depth"], row["threads"])
        if column not in columns:
            columns.append(column)
        lines.setdefault((row["format"], row["layers"]), {})[column] = _cell(row)
    heads = [
        f"{KINDS[access, count]}, depth {depth}, {threads} thread{'s' if threads > 1 else ''}"
        for access, count, depth, threads in columns
    ]
    table = [_line(["layers"] + heads), _line(["---"] + ["---:"] * len(heads))]
    for (name, layers), cells in lines.items():
        table.append(_line([f"{layers} × {name}"] + [cells.get(column, "") for column in columns]))
    return table


def _cell(row: Row) -> str:
    if row["access"] == "random":
        ours, limit = (f"{row[key] / 1e3:.0f}k" for key in ("ours", "limit"))
    else:
        ours, limit = (f"{row[key] * row['count'] / 1e9:.2f}" for key in ("ours", "limit"))
    return f"{ours} / {limit} **{row['ratio']:.2f}**{DISTURBED if _disturbed(row) else ''}"


def _is_shared(result: Row) -> bool:
    """Every tenth round was somebody else's."""
    rows = result["reads"] + result["lookups"] + result["commits"]
    return bool(sum(row["undisturbed"] for row in rows) < 0.9 * len(rows) * result["rounds"])


def _disturbed(row: Row) -> bool:
    return bool(row["undisturbed"] < probe.ROUNDS_MIN)


def _lookups(rows: List[Row]) -> List[str]:
    table = [
        _line(["segments", "spread", "ours", "binary search", "ratio"]),
        "|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        ours, limit = (f"{row[key] / 1e6:.1f}" for key in ("ours", "limit"))
        table.append(
            _line(
                [
                    f"{row['segments']:,}",
                    row["shape"],
                    ours,
                    limit,
                    f"**{row['ratio']:.1f}**",
                ]
            )
        )
    return table


def _commits(rows: List[Row]) -> List[str]:
    table = [_line(["cores", "ours", "limit", "ratio"]), "|---:|---:|---:|---:|"]
    for row in rows:
        ours, limit = (f"{row[key] * 4096 / 1e6:.0f}" for key in ("ours", "limit"))
        ratio = f"**{row['ratio']:.2f}**{DISTURBED if _disturbed(row) else ''}"
        table.append(_line([str(row["commit_threads"]), ours, limit, ratio]))
    return table


def _applies(rows: List[Row]) -> List[str]:
    row = rows[0]
    ours, tar, synced = (
        f"{rate / 1e6:.0f}" for rate in (row["ours"], row["limit"], row["extra"]["synced"])
    )
    return [
        f"`overlaybd-apply` of {row['archive'] / 1e6:.0f} MB of `/usr` onto a new layer, until "
        "it is durable, beside `tar -x` onto the kernel's ext4 on a loop device: "
        f"{ours} / {tar} MB/s **{row['ratio']:.2f}**, of CPU time **{row['cpu_ratio']:.2f}** "
        f"({synced} MB/s until what tar wrote is durable, too)."
    ]


def _appends(rows: List[Row]) -> List[str]:
    table = [_line(["depth", "synced", "ours", "bare loop", "ratio"]), "|---:|---|---:|---:|---:|"]
    for row in rows:
        synced = f"every {row['sync_every']} writes" if row["sync_every"] else "never"
        ours, limit = (f"{row[key] / 1e3:.1f}" for key in ("ours", "limit"))
        ratio = f"**{row['ratio']:.2f}**{DISTURBED if _disturbed(row) else ''}"
        table.append(_line([str(row["depth"]), synced, ours, limit, ratio]))
    return table


def _lazily(rows: List[Row]) -> List[str]:
    table = [_line(["read", "delay", "ours", "limit", ""]), "|---|---:|---:|---:|---:|"]
    for row in rows:
        delay = f"{row['delay_ms']} ms"
        ours, limit, ratio = (row[key] for key in ("ours", "limit", "ratio"))
        if row["what"] == "first":
            cells = ["first of a unit", delay, f"{ours:.1f} ms", f"{limit:.1f} ms"]
            cells.append(f"delay + **{ratio:.1f} ms**")
        elif row["what"] in ("stream", "kept"):
            what = "in order, cold" + (", client keeps" if row["what"] == "kept" else "")
            cells = [what, delay, f"{ours:,.0f} MB/s", f"{limit:,.0f} MB/s"]
            cells.append(f"**{ratio:.2f}**")
        elif row["what"] == "random":
            cells = ["64 random readers", "", f"{ours:,.0f} units fetched", f"{limit:,.0f} wanted"]
            cells.append(f"**{ratio:.2f}** times each")
        elif row["what"].startswith("open"):
            cells = [f"{row['what']}, cached", "", f"{ours:.1f} ms", f"{limit:.2f} ms"]
            cells.append(f"**{ratio:.2f} ms** a layer")
        elif row["what"].endswith("waiting for Python"):
            cells = [row["what"], delay, f"{ours:.2f} ms of CPU", f"{limit:,.0f} ms in all"]
            cells.append(f"**{ratio:.1%}**")
        elif row["what"].startswith("mount"):
            cells = [row["what"], delay, f"{ours} requests", f"{limit} at most", f"**{ratio:.2f}**"]
        else:
            cells = [f"cached, {row['what'].partition(', ')[2]}", ""]
            cells += [f"{ours:,.0f}k/s", f"{limit:,.0f}k/s", f"**{ratio:.2f}**"]
        table.append(_line(cells))
    return table


def _vm(rows: List[Row]) -> List[str]:
    table = [_line(["image", "job", "reads a second"]), "|---|---|---:|"]
    for row in rows:
        table.append(_line([row["stack"], row["job"], f"{row['iops']:,.0f}"]))
    return table


def _line(cells: List[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def replace(readme: pathlib.Path, table: str) -> None:
    """Puts the table between the markers, which must be there."""
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme}: no lines {BEGIN!r} and {END!r}")
    readme.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
