# SPDX-License-Identifier: Apache-2.0
"""
The service configuration, /etc/overlaybd/overlaybd.json: every key, its default and its limits.

Two forms are read. The current one nests (logConfig.logLevel); the old flat one (logLevel) still
fills whatever the nested one leaves empty:

    logConfig.logPath empty         logLevel, logPath; the size and number are 10 MiB and 3
    cacheConfig.cacheType empty     registryCacheDir, registryCacheSizeGB, cacheType
    credentialConfig.mode empty     credentialFilePath, with mode "file"

The rest of the program sees one frozen ServiceConfig with the outcome. It is read at start, and
again when the process is told to: reload.py.
"""

import dataclasses
import json
from typing import Any, Iterator, List, Tuple

from . import address, errors, schema

DEFAULT_PATH = "/etc/overlaybd/overlaybd.json"

_U32 = (1 << 32) - 1
_INT = (1 << 31) - 1


@dataclasses.dataclass(frozen=True)
class LogConfig:
    level: int = schema.key("logLevel", 1, minimum=0, maximum=4)  # 0 logs each attach step by step
    path: str = schema.key("logPath", "")  # empty: standard output
    size_mb: int = schema.key("logSizeMB", 10, minimum=0, maximum=_U32)  # a file; 1 at least
    rotate_num: int = schema.key(
        "logRotateNum", 3, minimum=0, maximum=_INT
    )  # files in all; 1 to 30


@dataclasses.dataclass(frozen=True)
class CacheConfig:
    type: str = schema.key("cacheType", "", enum=["", "file", "ocf", "download"])
    dir: str = schema.key("cacheDir", "/opt/overlaybd/registry_cache")
    size_gb: int = schema.key("cacheSizeGB", 4, minimum=0, maximum=_U32)
    # Bytes fetched at once for a miss: smaller costs round trips, larger costs first-byte latency.
    refill_size: int = schema.key("refillSize", 262144, minimum=0, maximum=_U32)
    block_size: int = schema.key("blockSize", 65536, minimum=0, maximum=_U32)  # "ocf" only


@dataclasses.dataclass(frozen=True)
class GzipCacheConfig:
    enable: bool = schema.key("enable", False)
    dir: str = schema.key("cacheDir", "/opt/overlaybd/gzip_cache")
    size_gb: int = schema.key("cacheSizeGB", 4, minimum=0, maximum=_U32)
    refill_size: int = schema.key("refillSize", 1048576, minimum=0, maximum=_U32)


@dataclasses.dataclass(frozen=True)
class CredentialConfig:
    mode: str = schema.key("mode", "", enum=["", "file", "http", "https", "uds"])
    path: str = schema.key("path", "")
    timeout_s: int = schema.key("timeout", 1, minimum=0, maximum=_INT)
    client_cert_path: str = schema.key("client_cert_path", "")
    client_key_path: str = schema.key("client_key_path", "")
    server_ca_path: str = schema.key("server_ca_path", "")


@dataclasses.dataclass(frozen=True)
class DownloadConfig:
    enable: bool = schema.key("enable", False)
    delay_s: int = schema.key("delay", 300, minimum=0, maximum=_INT)
    delay_extra_s: int = schema.key("delayExtra", 30, minimum=0, maximum=_INT)
    max_mbps: int = schema.key("maxMBps", 100, minimum=-_INT, maximum=_INT)  # MiB/s; <= 0: no limit
    try_count: int = schema.key("tryCnt", 5, minimum=0, maximum=_INT)
    block_size: int = schema.key("blockSize", 262144, minimum=0, maximum=_U32)


@dataclasses.dataclass(frozen=True)
class OutageConfig:
    """What a device does while the registry of its layers is away."""

    # block: reads wait for as long as it takes. eio: they fail after the deadline.
    on_outage: str = schema.key("onOutage", "block", enum=["block", "eio"])
    deadline_s: int = schema.key("deadline", 60, minimum=1, maximum=_INT)


