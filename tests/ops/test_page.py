# SPDX-License-Identifier: Apache-2.0
"""The status page in a browser: what a reader sees of devices, and that nothing is amiss in it."""

import html.parser
import re
import shutil
import subprocess

import pytest

from ..support import layers
from .conftest import read

BROWSER = shutil.which("chromium")
TIMEOUT_S = 110


class Texts(html.parser.HTMLParser):
    """Texts of table cells, and of elements by id."""

    def __init__(self, document):
        super().__init__()
        self.cells, self.by_id, self._inside = [], {}, []
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        self._inside.append((tag, dict(attributes).get("id")))
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


def seen(daemon, budget_ms=5000):
    """What the page is after so long, by the browser's own clock."""
    url = f"http://127.0.0.1:{daemon.port('api')}/"
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
