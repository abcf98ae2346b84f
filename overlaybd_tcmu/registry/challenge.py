# SPDX-License-Identifier: Apache-2.0
"""
WWW-Authenticate, as RFC 9110 writes it: any number of challenges, names in any case, spaces
anywhere, values quoted or not.
"""

import dataclasses
import re
from typing import Dict, Iterable, List, Mapping

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:\s+|\s*(?=,)|\s*$)")
# Unquoted values are taken up to the next delimiter: some servers quote no URL.
_PARAMETER = re.compile(
    rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",=][^\s",]*))\s*(?=,|$)'
)
_TOKEN68 = re.compile(r"[\s,]*[A-Za-z0-9._~+/-]+=*\s*(?=,|$)")


@dataclasses.dataclass(frozen=True)
class Challenge:
    scheme: str  # in lower case
    parameters: Mapping[str, str]  # names in lower case


def parse(values: Iterable[str]) -> List[Challenge]:
    """The challenges of all WWW-Authenticate headers; what cannot be read ends a header's list."""
    return [one for value in values for one in _parse_one(value)]


def _parse_one(value: str) -> List[Challenge]:
    found: List[Challenge] = []
    at = 0
    while True:
        scheme = _SCHEME.match(value, at)
        if scheme is None:
            return found
        at = scheme.end()
        parameters: Dict[str, str] = {}
        parameter = _PARAMETER.match(value, at)
        if parameter is None:
            blob = _TOKEN68.match(value, at)
            # "Negotiate, Basic ...": what follows the comma is the next scheme.
            if blob is not None and not value[at:].lstrip().startswith(","):
                at = blob.end() if "=" in blob.group() else at
        while parameter is not None:
            name, quoted, plain = parameter.groups()
            text = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(name.lower(), text)
            at = parameter.end()
            parameter = _PARAMETER.match(value, at)
        found.append(Challenge(scheme.group(1).lower(), parameters))
