# SPDX-License-Identifier: Apache-2.0
"""
How long a signed URL of an object store is good for, as far as it tells.

    X-Amz-Expires, X-Goog-Expires     seconds from when it was signed (S3, Google)
    Expires                           seconds since the epoch (CloudFront, OSS, older S3)
    se                                a date (Azure)

Dates are compared with the Date of the answer that gave the URL, so our clock does not matter.
"""

import datetime
import time
import urllib.parse
from typing import Any, Optional

from . import header

MARGIN_S = 10.0  # a request under way must still be in time
_RELATIVE = ("x-amz-expires", "x-goog-expires")


def lifetime_s(address: str, headers: Any) -> Optional[float]:
    """Seconds to use the URL for; None: until it is refused. headers: of the redirect."""
    query = urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query)
    values = {name.lower(): value for name, value in query}
    whole = _whole(values, header.date(headers.get("Date", "")))
    # One that seems to be over already says more about clocks than about the URL.
    return whole - MARGIN_S if whole is not None and whole > 2 * MARGIN_S else None


def _whole(values: Any, now: Optional[float]) -> Optional[float]:
    now = time.time() if now is None else now
    for name in _RELATIVE:
        if name in values:
            return _number(values[name])
    if "expires" in values:
        end = _number(values["expires"])
        return None if end is None else end - now
    if "se" in values:
        try:
            end = datetime.datetime.fromisoformat(values["se"].replace("Z", "+00:00")).timestamp()
        except (ValueError, OverflowError):
            return None
        return end - now
    return None


def _number(text: str) -> Optional[float]:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
