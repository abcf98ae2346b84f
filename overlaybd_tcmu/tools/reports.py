# SPDX-License-Identifier: Apache-2.0
"""What overlaybd-ctl shows people: lines made of the API's documents."""

from typing import Any, Dict, Iterable, List, Sequence

from .. import units

Document = Dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> List[str]:
    """Columns as wide as they need; the first `left` and the last are aligned to the left."""
    text = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in text) for column in range(len(head))]
    lines = []
    for row in text:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths)):
            to_left = column < left or column == len(row) - 1
            cells.append(cell.ljust(width) if to_left else cell.rjust(width))
        lines.append("  ".join(cells).rstrip())
    return lines


def duration(seconds: float) -> str:
    """'12 us', '3.4 ms', '5.0 s', '2.0 h'; '-' for none."""
    if seconds <= 0:
        return "-"
    for limit, factor, unit, digits in (
        (1e-3, 1e6, "us", 0),
        (1.0, 1e3, "ms", 1),
        (120.0, 1.0, "s", 1),
        (7200.0, 1 / 60, "min", 1),
    ):
        if seconds < limit:
            return f"{seconds * factor:.{digits}f} {unit}"
    return f"{seconds / 3600:.1f} h"


def ratio(value: Any) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def health(one: Document) -> List[str]:
    states = ", ".join(f"{count} {state}" for state, count in sorted(one["devices"].items()))
    lines = [
        f"status    {one['status']}",
        f"version   {one['version']} ({one['core']}), up {duration(one['uptime_s'])}",
        f"devices   {states or 'none'}",
        f"hanging   {one['hung']}",
        f"refused   {one['open_failures']} images could not be opened",
    ]
    return lines + [f"because   {reason}" for reason in one["reasons"]]


def devices(document: Document) -> List[str]:
    head = ("DEVICE", "ID", "STATE", "SIZE", "LAYERS", "READ", "P50", "P99", "IN FLIGHT")
    rows = [
        (
            one["name"],
            one["id"] or "-",
            one["state"],
            units.human_size(one["size"]),
            f"{one['layers']}{'+upper' if one['writable'] else ''}",
            units.human_size(one["read_bytes"]),
            duration(one["read_p50_s"]),
            duration(one["read_p99_s"]),
            one["inflight"],
            ratio(one["hit_ratio"]),
            one["errors"],
            one["config"] + (f"  ({one['error']})" if one["error"] else ""),
        )
        for one in document["devices"]
    ]
    return table((*head, "HITS", "ERRORS", "CONFIG"), rows, left=3)


def resized(one: Document) -> List[str]:
    return [
        f"{one['name']} has {one['size']} bytes ({units.human_size(one['size'])}) now.",
        "The kernel looks when told: echo 1 > /sys/block/DISK/device/rescan; then resize2fs.",
    ]


# ---- top


def rates(before: List[Document], now: List[Document], elapsed_s: float) -> List[Document]:
    """What each device did in between, a second; busiest first."""
    old = {(one["name"], one["opened_at"]): one for one in before}
    found = []
    for one in now:
        was = old.get((one["name"], one["opened_at"]), one)
        per_second = {
            f"{name}_per_s": max(one[name] - was[name], 0) / max(elapsed_s, 1e-3)
            for name in ("reads", "read_bytes", "writes", "write_bytes", "errors")
        }
        kept = ("name", "config", "state", "inflight", "oldest_s", "hung", "hit_ratio")
        found.append({**{name: one[name] for name in kept}, **per_second})
    return sorted(found, key=lambda one: float(one["read_bytes_per_s"]), reverse=True)


def top(document: Document) -> List[str]:
    head = ("DEVICE", "READ/s", "READS/s", "WRITTEN/s", "WRITES/s", "IN FLIGHT", "OLDEST", "HITS")
    rows = [
        (
            one["name"],
            units.human_size(int(one["read_bytes_per_s"])),
            f"{one['reads_per_s']:.0f}",
            units.human_size(int(one["write_bytes_per_s"])),
            f"{one['writes_per_s']:.0f}",
            one["inflight"],
            duration(one["oldest_s"]),
            ratio(one["hit_ratio"]),
            one["config"],
        )
        for one in document["devices"]
    ]
    return table((*head, "CONFIG"), rows)


# ---- explain, hang


def explain(one: Document) -> List[str]:
    """Commands first, then the stages inside them with their share of all that was spent."""
    lines = [f"{one['name']}  {one['state']}  {one['config']}"]
    if one["error"]:
        lines.append(f"not served: {one['error']}")
    head = ("", "COUNT", "TOTAL", "MEAN", "P50", "P90", "P99", "LONGEST", "SHARE")
    commands = {name: took for name, took in one["latency"].items() if took["count"]}
    spent = sum(took["total_s"] for took in commands.values())
    rows = [_took(name, took, 1, spent) for name, took in commands.items()]
    for name, took in one["stages"].items():
        if took["count"]:
            rows.append(_took(f"  {name}", took, took["sampled"], spent))
    lines += ["", *table(head, rows)] if rows else ["", "no command has been answered yet"]
    return [*lines, "", *_verdict(one, spent), *_pending(one["pending"][:10])]


def _took(name: str, took: Document, sampled: int, spent: float) -> Sequence[Any]:
    total = took["total_s"] * sampled
    return (
        name,
        took["count"] * sampled,
        duration(total),
        duration(took["total_s"] / took["count"]),
        duration(took["p50_s"]),
        duration(took["p90_s"]),
        duration(took["p99_s"]),
        duration(took["max_s"]),
        f"{100 * total / spent:.0f} %" if spent else "-",
    )


