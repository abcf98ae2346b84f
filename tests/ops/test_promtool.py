# SPDX-License-Identifier: Apache-2.0
"""Prometheus' own tool about the alert rules, when they fire, and what the exporter says."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest

from .conftest import read

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = ROOT / "docs" / "alerts.yml"
PROMTOOL = shutil.which("promtool", path=f"{ROOT / 'build'}:/usr/bin:/usr/local/bin")

pytestmark = pytest.mark.skipif(not PROMTOOL, reason="no promtool; .ci/setup could not take it")


def promtool(*arguments, **more):
    command = [PROMTOOL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, **more)


def test_the_rules_are_rules():
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


JOB = 'job="overlaybd",instance="a"'
DEVICE = f'{JOB},device="uio0",image="c"'
ALIVE = [(f"OverlayBD_Alive{{{JOB}}}", "1x90"), (f"up{{{JOB}}}", "1x90")]
BUCKET = f'overlaybd_request_duration_seconds_bucket{{{JOB},kind="read",le='

# A series for each alert that makes it fire, beside a service that is up.
FIRE = {
    "OverlaybdCommandHangs": [(f"overlaybd_device_hung{{{DEVICE}}}", "1x90")],
    "OverlaybdDeviceNotServed": [(f'overlaybd_devices{{{JOB},state="failed"}}', "1x90")],
    "OverlaybdErrors": [(f'overlaybd_errors_total{{{JOB},kind="read"}}', "0+1x90")],
    "OverlaybdRegistryAway": [
        (f"overlaybd_cache_waiting{{{JOB}}}", "2x90"),
        (f'overlaybd_registry_errors_total{{{JOB},kind="timeout"}}', "0+1x90"),
    ],
    "OverlaybdRegistryErrors": [
        (f'overlaybd_registry_errors_total{{{JOB},kind="auth"}}', "0+1x90")
    ],
    "OverlaybdCacheTooSmall": [
        (f"overlaybd_cache_evicted_bytes_total{{{JOB}}}", "0+100x90"),
        (f"overlaybd_cache_size_bytes{{{JOB}}}", "1000x90"),
    ],
    "OverlaybdCacheDiskFull": [(f"overlaybd_cache_memory_bytes{{{JOB}}}", "4096x90")],
    "OverlaybdDownloadFailed": [(f'overlaybd_device_download{{{DEVICE},state="failed"}}', "1x90")],
    "OverlaybdSlowReads": [(BUCKET + '"1"}', "0x90"), (BUCKET + '"2"}', "0+9x90"),
                           (BUCKET + '"+Inf"}', "0+9x90")],  # fmt: skip
    "OverlaybdRestarts": [(f"process_start_time_seconds{{{JOB}}}", "1+1x90")],
    "OverlaybdFewDescriptorsLeft": [
        (f"process_open_fds{{{JOB}}}", "90x90"),
        (f"process_max_fds{{{JOB}}}", "100x90"),
    ],
}

# The same series of a service that is well.
CALM = [
    (f"overlaybd_device_hung{{{DEVICE}}}", "0x90"),
    (f'overlaybd_devices{{{JOB},state="failed"}}', "0x90"),
    (f'overlaybd_errors_total{{{JOB},kind="read"}}', "3x90"),
    (f"overlaybd_cache_waiting{{{JOB}}}", "2x90"),
    (f'overlaybd_registry_errors_total{{{JOB},kind="closed"}}', "0+1x90"),
    (f"overlaybd_cache_evicted_bytes_total{{{JOB}}}", "0+10x90"),
    (f"overlaybd_cache_size_bytes{{{JOB}}}", "1000x90"),
    (f"overlaybd_cache_memory_bytes{{{JOB}}}", "0x90"),
    (f'overlaybd_device_download{{{DEVICE},state="failed"}}', "0x90"),
    (BUCKET + '"1"}', "0+9x90"),
    (BUCKET + '"+Inf"}', "0+9x90"),
    (f"process_start_time_seconds{{{JOB}}}", "1x90"),
    (f"process_open_fds{{{JOB}}}", "9x90"),
    (f"process_max_fds{{{JOB}}}", "100x90"),
]


def unit(name, series, alerts):
    """A case for promtool: how many of each alert fire after an hour and more."""
    checks = [
        {
            "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
            "eval_time": "80m",
            "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
        }
        for alert, fires in alerts.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in series]
    return {
        "name": name,
        "interval": "1m",
        "input_series": inputs,
        "promql_expr_test": checks,
    }


def test_each_alert_fires_when_it_should_and_only_then(tmp_path):
    names = re.findall(r"alert: (\w+)", RULES.read_text())
    assert set(names) == {*FIRE, "OverlaybdDown"}
    cases = [unit("well", ALIVE + CALM, dict.fromkeys(names, False))]
    cases.append(unit("down", [(f"up{{{JOB}}}", "0x90")], {"OverlaybdDown": True}))
    cases.append(unit("not there", [('up{job="other"}', "1x90")], {"OverlaybdDown": True}))
    cases += [unit(name, ALIVE + series, {name: True}) for name, series in FIRE.items()]
    cases_path = tmp_path / "cases.json"  # which is YAML
    cases_path.write_text(json.dumps({"rule_files": [str(RULES)], "tests": cases}))
    done = promtool("test", "rules", cases_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_exporter_speaks_as_prometheus_likes_it(daemon):
    """The original's names are not snake case; about ours there is nothing to complain."""
    daemon.start()
    read(daemon.add(daemon.image()))
    done = promtool("check", "metrics", input=daemon.scrape()[2])
    complaints = (done.stdout + done.stderr).splitlines()
    assert {line.split()[0].split("_")[0] for line in complaints} == {"OverlayBD"}
    assert all("snake_case" in line for line in complaints)
