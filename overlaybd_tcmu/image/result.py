# SPDX-License-Identifier: Apache-2.0
"""
The resultFile: how whoever attached an image learns why it failed.

Its content is exactly "success" or "failed:<reason>", without a newline. The directory is not made
for it, and a failure to write it is only logged: it must not fail an image that opened.
"""

import logging
import os

log = logging.getLogger("image.result")

SUCCESS = "success"
FAILED = "failed:"


def write(path: str, text: str) -> None:
    """Truncates first: the file may hold an older, longer outcome."""
    if not path:
        log.warning("no resultFile configured, result=%s", text)
        return
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        log.error("result not written path=%s error=%s", path, error.strerror)
