# SPDX-License-Identifier: Apache-2.0
"""The service configuration: both forms, defaults, precedence, and complaints that name the key."""

import json
import pathlib

import jsonschema
import pytest

from overlaybd_tcmu import config, errors

SHIPPED = pathlib.Path(__file__).resolve().parents[2] / "etc" / "overlaybd" / "overlaybd.json"

# Every key, with a value that is not its default.
NESTED = {
    "logConfig": {"logLevel": 3, "logPath": "/l", "logSizeMB": 7, "logRotateNum": 4},
    "cacheConfig": {
        "cacheType": "ocf",
        "cacheDir": "/c",
        "cacheSizeGB": 5,
        "refillSize": 8192,
        "blockSize": 4096,
    },
    "gzipCacheConfig": {"enable": True, "cacheDir": "/g", "cacheSizeGB": 6, "refillSize": 1},
    "credentialConfig": {
        "mode": "https",
        "path": "/p",
        "timeout": 2,
        "client_cert_path": "/cc",
        "client_key_path": "/ck",
        "server_ca_path": "/ca",
    },
    "ioEngine": 2,
    "download": {
        "enable": True,
        "delay": 1,
        "delayExtra": 2,
        "maxMBps": -1,
        "tryCnt": 3,
        "blockSize": 4,
    },
    "outageConfig": {"onOutage": "eio", "deadline": 7},
    "p2pConfig": {"enable": True, "address": "a"},
    "exporterConfig": {
        "enable": True,
        "uriPrefix": "/u",
        "port": 1,
        "updateInterval": 2,
        "address": "::",
    },
    "enableAudit": False,
    "auditPath": "/a",
    "enableThread": True,
    "registryFsVersion": "v1",
    "prefetchConfig": {"concurrency": 1},
    "registryConfig": {"hostsDir": "/h"},
    "certConfig": {"certFile": "/cf", "keyFile": "/kf"},
    "userAgent": "u",
    "serviceConfig": {"enable": True, "address": "http://10.0.0.1:1", "allowRemote": True},
}

FLAT = {
    "logLevel": 0,
    "logPath": "/flat/log",
    "registryCacheDir": "/flat/cache",
    "registryCacheSizeGB": 9,
    "cacheType": "download",
    "credentialFilePath": "/flat/cred",
}


def parsed(document):
    return config.parse("o.json", document)[0]


def leaves(document, prefix=""):
    for name, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def with_key(dotted, value):
    """A document with nothing but this key."""
    head, _, rest = dotted.partition(".")
    return {head: with_key(rest, value) if rest else value}


def test_empty_object_is_legal_and_has_the_flat_defaults():
    service = parsed({})
    assert (service.log.level, service.log.path) == (1, "/var/log/overlaybd.log")
    assert (service.cache.type, service.cache.dir) == ("file", "/opt/overlaybd/registry_cache")
    assert (service.credential.mode, service.credential.path) == (
        "file",
        "/opt/overlaybd/cred.json",
    )
    assert service.cache.size_gb == 4
    assert service.io_engine == 0
    assert service.enable_audit and service.audit_path == "/var/log/overlaybd-audit.log"


@pytest.mark.parametrize(
    "key, default",
    [
        ("gzipCacheConfig.enable", False),
        ("gzipCacheConfig.cacheDir", "/opt/overlaybd/gzip_cache"),
        ("gzipCacheConfig.refillSize", 1048576),
        ("cacheConfig.refillSize", 262144),
        ("cacheConfig.blockSize", 65536),
        ("logConfig.logSizeMB", 10),
        ("logConfig.logRotateNum", 3),
        ("credentialConfig.timeout", 1),
        ("download.enable", False),
        ("download.delay", 300),
        ("download.delayExtra", 30),
        ("download.maxMBps", 100),
        ("download.tryCnt", 5),
        ("download.blockSize", 262144),
        ("p2pConfig.address", "http://localhost:9731/accelerator"),
        ("exporterConfig.uriPrefix", "/metrics"),
        ("exporterConfig.port", 9863),
        ("exporterConfig.updateInterval", 60000000),
        ("enableThread", False),
        ("registryFsVersion", "v2"),
        ("registryConfig.hostsDir", "/etc/containerd/certs.d"),
        ("prefetchConfig.concurrency", 16),
        ("certConfig.certFile", ""),
        ("userAgent", ""),
        ("serviceConfig.enable", False),
        ("serviceConfig.address", "http://127.0.0.1:9862"),
    ],
)
def test_documented_default(key, default):
    effective = dict(leaves(json.loads(config.show(parsed({})))))
    assert effective[key] == default


