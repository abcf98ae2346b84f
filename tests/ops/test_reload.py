# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: what of another configuration acts at once, what later; a bad one changes nothing."""

import json
import re
import signal

import pytest

from ..native import lazy
from .conftest import read, until
from .test_metrics import samples, value


@pytest.fixture
def stream(rng):
    return lazy.stream_of(rng, 4096)[1]


def reload(daemon, text=None, **changes):
    """Reads the file again, with these sections changed; the lines the log then has about it."""
    path = daemon.service.config_path
    document = json.loads(path.read_text())
    for section, keys in changes.items():
        if isinstance(keys, dict):
            keys = {**document.get(section, {}), **keys}
        document[section] = keys
    path.write_text(json.dumps(document) if text is None else text)
    seen = len(daemon.service.log())
    daemon.service.send_signal(signal.SIGHUP)
    lines = until(
        lambda: re.search(
            r"(?s).*configuration (?:not )?read again.*?\n", daemon.service.log()[seen:]
        )
    )
    return lines.group().splitlines()


def said(lines, text):
    return [line for line in lines if text in line]


def test_nothing_has_changed(daemon):
    daemon.start()
    assert said(reload(daemon), "configuration read again changes=0")


def test_log_level(daemon):
    daemon.start()
    lines = reload(daemon, logConfig={"logLevel": 1})
    assert said(lines, "reload key=logConfig.logLevel old=0 new=1 acts=from now on")
    assert daemon.get("/v1/log-level")["level"] == 1


def test_a_level_set_by_hand_stays(daemon):
    daemon.start()
    daemon.ask("/v1/log-level", "PUT", b'{"level": 1}')
    reload(daemon)
    assert daemon.get("/v1/log-level")["level"] == 1


def test_size_of_the_cache(daemon, server, stream):
    daemon.start(cacheConfig=daemon.cache(cacheSizeGB=2))
    daemon.add(daemon.lazy_image(server, stream))
    reload(daemon, cacheConfig={"cacheSizeGB": 1})
    assert value(samples(daemon), "overlaybd_cache_size_bytes") == 1 << 30


def test_a_smaller_cache_gives_back_what_is_too_much(daemon, server, rng):
    streams = [lazy.stream_of(rng, 8192)[1] for _ in range(2)]  # 4 MiB; the least is 1 MiB
    daemon.start(cacheConfig=daemon.cache(cacheSizeGB=1))
    config = daemon.lazy_image(server, *streams)
    daemon.add(config)
    daemon.ask("/v1/prefetch", "POST", b'{"device": "uio0"}')
    until(lambda: daemon.get("/v1/cache")["used"] == sum(map(len, streams)))
    reload(daemon, cacheConfig={"cacheSizeGB": 0})
    until(lambda: daemon.get("/v1/cache")["used"] < 1 << 20)


def test_credentials(daemon, server, stream):
    server.require_basic({"me": "secret"})
    (daemon.folder / "cred.json").write_text(
        json.dumps(
            {"auths": {server.repo_url().split("/")[2]: {"username": "me", "password": "secret"}}}
        )
    )
    (daemon.folder / "cred.json").chmod(0o600)
    none = {"mode": "file", "path": str(daemon.folder / "none.json")}
    daemon.start(cacheConfig=daemon.cache(), credentialConfig=none)
    config = daemon.lazy_image(server, stream)
    assert daemon.service.add(config) < 0
    lines = reload(daemon, credentialConfig={"path": str(daemon.folder / "cred.json")})
    assert said(lines, "reload key=credentialConfig.path acts=from now on")
    daemon.add(config)


def test_rate_of_a_download_under_way(daemon, server, rng):
    stream = lazy.stream_of(rng, 16 * 1024)[1]
    once = {"enable": True, "delay": 0, "delayExtra": 0}
    daemon.start(cacheConfig=daemon.cache(), download={**once, "maxMBps": 1})
    daemon.add(daemon.lazy_image(server, stream))
    lines = reload(daemon, download={"maxMBps": 0})
    assert said(lines, "reload key=download.maxMBps old=1 new=0 acts=from now on")
    name = "overlaybd_device_download"
    until(lambda: value(samples(daemon), name, state="done"))


def test_what_a_device_does_is_what_it_started_with(daemon, server, stream):
    daemon.start(cacheConfig=daemon.cache())
    lines = reload(daemon, outageConfig={"onOutage": "eio", "deadline": 1})
    assert said(lines, "key=outageConfig.onOutage old=block new=eio acts=from the next device on")
    kernel = daemon.add(daemon.lazy_image(server, stream))
    server.down()
    assert read(kernel, 2048).status != 0, "it ends, as the new configuration says"


def test_the_audit_log(daemon):
    daemon.start()
    reload(daemon, auditPath=str(daemon.folder / "other.log"))
    assert (daemon.folder / "other.log").exists()


def test_what_only_a_start_changes(daemon):
    daemon.start()
    for changes, key in (
        ({"cacheConfig": {"cacheType": "file", "cacheDir": "/elsewhere"}}, "cacheConfig.cacheDir"),
        ({"userAgent": "me"}, "userAgent"),
        ({"exporterConfig": {"port": 1}}, "exporterConfig.port"),
    ):
        (line,) = said(reload(daemon, **changes), f"key={key} ")
        assert line.endswith("acts=at the next start") and "|WARN |" in line
    assert samples(daemon)


def test_a_file_that_is_refused_changes_nothing(daemon):
    daemon.start()
    for text in ("", "{", '{"ioEngine": 7}', '{"logConfig": {"logLevel": "x"}}'):
        (daemon.folder / "good.json").write_text(daemon.service.config_path.read_text())
        (line,) = said(reload(daemon, text=text), "configuration not read again, all stays")
        assert "|ERROR|" in line
        daemon.service.config_path.write_text((daemon.folder / "good.json").read_text())
    assert daemon.get("/v1/log-level")["level"] == 0
    read(daemon.add(daemon.image()))
