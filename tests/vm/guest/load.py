# SPDX-License-Identifier: Apache-2.0
"""fio on a disk, around the page cache."""
import json
import pathlib
import subprocess
import time


def fio(disk, pattern, block_size, depth, seconds, jobs=1):
    """Reads for some seconds; the status and, when that is 0, what was measured."""
    command = ["fio", "--name=load", f"--filename=/dev/{disk}", f"--rw={pattern}"]
    command += [
        f"--bs={block_size}",
        f"--iodepth={depth}",
        "--ioengine=libaio",
        "--direct=1",
    ]
    command += [
        "--readonly",
        "--norandommap",
        "--randrepeat=0",
        "--thread",
        "--group_reporting",
    ]
    command += [f"--numjobs={jobs}", "--time_based", f"--runtime={seconds}"]
    done = subprocess.run(
        [*command, "--output-format=json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        return {"status": done.returncode, "errors": done.stderr[-2000:]}
    # Notes of fio's own may precede the document.
    read = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["read"]
    return {
        "status": 0,
        "iops": read["iops"],
        "bytes_per_s": read["bw_bytes"],
        "latency_us": read["clat_ns"]["mean"] / 1000,
        "latency_p99_us": read["clat_ns"]["percentile"]["99.000000"] / 1000,
    }


def wait_busy(disk, timeout_s=20):
    """Waits until the disk has requests in flight and has finished some since now."""
    stat = pathlib.Path("/sys/block") / disk / "stat"
    finished = int(stat.read_text().split()[0])
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        fields = stat.read_text().split()
        if int(fields[8]) > 1 and int(fields[0]) > finished + 100:
            return
        time.sleep(0.01)
    raise TimeoutError(f"{disk} is idle: {stat.read_text()}")
