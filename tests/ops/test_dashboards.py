# SPDX-License-Identifier: Apache-2.0
"""The dashboard, the alert rules and docs/metrics.md name metrics and labels there are, and all."""

import json
import pathlib
import random
import re

import pytest
from prometheus_client import parser

from ..native import lazy
from ..support import fault_registry

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
DASHBOARD = json.loads((DOCS / "grafana.json").read_text())
ALERTS = (DOCS / "alerts.yml").read_text()

# What Prometheus adds to every sample.
ADDED = {"instance", "job"}
WORD = re.compile(r"\b(?:overlaybd|OverlayBD|process)_\w+")
SELECTOR = re.compile(r"\b((?:overlaybd|OverlayBD|process)_\w+)\{([^}]*)\}")


def expressions():
    """Every query of the dashboard and the rules."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]
    for text in re.findall(r"expr: (?:>-\n)?((?:.|\n {10})+)", ALERTS):
        yield text


@pytest.fixture(scope="module")
def exported(tmp_path_factory, fake_libtcmu):
    """{sample name: {its labels: their values}} of a daemon that has done some work."""
    from ..daemon.conftest import Service
    from .conftest import Daemon, read

    service = Service(tmp_path_factory.mktemp("exported"), fake_libtcmu)
    daemon = Daemon(service)
    try:
        daemon.start(cacheConfig=daemon.cache(), download={"enable": True})
        read(daemon.add(daemon.image()))
        with fault_registry.FaultRegistry() as server:
            stream = lazy.stream_of(random.Random(1), 256)[1]
            read(daemon.add(daemon.lazy_image(server, stream)))
        text = daemon.scrape()[2]
    finally:
        daemon.close()
        service.kill()
    found = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def test_there_are_queries():
    assert len(list(expressions())) > 20


def test_every_query_names_metrics_there_are(exported):
    for expression in expressions():
        names = WORD.findall(expression)
        assert names and set(names) <= set(exported), expression


def test_every_query_names_labels_there_are(exported):
    for expression in expressions():
        for name, labels in SELECTOR.findall(expression):
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))
            assert used <= exported[name].keys() | ADDED, expression
        metrics = WORD.findall(expression)
        known = set().union(*(exported[name] for name in metrics)) | ADDED
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            assert set(re.findall(r"\w+", group)) <= known, expression


def test_every_query_asks_for_values_there_are(exported):
    """Stages, kinds, states: what is renamed would vanish from a panel without a word."""
    asked = 0
    for expression in expressions():
        for name, labels in SELECTOR.findall(expression):
            for label, value in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', labels):
                if label in ADDED or "$" in value:
                    continue
                asked += 1
                assert set(value.split("|")) <= exported[name][label], expression
    assert asked > 5


def test_every_metric_is_documented(exported):
    text = (DOCS / "metrics.md").read_text()
    named = set(WORD.findall(text)) - {"process_"}
    ours = {name for name in exported if not name.startswith("process_")}
    bare = {re.sub(r"_(bucket|count|sum)$", "", name) for name in ours}
    assert {name for name in named if not name.startswith("process_")} == bare
