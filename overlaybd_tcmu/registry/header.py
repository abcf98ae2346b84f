# SPDX-License-Identifier: Apache-2.0
"""Dates and durations in HTTP headers, as seconds."""

import email.utils
import time
from typing import Any, Optional


def retry_after_s(headers: Any) -> Optional[float]:
    """Retry-After in seconds from now, either form; None without a proper one."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    then = date(text)
    if then is None:
        return None
    now = date(headers.get("Date", ""))
    return max(0.0, then - (time.time() if now is None else now))


def date(text: str) -> Optional[float]:
    """Seconds since the epoch; None when it is no date."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