@dataclasses.dataclass(frozen=True)
class P2pConfig:
    enable: bool = schema.key("enable", False)
    address: str = schema.key("address", "http://localhost:9731/accelerator")


@dataclasses.dataclass(frozen=True)
class ExporterConfig:
    enable: bool = schema.key("enable", False)
    uri_prefix: str = schema.key("uriPrefix", "/metrics")
    port: int = schema.key("port", 9863, minimum=0, maximum=65535)
    # Rates are means over so many us: shorter ones jump, and miss what is between two scrapes.
    update_interval_us: int = schema.key("updateInterval", 60000000, minimum=0)
    address: str = schema.key("address", "127.0.0.1")  # what is shown is for this host, unless said


@dataclasses.dataclass(frozen=True)
class PrefetchConfig:
    concurrency: int = schema.key("concurrency", 16, minimum=0, maximum=_INT)


@dataclasses.dataclass(frozen=True)
class CertConfig:
    cert_file: str = schema.key("certFile", "")
    key_file: str = schema.key("keyFile", "")


@dataclasses.dataclass(frozen=True)
class RegistryConfig:
    """Ours, not the original's."""

    # containerd's, so that its mirrors and certificates are ours as well; empty: no such folder.
    hosts_dir: str = schema.key("hostsDir", "/etc/containerd/certs.d")


@dataclasses.dataclass(frozen=True)
class ApiConfig:
    enable: bool = schema.key("enable", False)
    address: str = schema.key("address", "http://127.0.0.1:9862")  # or unix:///PATH
    allow_remote: bool = schema.key("allowRemote", False)  # whoever reaches the port is root here


@dataclasses.dataclass(frozen=True)
class ServiceConfig:
    log: LogConfig = schema.section("logConfig", LogConfig)
    cache: CacheConfig = schema.section("cacheConfig", CacheConfig)
    gzip_cache: GzipCacheConfig = schema.section("gzipCacheConfig", GzipCacheConfig)
    credential: CredentialConfig = schema.section("credentialConfig", CredentialConfig)
    # 0 psync: page cache, best for most. 1 libaio: O_DIRECT, many reads in flight, nothing cached
    # by the kernel. 2 POSIX aio: many reads in flight through the page cache.
    io_engine: int = schema.key("ioEngine", 0, enum=[0, 1, 2])
    download: DownloadConfig = schema.section("download", DownloadConfig)
    outage: OutageConfig = schema.section("outageConfig", OutageConfig)
    p2p: P2pConfig = schema.section("p2pConfig", P2pConfig)
    exporter: ExporterConfig = schema.section("exporterConfig", ExporterConfig)
    enable_audit: bool = schema.key("enableAudit", True)
    audit_path: str = schema.key("auditPath", "/var/log/overlaybd-audit.log")  # empty: off
    enable_thread: bool = schema.key("enableThread", False)  # no effect: each device has its thread
    registry_fs_version: str = schema.key("registryFsVersion", "v2")
    prefetch: PrefetchConfig = schema.section("prefetchConfig", PrefetchConfig)
    registry: RegistryConfig = schema.section("registryConfig", RegistryConfig)
    cert: CertConfig = schema.section("certConfig", CertConfig)
    # What a header may carry; empty: overlaybd/<version>.
    user_agent: str = schema.key("userAgent", "", pattern="^[\\x20-\\x7e]*$")
    api: ApiConfig = schema.section("serviceConfig", ApiConfig)


@dataclasses.dataclass(frozen=True)
class _FlatConfig:
    """The old form's keys that the current form has elsewhere."""

    log_level: int = schema.key("logLevel", 1, minimum=0, maximum=4)
    log_path: str = schema.key("logPath", "/var/log/overlaybd.log")
    cache_dir: str = schema.key("registryCacheDir", "/opt/overlaybd/registry_cache")
    cache_size_gb: int = schema.key("registryCacheSizeGB", 4, minimum=0, maximum=_U32)
    cache_type: str = schema.key("cacheType", "file", enum=["file", "ocf", "download"])
    credential_path: str = schema.key("credentialFilePath", "/opt/overlaybd/cred.json")


