# SPDX-License-Identifier: Apache-2.0
"""The status page in a browser: what a reader sees of devices, and that nothing is amiss in it."""

import html.parser
import json
import re
import shutil
import subprocess

import pytest

from ..native import lazy
from ..support import layers
from .conftest import read

BROWSER = shutil.which("chromium")
TIMEOUT_S = 110


class Texts(html.parser.HTMLParser):
    """Texts of table cells, and of elements by id."""

    def __init__(self, document):
        super().__init__()
        self.cells, self.by_id, self._inside, self.parts = [], {}, [], []
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        self._inside.append((tag, dict(attributes).get("id")))
        if tag == "rect":
            self.parts.append({name: float(text) for name, text in attributes})
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if any(tag == "td" for tag, _ in self._inside):
            self.cells[-1] += data
        if self._inside and self._inside[-1][1]:
            self.by_id[self._inside[-1][1]] = data


def seen(daemon, what="", budget_ms=5000):
    """What the page, of a device or not, is after so long by the browser's own clock."""
    url = f"http://127.0.0.1:{daemon.port('api')}/{what}"
    profile = daemon.folder / "profile"
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-dev-shm-usage", f"--user-data-dir={profile}", "--enable-logging=stderr",
               f"--virtual-time-budget={budget_ms}", "--dump-dom", url]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert run.returncode == 0, run.stderr
    assert not re.findall(r"CONSOLE.*(?:Error|Refused).*", run.stderr), run.stderr
    return Texts(run.stdout)


@pytest.mark.skipif(not BROWSER, reason="no chromium here")
@pytest.mark.timeout(120)
def test_a_reader_sees_the_devices(daemon):
    daemon.start(api={"address": "http://127.0.0.1:0"})
    config = daemon.image("<b>&lt")
    kernel = daemon.add(config)
    for _ in range(3):
        read(kernel)
    daemon.service.add("/none/config.v1.json")
    page = seen(daemon)
    assert page.by_id["status"] == "OK"
    assert page.by_id["about"].startswith("version ")
    assert page.by_id["count"] == "1"
    assert re.fullmatch(r"[\d.]+ \w+/s", page.by_id["rate"])
    assert page.cells[:4] == ["uio0", "serving", f"{4 * layers.CLUSTER >> 10}.0 KiB", "1"]
    assert str(config) in page.cells, "shown as it is, not as markup"


@pytest.mark.skipif(not BROWSER, reason="no chromium here")
@pytest.mark.timeout(120)
def test_a_reader_sees_what_is_here_of_an_image(daemon, server, rng):
    daemon.start(api={"address": "http://127.0.0.1:0"}, cacheConfig=daemon.cache())
    stream = lazy.stream_of(rng, 8192)[1]
    config = daemon.lazy_image(server, stream)
    kernel = daemon.add(config, "id")
    read(kernel, 4096)
    page = seen(daemon, "#uio0")
    assert page.by_id["mapped"] == f"uio0 ({config})"
    assert re.fullmatch(r"\d+\.\d % of the \S+ MiB in a registry is here\.", page.by_id["map-note"])
    # the parts that are here: opening's at both ends, and what was read in the middle
    assert [part["x"] for part in page.parts][0] == 0
    assert max(part["x"] + part["width"] for part in page.parts) == 256
    assert any(100 < part["x"] < 156 for part in page.parts)
    assert sum(part["width"] for part in page.parts) < 128
    assert json.loads(config.read_text())["lowers"][0]["digest"][7:19] in page.cells


@pytest.mark.skipif(not BROWSER, reason="no chromium here")
@pytest.mark.timeout(120)
def test_an_image_that_is_all_local(daemon):
    daemon.start(api={"address": "http://127.0.0.1:0"})
    read(daemon.add(daemon.image()))
    page = seen(daemon, "#uio0")
    assert {"read", "  lookup", "  decode"} <= set(page.cells), "where the time of its reads went"
    assert page.by_id["map-note"] == "All of it: its layers are local files."
    assert "local" in page.cells and not page.parts
