# SPDX-License-Identifier: Apache-2.0
"""What only libc can be asked: how the process uses memory."""

import ctypes

_PR_SET_THP_DISABLE = 41
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_THRESHOLD = 128 * 1024


def limit_memory() -> None:
    """
    Keeps an idle daemon small; must run before there are threads. Never fails: it only saves.

    Huge pages would make 2 MiB of each thread's stack. And glibc raises both thresholds with the
    first large index it frees, then keeps what the next ones leave behind.
    """
    libc = ctypes.CDLL(None)
    unused = ctypes.c_ulong(0)
    libc.prctl(_PR_SET_THP_DISABLE, ctypes.c_ulong(1), unused, unused, unused)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, _THRESHOLD)
        libc.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