def test_every_nested_key_arrives():
    assert json.loads(config.show(parsed(NESTED))) == NESTED


def test_every_flat_key_arrives_when_the_nested_ones_are_empty():
    service = parsed(FLAT)
    assert (service.log.level, service.log.path) == (0, "/flat/log")
    assert (service.cache.type, service.cache.dir) == ("download", "/flat/cache")
    assert service.cache.size_gb == 9
    assert (service.credential.mode, service.credential.path) == ("file", "/flat/cred")


def test_nested_keys_win_over_flat_ones():
    assert json.loads(config.show(parsed({**NESTED, **FLAT}))) == NESTED


@pytest.mark.parametrize(
    "section, key",
    [
        ({"serviceConfig": {"enable": True, "address": "tcp://x"}}, "serviceConfig.address"),
        ({"serviceConfig": {"enable": True, "address": "http://0.0.0.0:1"}}, "allowRemote permits"),
        ({"exporterConfig": {"enable": True, "address": ""}}, "exporterConfig.address"),
    ],
)
def test_an_address_is_checked_where_it_is_used(section, key):
    with pytest.raises(errors.ConfigError) as caught:
        parsed(section)
    assert key in str(caught.value)
    (content,) = section.values()
    content["enable"] = False
    parsed(section)


def test_nested_log_without_path_gives_way_to_the_flat_trio():
    nested = {"logLevel": 4, "logSizeMB": 1, "logRotateNum": 9}
    log = parsed({"logConfig": nested, "logLevel": 2, "logPath": ""}).log
    assert log == config.LogConfig(level=2, path="", size_mb=10, rotate_num=3)


def test_nested_cache_without_type_gives_way_but_keeps_its_refill_size():
    cache = parsed({"cacheConfig": {"cacheDir": "/x", "cacheSizeGB": 1, "refillSize": 4096}}).cache
    assert cache.dir == "/opt/overlaybd/registry_cache"
    assert cache.size_gb == 4
    assert cache.refill_size == 4096


def test_nested_credentials_without_mode_give_way():
    credential = parsed({"credentialConfig": {"path": "/x", "timeout": 7}}).credential
    assert (credential.mode, credential.path) == ("file", "/opt/overlaybd/cred.json")
    assert credential.timeout_s == 7


@pytest.mark.parametrize(
    "document, warning",
    [
        ({"logConfig": {"logLevel": 0}}, "logConfig.logLevel: has no effect while"),
        ({"cacheConfig": {"cacheDir": "/x"}}, "cacheConfig.cacheDir: has no effect while"),
        ({"credentialConfig": {"path": "/x"}}, "credentialConfig.path: has no effect while"),
        ({"loglevel": 1}, "loglevel: unknown key"),
        ({"download": {"maxMbps": 1}}, "download.maxMbps: unknown key"),
    ],
)
def test_key_without_effect_is_warned_about(document, warning):
    (found,) = config.parse("o.json", document)[1]
    assert found.startswith(warning)


@pytest.mark.parametrize("document", [{}, NESTED, FLAT, {**NESTED, **FLAT}])
def test_documented_keys_are_not_warned_about(document):
    assert config.parse("o.json", document)[1] == []


