# SPDX-License-Identifier: Apache-2.0
"""Every metric moves when what it counts happens, and stays where it is when the device goes."""

import os
import re

import pytest
from prometheus_client import parser

from ..daemon.conftest import TIMEOUT_S
from ..native import tcmu_device as scsi
from ..support import layers, slowfs
from .conftest import IMPATIENT, flush, read, until, write


def samples(daemon):
    """{name: {labels: value}}, as Prometheus itself would read them."""
    status, kind, text = daemon.scrape()
    assert status == 200 and kind.startswith("text/plain; version=")
    found = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def value(found, name, **labels):
    """Of the one sample that has these labels."""
    wanted = set(labels.items())
    (one,) = [number for names, number in found[name].items() if wanted <= set(names)]
    return one


def device_values(daemon, uio="uio0"):
    """{short name: value} of everything that is told of a device."""
    found = {}
    for name, values in samples(daemon).items():
        for labels, number in values.items():
            if ("device", uio) in labels and name.startswith("overlaybd_device_"):
                kind = dict(labels).get("kind")
                found[name[len("overlaybd_device_") :] + (f" {kind}" if kind else "")] = number
    return found


def moved(before, after):
    return {name for name in after if after[name] != before.get(name)}


def test_a_device_that_does_nothing(daemon):
    daemon.start()
    config = daemon.image()
    daemon.add(config)
    found = samples(daemon)
    assert value(found, "overlaybd_devices", state="serving") == 1
    assert value(found, "overlaybd_device_size_bytes", image=str(config)) == 4 * layers.CLUSTER
    assert value(found, "overlaybd_device_index_memory_bytes", device="uio0") > 0
    assert value(found, "overlaybd_device_reads_total", device="uio0") == 0
    assert "overlaybd_device_hit_ratio" not in found
    assert value(found, "overlaybd_build_info") == 1
    assert found["process_open_fds"]


def states(daemon):
    found = samples(daemon)["overlaybd_devices"]
    return {dict(labels)["state"]: number for labels, number in found.items() if number}


def test_devices_by_state(daemon):
    """Taken over but not opened; served; and its ring makes no sense any more."""
    config = daemon.image()
    (config.parent / "layer").rename(config.parent / "away")
    daemon.service.add_live(config)
    daemon.start()
    assert states(daemon) == {"failed": 1}
    kernel = daemon.add(daemon.image("2"))
    assert states(daemon) == {"failed": 1, "serving": 1}
    kernel.put_raw(b"\xff" * 512, 512)
    kernel.kick()
    until(lambda: states(daemon) == {"failed": 1, "closed": 1})


def test_a_read_moves_what_counts_reads(daemon):
    daemon.start()
    kernel = daemon.add(daemon.image())
    before = device_values(daemon)
    assert read(kernel).data == layers.cluster("A", 0)
    read(kernel, lba=16)  # a hole
    after = device_values(daemon)
    assert after["reads_total"] == 2
    assert after["read_bytes_total"] == 2 * layers.CLUSTER
    assert after["hole_bytes_total"] == layers.CLUSTER
    assert after["decoded_blocks_total"] >= 1
    assert after["local_bytes_total"] > 0
    assert after["local_hits_total"] + after["local_waits_total"] > 0
    assert 0 <= after["hit_ratio"] <= 1
    assert after["request_duration_seconds_count read"] == 2
    assert 0 < after["request_duration_seconds_sum read"] < TIMEOUT_S
    untouched = {"writes_total", "write_bytes_total", "errors_total", "size_bytes", "inflight"}
    assert not untouched & moved(before, after)


def test_half_a_block_twice_is_found_decoded(daemon):
    daemon.start()
    kernel = daemon.add(daemon.image())
    for lba in (0, 1, 2):
        read(kernel, lba, 1)
    assert device_values(daemon)["decoded_hits_total"] > 0


