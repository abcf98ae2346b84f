# SPDX-License-Identifier: Apache-2.0
"""
What an answer means: the error of a status, and whether a range is the one that was asked for.

A 206 must be exactly the range, of a blob of the size we know. A 200 is the whole blob from a
server that ignores Range: its beginning is as good as asked for, what lies a little further on can
be reached by reading on, anything else is refused. Nothing is believed that a header contradicts.
"""

import json
import re
from typing import Optional, Tuple

from .. import errors, units
from . import client, url

SKIP = 1 * units.MiB  # bytes of a whole blob worth throwing away to reach a range

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19}|\*)", re.IGNORECASE)
_CODE = re.compile(r"[A-Za-z_]{1,64}")
_XML_CODE = re.compile(rb"<Code>([A-Za-z_]{1,64})</Code>")
_ERROR_BODY = 16 << 10

_Kind = errors.RegistryFailure


def refusal(response: client.Response, who: str) -> errors.RegistryError:
    """The error of an answer that is none of the good ones."""
    status = response.status
    code = _code(response)
    cause = f"{who}: answered {status}" + (f" {code}" if code else "")
    if status in (401, 403):
        return errors.RegistryError(_Kind.AUTH, cause)
    if status in (404, 410):
        return errors.RegistryError(_Kind.NOT_FOUND, cause)
    if status == 429:
        return errors.RegistryError(_Kind.THROTTLED, cause, retry_after_s=response.pause_s)
    if status >= 500 or status == 408:
        return errors.RegistryError(_Kind.SERVER, cause, retry_after_s=response.pause_s)
    return errors.RegistryError(_Kind.PROTOCOL, cause)


def _code(response: client.Response) -> str:
    """The error's code as registries (JSON) and object stores (XML) give it; nothing else of it."""
    if response.length is None or not 0 < response.length <= _ERROR_BODY:
        return ""
    try:
        body = response.read_all()
    except errors.RegistryError:
        return ""
    found = _XML_CODE.search(body)
    if found:
        return found.group(1).decode()
    try:
        code = json.loads(body)["errors"][0]["code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def content_range(response: client.Response) -> Tuple[Optional[Tuple[int, int]], Optional[int]]:
    """((offset, count), size) of Content-Range; None for what it does not say, or nonsense."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if not found:
        return None, None
    first, last, total = found.groups()
    size = None if total == "*" else int(total)
    if first is None:
        return None, size
    count = int(last) - int(first) + 1
    if count <= 0 or (size is not None and int(last) >= size):
        return None, None
    return (int(first), count), size


def size_of(response: client.Response) -> Optional[int]:
    """Bytes of the whole blob, as far as a good answer to a range request tells."""
    if response.status == 206:
        return content_range(response)[1]
    if response.status == 416:
        size = content_range(response)[1]
        return size if size == 0 else None  # an empty blob has no first byte
    return response.length


def check(
    response: client.Response, offset: int, count: int, size: Optional[int], digest: str
) -> int:
    """
    Bytes to skip before the range begins, of a 200 or 206. RegistryError when its body cannot be
    what was asked for: (offset, count) of a blob of that size (None: not known yet) and digest.
    """
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", ""):
        raise _wrong(response, f"is encoded as {encoding[:20]!r}")
    _check_digest(response, digest)
    if response.status == 200:
        return _check_whole(response, offset, size)
    place, total = content_range(response)
    if place is None:
        kind = response.headers.get("Content-Type", "")
        several = "several ranges" if kind.startswith("multipart/") else "a range without its place"
        raise _wrong(response, several)
    if place != (offset, count):
        raise _wrong(response, f"{place[1]} bytes at {place[0]} instead of {count} at {offset}")
    if total is not None and size is not None and total != size:
        raise _wrong(response, f"a blob of {total} bytes instead of {size}")
    if response.length not in (None, count):
        raise _wrong(response, f"{response.length} bytes instead of {count}")
    return 0


def _check_whole(response: client.Response, offset: int, size: Optional[int]) -> int:
    if response.length is None:
        raise _wrong(response, "ignores Range and does not tell its length")
    if size is not None and response.length != size:
        raise _wrong(response, f"ignores Range, and {response.length} bytes instead of {size}")
    if offset > SKIP:
        raise _wrong(response, f"ignores Range, and offset {offset} is too far to read on to")
    return offset


def _check_digest(response: client.Response, digest: str) -> None:
    """Where a server says which blob it sends, it is the right one."""
    algorithm = digest.partition(":")[0] + ":"
    for name in ("Docker-Content-Digest", "Etag"):
        said = response.headers.get(name, "").strip('"')
        if said.startswith(algorithm) and said != digest:
            raise _wrong(response, f"another blob: its {name} is not the digest")


def _wrong(response: client.Response, what: str) -> errors.RegistryError:
    return errors.RegistryError(_Kind.PROTOCOL, f"{url.shown(response.address)}: {what}")
