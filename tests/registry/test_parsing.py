# SPDX-License-Identifier: Apache-2.0
"""What servers write into headers: challenges, dates; and URLs, as they may be used and shown."""

import pytest

from overlaybd_tcmu.registry import challenge, header, url


def parsed(*values):
    return [(one.scheme, dict(one.parameters)) for one in challenge.parse(values)]


@pytest.mark.parametrize("text, expected", [
    ('Bearer realm="r"', [("bearer", {"realm": "r"})]),
    ('Bearer realm="r",service="s",scope="a:b:pull,push"',
     [("bearer", {"realm": "r", "service": "s", "scope": "a:b:pull,push"})]),
    ('bEARER  rEALM = "r" , Service=s', [("bearer", {"realm": "r", "service": "s"})]),
    ("Bearer realm=https://h/t,service=s",
     [("bearer", {"realm": "https://h/t", "service": "s"})]),
    ('Basic realm="a, b=\\"c\\" \\\\"', [("basic", {"realm": 'a, b="c" \\'})]),
    ("Basic", [("basic", {})]),
    ('Basic, Bearer realm="r"', [("basic", {}), ("bearer", {"realm": "r"})]),
    ('Basic realm="x", Bearer realm="r", scope=y',
     [("basic", {"realm": "x"}), ("bearer", {"realm": "r", "scope": "y"})]),
    ("Negotiate YWJj==, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
    ("NTLM TlRMTVNTUAAC=", [("ntlm", {})]),
    (', ,Bearer realm="r",,', [("bearer", {"realm": "r"})]),
    ('Bearer realm="r", realm="s"', [("bearer", {"realm": "r"})]),
    ('Bearer realm=""', [("bearer", {"realm": ""})]),
    ('Bearer realm="open', [("bearer", {})]),
    ("", []),
    ("=", []),
    ('"', []),
    ("\x00", []),
])  # fmt: skip
def test_challenge(text, expected):
    assert parsed(text)[: len(expected)] == expected
    assert len(parsed(text)) <= len(expected) + 1


def test_challenges_of_several_headers():
    assert parsed("Basic", "Bearer realm=r") == [("basic", {}), ("bearer", {"realm": "r"})]


def test_long_nonsense_takes_no_time():
    for text in ('Bearer a="' + "\\" * 60_000, "a" * 60_000, "a=" * 30_000, ", " * 30_000):
        parsed(text)


@pytest.mark.parametrize("value, date, seconds", [
    ("120", None, 120.0),
    (" 5 ", None, 5.0),
    ("0", None, 0.0),
    ("Tue, 14 Nov 2023 22:14:20 GMT", "Tue, 14 Nov 2023 22:13:20 GMT", 60.0),
    ("Tue, 14 Nov 2023 22:12:20 GMT", "Tue, 14 Nov 2023 22:13:20 GMT", 0.0),
    ("-5", None, None), ("1.5", None, None), ("soon", None, None), ("", None, None),
    ("9" * 400, None, None), ("\u0665", None, None), ("Tue, 99 Nov 9999 99:99:99 GMT", None, None),
])  # fmt: skip
def test_retry_after(value, date, seconds):
    headers = {"Retry-After": value, **({"Date": date} if date else {})}
    assert header.retry_after_s(headers) == seconds


def test_no_retry_after():
    assert header.retry_after_s({}) is None


@pytest.mark.parametrize("text, origin, shown", [
    ("https://h/a?secret", "https://h", "https://h/a"),
    ("https://u:secret@H:443/a#secret", "https://h", "https://h/a"),
    ("http://h:80", "http://h", "http://h"),
    ("http://h:443/", "http://h:443", "http://h:443/"),
    ("https://[::1]:5000/x", "https://[::1]:5000", "https://[::1]:5000/x"),
])  # fmt: skip
def test_url(text, origin, shown):
    assert url.problem(text) == ""
    assert (url.origin_of(text), url.shown(text)) == (origin, shown)


@pytest.mark.parametrize("location, expected", [
    ("/x", "https://h/x"), ("x", "https://h/a/x"), ("//o/x", "https://o/x"),
    ("http://o/x#part", "http://o/x"), ("?q", "https://h/a/b?q"), ("file:///x", None),
    ("http://o x/", None), ("\nX: y", None),
])  # fmt: skip
def test_location(location, expected):
    assert url.resolved("https://h/a/b", location) == expected