def _verdict(one: Document, spent: float) -> List[str]:
    """What to make of it, in a sentence or two."""
    counters = one["counters"]
    text = (
        f"Of {counters['hits'] + counters['blocked']} reads of layer files {counters['blocked']}"
        f" waited for the disk; {counters['slow_reads']} of them 10 ms and more."
    )
    lines = [text]
    if one["remote"]:
        lines.append(_lazily(one))
    times = {name: took["total_s"] * took["sampled"] for name, took in one["stages"].items()}
    longest_s, longest = max((took_s, name) for name, took_s in times.items())
    if spent and longest_s > spent / 2:
        lines.append(
            {
                "lookup": "Most of the time is spent looking up which layer has what is read.",
                "cache": "Most of the time is spent waiting for the disk that holds the cache.",
                "disk": "Most of the time is spent waiting for the disk that holds the layers.",
                "queue": "Most of the time passes before a thread is free to wait for the disk.",
                "wait": "Most of the time is spent waiting for the registry.",
                "decode": "Most of the time is spent decompressing: the CPU is the limit.",
            }[longest]
        )
    lines.append("Stages run side by side, so shares may exceed 100 %; lookup, decode are samples.")
    return lines


# ---- what is fetched and kept

MAP_WIDTH = 64

# Empty, begun, half, most, all.
_SHADES = " .:*#"


def cache(document: Document) -> List[str]:
    fetched = document["fetched"]
    failures = {kind: count for kind, count in fetched["failures"].items() if count}
    lines = [
        f"folder    {document['path'] or 'none: nothing is kept on disk'}",
        f"used      {units.human_size(document['used'])} of {units.human_size(document['size'])}",
        f"evicted   {units.human_size(document['evicted'])}",
        f"waiting   {document['waiting']} reads",
        "fetched   " + _by_purpose(fetched["bytes"]),
        "failures  " + (", ".join(f"{n} {kind}" for kind, n in failures.items()) or "none"),
    ]
    if document["memory"]:
        lines.append(f"memory    {units.human_size(document['memory'])}: its disk takes no more")
    rows = [_blob_row(one) for one in document["blobs"]]
    return [*lines, "", *table(("HERE", "SIZE", "", "DIGEST"), rows, left=0)] if rows else lines


def _by_purpose(counts: Document) -> str:
    return ", ".join(f"{units.human_size(count)} {purpose}" for purpose, count in counts.items())


def _blob_row(one: Document) -> Sequence[Any]:
    marks = [name for name in ("open", "pinned") if one[name]]
    here = units.human_size(one["used"])
    return here, units.human_size(one["size"]), " ".join(marks) or "-", one["digest"]


def blob(one: Document) -> List[str]:
    return ["  ".join(str(cell) for cell in _blob_row(one))]


def freed(document: Document) -> List[str]:
    return [f"{units.human_size(document['freed'])} given back"]


def prefetch(document: Document) -> List[str]:
    return [f"{document['device']}: {units.human_size(document['missing'])} are being fetched"]


def image_map(document: Document) -> List[str]:
    """A line a layer, the lowest first."""
    rows = [
        (
            f"|{''.join(_shade(part) for part in one['parts'])}|",
            ratio(sum(one["parts"]) / max(len(one["parts"]), 1)),
            units.human_size(one["size"]),
            one["digest"],
        )
        for one in document["layers"]
    ]
    head = (f"{_SHADES!r}: nothing to all of it", "HERE", "SIZE", "LAYER")
    lines = table(head, rows) if rows else []
    return lines + [f"{document['local_layers']} more layers are local files"]


def _shade(part: float) -> str:
    """Only what is all here is shown so, and only what is not here at all."""
    if part in (0, 1):
        return _SHADES[-1] if part else _SHADES[0]
    return _SHADES[1 + int(part * (len(_SHADES) - 2))]


def _pending(pending: List[Document]) -> List[str]:
    if not pending:
        return []
    rows = [(one["kind"], one["offset"], one["count"], duration(one["age_s"])) for one in pending]
    return ["", "not answered yet:", *table(("KIND", "OFFSET", "BYTES", "SINCE"), rows)]


def _lazily(one: Document) -> str:
    """Of an image that is fetched as it is read."""
    counters, remote = one["counters"], one["remote"]
    here, size = units.human_size(one["present_bytes"]), units.human_size(one["remote_bytes"])
    text = (
        f"{here} of {size} of its registry's layers are here;"
        f" {counters['misses']} times a read waited for the registry."
    )
    if remote["waiting"]:
        text += f" {remote['waiting']} wait now."
    if remote["download"]:
        done = units.human_size(remote["download"]["done"])
        text += f" Background download: {remote['download']['state']}, {done} so far."
    return text


def hang(document: Document) -> List[str]:
    if not document["commands"]:
        return [f"no command has waited for {document['age_s']:g} s"]
    rows = [
        (
            one["device"],
            one["kind"],
            duration(one["age_s"]),
            one["offset"],
            one["count"],
            one["config"],
        )
        for one in document["commands"]
    ]
    return table(("DEVICE", "KIND", "SINCE", "OFFSET", "BYTES", "CONFIG"), rows, left=2)


def findings(document: Document) -> List[str]:
    lines = []
    for one in document["findings"]:
        lines.append(f"{one['level']:<7}  {one['subject']}: {one['text']}")
        if one["advice"]:
            lines.append(f"         -> {one['advice']}")
    return lines