def test_changes_move_what_counts_them(daemon):
    daemon.start()
    kernel = daemon.add(daemon.image(writable=True))
    write(kernel, b"x" * 4096)
    assert flush(kernel).status == 0
    unmap = bytes([0x93, 8] + [0] * 11 + [8, 0, 0])  # WRITE SAME(16)
    number = kernel.queue(unmap, data=bytes(512))
    kernel.kick()
    assert kernel.answers(1)[number].status == 0
    after = device_values(daemon)
    assert after["writes_total"] == 1 and after["write_bytes_total"] == 4096
    assert after["flushes_total"] == 1 and after["discards_total"] == 1
    for kind in ("write", "flush", "discard"):
        assert after[f"request_duration_seconds_count {kind}"] == 1


def test_errors_by_kind(daemon):
    daemon.start()
    config = daemon.image()
    layers.damage_data(config.parent / "layer")
    kernel = daemon.add(config)
    assert read(kernel).status == 2
    number = kernel.queue(bytes([0xFF] * 10))
    kernel.kick()
    assert kernel.answers(1)[number].status == 2
    assert daemon.service.add("/none/config.v1.json") < 0
    found = samples(daemon)
    assert value(found, "overlaybd_errors_total", kind="read") == 1
    assert value(found, "overlaybd_errors_total", kind="rejected") == 1
    assert value(found, "overlaybd_errors_total", kind="open") == 1
    assert device_values(daemon)["read_errors_total"] == 1


def test_an_upper_that_takes_no_more_is_an_error_of_a_change(daemon):
    daemon.start()
    config = daemon.image(writable=True)
    kernel = daemon.add(config)
    full = f"/proc/{daemon.service.process.pid}"
    # The daemon may write files of 64 KiB at most from now on: as a full disk, and only for it.
    import resource

    resource.prlimit(int(full.split("/")[2]), resource.RLIMIT_FSIZE, (64 << 10, 64 << 10))
    number = kernel.queue(bytes([0x2A, 0, 0, 0, 0, 0, 0, 0, 8, 0]), data=b"x" * 4096)
    kernel.kick()
    kernel.answers(1)[number]
    for lba in range(8):
        number = kernel.queue(
            bytes([0x2A, 0, 0, 0, 0, lba, 0, 0, 24, 0]), data=os.urandom(24 * 512)
        )
        kernel.kick()
        if kernel.answers(1)[number].status:
            break
    found = samples(daemon)
    assert value(found, "overlaybd_errors_total", kind="change") == 1
    assert device_values(daemon)["change_errors_total"] == 1


def test_histograms_hold_every_command_of_the_node(daemon):
    daemon.start()
    kernels = [daemon.add(daemon.image(name)) for name in "12"]
    for kernel in kernels:
        read(kernel)
    found = samples(daemon)
    name = "overlaybd_request_duration_seconds"
    assert value(found, name + "_count", kind="read") == 2
    assert value(found, name + "_bucket", kind="read", le="+Inf") == 2
    buckets = [
        number for labels, number in found[name + "_bucket"].items() if ("kind", "read") in labels
    ]
    assert buckets == sorted(buckets)
    for stage in ("lookup", "decode"):
        assert value(found, "overlaybd_stage_duration_seconds_count", stage=stage) >= 2


def test_counters_of_the_node_outlive_their_device(daemon):
    daemon.start()
    read(daemon.add(daemon.image()))
    before = samples(daemon)
    assert daemon.service.ask("remove 0") == "0"
    after = samples(daemon)
    name = "overlaybd_request_duration_seconds_count"
    assert value(after, name, kind="read") == value(before, name, kind="read") == 1
    assert value(after, "OverlayBD_Count", type="pread") == layers.CLUSTER
    assert "overlaybd_device_reads_total" not in after