@pytest.mark.parametrize("key, value", [*leaves(NESTED), *leaves(FLAT)])
def test_wrong_type_names_file_and_key(key, value):
    wrong = 1 if isinstance(value, (str, bool)) else "1"
    with pytest.raises(errors.ConfigError) as caught:
        parsed(with_key(key, wrong))
    assert str(caught.value).startswith(f"o.json: {key}: must be a")


@pytest.mark.parametrize(
    "key, value, complaint",
    [
        ("ioEngine", 3, "must be one of 0, 1, 2, not 3"),
        ("ioEngine", True, "must be an integer, not true"),
        ("logLevel", 5, "must be at most 4, not 5"),
        ("logConfig.logLevel", -1, "must be at least 0, not -1"),
        ("logConfig.logSizeMB", 1 << 32, "must be at most 4294967295"),
        ("exporterConfig.port", 65536, "must be at most 65535, not 65536"),
        ("cacheType", "tape", 'must be one of "file", "ocf", "download", not "tape"'),
        ("cacheConfig.cacheType", "tape", "must be one of"),
        ("credentialConfig.mode", "ftp", "must be one of"),
        ("auditPath", "/a\0b", "has an impossible value"),
        ("download", [], "must be an object, not []"),
        ("cacheConfig.refillSize", 4095, "must be a power of two and a multiple of 4096"),
        ("cacheConfig.refillSize", 12288, "must be a power of two and a multiple of 4096"),
    ],
)
def test_value_out_of_range_names_the_key(key, value, complaint):
    with pytest.raises(errors.ConfigError) as caught:
        parsed(with_key(key, value))
    assert str(caught.value).startswith(f"o.json: {key}: {complaint}")


def test_ocf_block_size_is_checked_for_ocf_only():
    assert parsed({"cacheConfig": {"blockSize": 5}}).cache.block_size == 5
    with pytest.raises(errors.ConfigError, match="cacheConfig.blockSize: must be one of 4096"):
        parsed({"cacheConfig": {"cacheType": "ocf", "blockSize": 5}})


def test_refill_size_is_checked_for_the_file_cache_only():
    document = {"cacheConfig": {"cacheType": "download", "refillSize": 5}}
    assert parsed(document).cache.refill_size == 5


@pytest.mark.parametrize(
    "text, complaint",
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"{} // comment", "is not JSON"),
        (b'{"ioEngine": NaN}', "is not JSON: NaN"),
        (b"\xff\xfe\xff", "is not JSON"),
        (b"[" * 100000, "is not JSON"),
        (b"[]", "must be an object, not []"),
        (b'{"ioEngine": 0, "ioEngine": 1}', "ioEngine: is given twice"),
    ],
)
def test_file_that_is_no_configuration(tmp_path, text, complaint):
    path = tmp_path / "o.json"
    path.write_bytes(text)
    with pytest.raises(errors.ConfigError) as caught:
        config.load(str(path))
    assert str(caught.value).startswith(f"{path}: {complaint}")


def test_missing_file_is_named(tmp_path):
    path = tmp_path / "none.json"
    with pytest.raises(errors.ConfigError, match="cannot be read: No such file"):
        config.load(str(path))


def test_shipped_file_is_legal_and_complete():
    service, warnings = config.load(str(SHIPPED))
    assert warnings == []
    assert service.download.enable and service.download.delay_s == 600
    assert service.gzip_cache.enable
    assert service.log.path == "/var/log/overlaybd.log"
    assert service.credential.path == "/opt/overlaybd/cred.json"


@pytest.mark.parametrize("document", [{}, NESTED, FLAT, {"logPath": "", "logLevel": 3}])
def test_what_is_shown_means_the_same(document):
    shown = config.show(parsed(document))
    assert config.show(parsed(json.loads(shown))) == shown


def test_the_schema_is_a_schema():
    jsonschema.Draft7Validator.check_schema(config.service_schema())


def test_configuration_is_frozen():
    with pytest.raises(AttributeError):
        parsed({}).io_engine = 1