def service_schema() -> schema.Document:
    """The JSON Schema (draft 7) of the file: both forms."""
    nested = schema.schema_of(ServiceConfig)
    flat = schema.schema_of(_FlatConfig)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {**nested["properties"], **flat["properties"]},
    }


def load(path: str) -> Tuple[ServiceConfig, List[str]]:
    """The effective configuration of a file and what to warn about, a line each."""
    return parse(path, schema.read(path))


def parse(path: str, document: schema.Document) -> Tuple[ServiceConfig, List[str]]:
    """As load(), for a document already read; path is only named."""
    expected = service_schema()
    schema.check(path, expected, document)
    nested = schema.build(ServiceConfig, document)
    flat = schema.build(_FlatConfig, document)
    effective = _merge(nested, flat)
    _check_cache(path, effective.cache)
    _check_addresses(path, effective)
    unknown = [f"{name}: unknown key, ignored" for name in schema.unknown_keys(expected, document)]
    return effective, unknown + list(_overruled(nested, document))


def _merge(nested: ServiceConfig, flat: _FlatConfig) -> ServiceConfig:
    """The precedence of the module's table."""
    log, cache, credential = nested.log, nested.cache, nested.credential
    if not log.path:
        log = LogConfig(level=flat.log_level, path=flat.log_path)
    if not cache.type:
        cache = dataclasses.replace(
            cache, type=flat.cache_type, dir=flat.cache_dir, size_gb=flat.cache_size_gb
        )
    if not credential.mode:
        credential = dataclasses.replace(credential, mode="file", path=flat.credential_path)
    return dataclasses.replace(nested, log=log, cache=cache, credential=credential)


def _overruled(nested: ServiceConfig, document: schema.Document) -> Iterator[str]:
    """Keys that are given and yet have no effect: a surprise worth a line."""
    rules = (
        (
            "logConfig",
            "logPath",
            nested.log.path,
            ("logLevel", "logSizeMB", "logRotateNum"),
        ),
        ("cacheConfig", "cacheType", nested.cache.type, ("cacheDir", "cacheSizeGB")),
        ("credentialConfig", "mode", nested.credential.mode, ("path",)),
    )
    for name, switch, value, keys in rules:
        for given in keys if not value else ():
            if given in document.get(name, {}):
                yield f"{name}.{given}: has no effect while {name}.{switch} is empty"


def _check_cache(path: str, cache: CacheConfig) -> None:
    """What draft 7 cannot say, and only one type of cache needs."""
    size = cache.refill_size
    if cache.type == "file" and (size < 4096 or size & (size - 1)):
        reason = f"must be a power of two and a multiple of 4096, not {size}"
        raise errors.ConfigError(path, "cacheConfig.refillSize", reason)
    sizes = [4096 << shift for shift in range(5)]
    if cache.type == "ocf" and cache.block_size not in sizes:
        reason = f"must be one of {', '.join(map(str, sizes))}, not {cache.block_size}"
        raise errors.ConfigError(path, "cacheConfig.blockSize", reason)


def _check_addresses(path: str, service: ServiceConfig) -> None:
    if service.exporter.enable and not service.exporter.address:
        raise errors.ConfigError(path, "exporterConfig.address", "is empty")
    if not service.api.enable:
        return
    try:
        where = address.parse(service.api.address)
    except ValueError as error:
        raise errors.ConfigError(path, "serviceConfig.address", str(error)) from None
    if not where.is_local and not service.api.allow_remote:
        reason = f"{where.host} can be reached from outside; serviceConfig.allowRemote permits it"
        raise errors.ConfigError(path, "serviceConfig.address", reason)


def show(config: ServiceConfig) -> str:
    """The effective configuration as JSON, in the current form; read again, it means the same."""
    document: Any = schema.document_of(config)
    if not config.log.path:  # only the old form can say "standard output"
        document.update(logLevel=config.log.level, logPath="")
    return json.dumps(document, indent=2)
