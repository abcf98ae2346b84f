# SPDX-License-Identifier: Apache-2.0
"""The API's answers: each is what docs/api.schema.json says, and moves with what it tells."""

import json
import os
import pathlib
import stat

import jsonschema

from overlaybd_tcmu import __version__

from ..support import layers
from .conftest import read

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs" / "api.schema.json").read_text())


def checked(name, answer):
    """The answer, if it is what the schema says of that name."""
    wanted = {**SCHEMA, "$ref": f"#/definitions/{name}"}
    jsonschema.Draft7Validator(wanted).validate(answer)
    return answer


def test_the_schema_is_one():
    jsonschema.Draft7Validator.check_schema(SCHEMA)


# ---- health


def test_health(daemon):
    daemon.start()
    before = checked("health", daemon.get("/v1/health"))
    assert (before["status"], before["devices"], before["version"]) == ("ok", {}, __version__)
    daemon.add(daemon.image())
    assert daemon.service.add("/none/config.v1.json") < 0
    after = checked("health", daemon.get("/v1/health"))
    assert (after["devices"], after["open_failures"]) == ({"serving": 1}, 1)
    assert after["uptime_s"] > before["uptime_s"]


def test_a_device_that_could_not_be_taken_over_degrades_health(daemon):
    config = daemon.image()
    (config.parent / "layer").unlink()
    daemon.service.add_live(config)
    daemon.start()
    health = checked("health", daemon.get("/v1/health"))
    assert (health["status"], health["devices"]) == ("degraded", {"failed": 1})
    (one,) = checked("devices", daemon.get("/v1/devices"))["devices"]
    assert "no such file" in one["error"]


# ---- devices


def test_devices_come_and_go(daemon):
    daemon.start()
    assert daemon.get("/v1/devices") == {"devices": []}
    config = daemon.image()
    daemon.add(config, "seven")
    (one,) = checked("devices", daemon.get("/v1/devices"))["devices"]
    assert (one["name"], one["id"], one["config"]) == ("uio0", "seven", str(config))
    assert (one["state"], one["size"], one["layers"]) == ("serving", 4 * layers.CLUSTER, 1)
    daemon.service.ask("remove 0")
    assert daemon.get("/v1/devices") == {"devices": []}


def test_detail_by_name_and_by_id(daemon):
    daemon.start()
    kernel = daemon.add(daemon.image(), "id/with a slash")
    before = checked("device", daemon.get("/v1/devices/uio0"))
    for _ in range(3):
        read(kernel)
    after = checked("device", daemon.get("/v1/devices/id/with%20a%20slash"))
    assert (before["reads"], after["reads"]) == (0, 3)
    assert after["latency"]["read"]["count"] == sum(after["latency"]["read"]["buckets"]) == 3
    assert 0 < after["latency"]["read"]["p50_s"] <= after["latency"]["read"]["max_s"]
    assert after["counters"]["read_bytes"] == after["read_bytes"] == 3 * layers.CLUSTER
    assert len(after["bounds_s"]) + 1 == len(after["latency"]["read"]["buckets"])


def test_a_device_there_is_not(daemon):
    daemon.start()
    daemon.add(daemon.image())  # it has no id, and "" is not that
    for path in ("/v1/devices/uio7", "/v1/devices/", "/v1/devices/%00"):
        status, answer = daemon.ask(path)
        assert status == 404
        checked("refusal", answer)


# ---- log level


def test_log_level_is_set_and_acts(daemon):
    daemon.start(logConfig={"logPath": str(daemon.service.log_path), "logLevel": 1})
    assert daemon.get("/v1/log-level") == {"level": 1, "name": "info"}
    daemon.add(daemon.image("quiet"))
    assert "layers opened" not in daemon.service.log()
    status, answer = daemon.ask("/v1/log-level", "PUT", b'{"level": 0}')
    assert (status, answer) == (200, checked("log-level", {"level": 0, "name": "debug"}))
    assert daemon.get("/v1/log-level") == answer
    daemon.add(daemon.image("loud"))
    assert "layers opened" in daemon.service.log()


BAD_LEVELS = [
    (b"", "is not JSON"),
    (b"[]", "must be an object"),
    (b"{}", "'level' is a required property"),
    (b'{"level": 5}', "body: level: must be at most 4, not 5"),
    (b'{"level": "debug"}', 'body: level: must be an integer, not "debug"'),
    (b'{"level": 1, "other": 2}', "'other' was unexpected"),
    (b'{"level": 1, "level": 2}', "is given twice"),
    (b"\xff\xfe", "is not JSON"),
]


def test_a_level_that_is_none(daemon):
    daemon.start()
    for body, said in BAD_LEVELS:
        status, answer = daemon.ask("/v1/log-level", "PUT", body)
        assert status == 400
        assert said in checked("refusal", answer)["error"]
    assert daemon.get("/v1/log-level")["level"] == 0


# ---- who may ask


def test_the_socket_is_for_its_owner_and_group(daemon):
    daemon.start()
    assert stat.S_IMODE(os.stat(daemon.socket).st_mode) == 0o660
    daemon.service.stop()
    assert not os.path.exists(daemon.socket)


def test_a_socket_left_over_is_replaced(daemon):
    daemon.start()
    daemon.service.stop(9)
    assert os.path.exists(daemon.socket)
    (daemon.folder / "tcmu").unlink()  # the fake libtcmu's, which does not
    daemon.service.start()
    assert daemon.get("/v1/health")["status"] == "ok"


def test_a_file_that_is_no_socket_is_left_alone(daemon):
    pathlib.Path(daemon.socket).write_text("precious")
    daemon.start()
    assert "exists and is no socket" in daemon.service.log()
    assert pathlib.Path(daemon.socket).read_text() == "precious"
    read(daemon.add(daemon.image()))


# ---- the page


def test_the_page_is_one_file_that_loads_nothing(daemon):
    daemon.start()
    status, page = daemon.ask("/")
    assert status == 200
    text = page.decode()
    assert text.startswith("<!doctype html>") and "//" not in text.replace("http://www.w3.org", "")