def test_the_original_s_names(daemon):
    daemon.start(exporter={"updateInterval": 60000000})
    kernel = daemon.add(daemon.image())
    before = samples(daemon)
    for _ in range(20):
        read(kernel)
    after = samples(daemon)
    node = os.uname().nodename
    assert value(after, "OverlayBD_Alive", node=node) == 1
    assert value(after, "OverlayBD_Count", node=node, type="pread") == 20 * layers.CLUSTER
    for name in ("Read_Throughtput", "QPS", "MaxLatency"):
        assert value(before, "OverlayBD_" + name, node=node, type="pread", mode="") == 0
        assert value(after, "OverlayBD_" + name, node=node, type="pread", mode="") > 0
    rate = value(after, "OverlayBD_QPS", type="pread") * layers.CLUSTER
    assert value(after, "OverlayBD_Read_Throughtput", type="pread") == pytest.approx(rate, rel=0.01)


@pytest.fixture
def slow_image(daemon, rng):
    """A config whose layer answers when it is released, and what the disk has at 1 MiB."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse here")
    config, data = daemon.image(), rng.randbytes(scsi.MAPPED)
    scsi.write_layer(config.parent / "layer", data, at=scsi.MAPPED)
    (daemon.folder / "slow").mkdir()
    with slowfs.SlowFile(config.parent / "layer", daemon.folder / "slow", patience_s=60) as slow:
        config.write_text('{"lowers": [{"file": "%s"}]}' % slow.path)
        yield slow, config, data


def test_what_hangs_is_counted_told_and_then_not(daemon, slow_image):
    slow, config, data = slow_image
    daemon.start(program=("-c", IMPATIENT), exporter={"updateInterval": 0})
    kernel = daemon.add(config)
    slow.hold = 1000
    number = kernel.queue(scsi.read_10((scsi.MAPPED + 4096) // 512, 8), 4096)
    kernel.kick()
    assert any("command hangs uio=uio0" in line for line in daemon.service.follow())
    found = device_values(daemon)
    assert (found["inflight"], found["hung"]) == (1, 1)
    assert found["oldest_inflight_seconds"] >= 0.05
    assert found["threads"] >= 1
    (waiting,) = daemon.get("/v1/devices/uio0")["pending"]
    assert (waiting["kind"], waiting["offset"], waiting["count"]) == (
        "read",
        scsi.MAPPED + 4096,
        4096,
    )
    health = daemon.get("/v1/health")
    assert (health["status"], health["reasons"]) == ("degraded", ["1 commands hang"])
    slow.release()
    assert kernel.answers(1)[number].data == data[4096:8192]
    found = samples(daemon)
    assert value(found, "overlaybd_device_hung") == 0
    assert value(found, "overlaybd_device_local_waits_total") >= 1
    assert value(found, "overlaybd_device_slow_reads_total") >= 1
    assert value(found, "overlaybd_stage_duration_seconds_count", stage="disk") >= 1
    assert value(found, "overlaybd_stage_duration_seconds_count", stage="queue") >= 1
    assert value(found, "overlaybd_stage_duration_seconds_sum", stage="disk") >= 0.05
    assert any("command hangs no more" in line for line in daemon.service.follow())


# ---- the exporter


def test_prefix_is_a_prefix_and_the_rest_is_not_there(daemon):
    daemon.start(exporter={"uriPrefix": "/m"})
    assert daemon.scrape("/metrics?x=1")[0] == 200
    assert daemon.scrape("/other")[0] == 404


def test_openmetrics_is_answered_when_asked_for(daemon):
    daemon.start()
    status, kind, text = daemon.scrape(
        headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert status == 200 and kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_the_exporter_is_for_this_host_unless_told(daemon):
    daemon.start()
    assert "listening name=metrics address=http://127.0.0.1:" in daemon.service.log()


def test_a_port_in_use_keeps_no_disk_from_being_served(daemon):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        daemon.start(exporter={"port": other.getsockname()[1]})
        assert "cannot listen, will be repeated address=http://127.0.0.1:" in daemon.service.log()
        read(daemon.add(daemon.image()))
        assert daemon.get("/v1/health")["status"] == "ok"
    assert daemon.service.stop() == 0


def test_without_either_there_is_no_thread_more(daemon):
    daemon.service.start()
    assert not re.search("listening", daemon.service.log())
    assert not {"sampler", "metrics", "api"} & set(daemon.service.threads())
