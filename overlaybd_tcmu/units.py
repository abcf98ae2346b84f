# SPDX-License-Identifier: Apache-2.0
"""Units of size and the one way to print them. A leaf: imports nothing of ours."""

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40

# Sectors exist only where a format or the kernel counts in them; everything else is bytes.
SECTOR = 512


def human_size(count: int) -> str:
    """4096 -> '4.0 KiB'; for people, never for machines."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
