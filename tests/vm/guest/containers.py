# SPDX-License-Identifier: Apache-2.0
"""The distribution's containerd, runc and registry, with our snapshotter between them."""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.request

from guest import disk, programs

ROOT = "/var/lib/overlaybd-snapshotter"
SOCKET = "/run/overlaybd-snapshotter/overlaybd.sock"
CONTAINERD = "/run/containerd/containerd.sock"
LOGS = pathlib.Path("/var/log/containers")
PORT = 5000
IMAGE = f"127.0.0.1:{PORT}/library/sample:v1"
CACHE = "/opt/overlaybd/registry_cache"
START_S = 180

REGISTRY_CONFIG = {
    "version": 0.1,
    "log": {"level": "warn"},
    "storage": {"filesystem": {"rootdirectory": "/var/lib/registry"}},
    "http": {"addr": f"127.0.0.1:{PORT}", "secret": "x"},
}

CONFIG = f"""version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[proxy_plugins.overlaybd]
  type = "snapshot"
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlaybd"
  disable_snapshot_annotations = false
"""

_processes = []


def start(folder):
    """A registry with the image in the folder, the snapshotter, and containerd."""
    LOGS.mkdir(exist_ok=True)
    (LOGS / "registry.yml").write_text(json.dumps(REGISTRY_CONFIG))  # JSON is YAML
    _spawn("registry", "docker-registry", "serve", LOGS / "registry.yml")
    _wait_listening((socket.AF_INET, ("127.0.0.1", PORT)))
    _push(pathlib.Path(folder))
    os.makedirs(os.path.dirname(SOCKET), exist_ok=True)
    _spawn("snapshotter", "/usr/bin/python3", "-m", "guest.snapshotter", ROOT, SOCKET)
    _wait_listening((socket.AF_UNIX, SOCKET))
    os.makedirs("/etc/containerd", exist_ok=True)
    pathlib.Path("/etc/containerd/config.toml").write_text(CONFIG)
    _spawn("containerd", "containerd")
    _wait_listening((socket.AF_UNIX, CONTAINERD))


def _spawn(name, *command):
    with open(LOGS / name, "ab") as log:
        command = [str(part) for part in command]
        _processes.append(
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/opt/vm"
            )
        )


def _wait_listening(where):
    family, address = where
    deadline = time.monotonic() + START_S
    while True:
        with socket.socket(family) as one:
            if one.connect_ex(address) == 0:
                return
        if time.monotonic() > deadline or _processes[-1].poll() is not None:
            raise RuntimeError(f"nobody listens at {address}:\n{logs()}")
        time.sleep(0.05)


def stop():
    while _processes:
        one = _processes.pop()
        one.terminate()
        one.wait(30)
    shutil.rmtree(ROOT, ignore_errors=True)


def logs(tail=4000):
    return "".join(f"--- {path.name}\n{path.read_text()[-tail:]}" for path in LOGS.iterdir())


def _push(folder):
    url = f"http://127.0.0.1:{PORT}/v2/library/sample"
    for path in sorted((folder / "blobs").iterdir()):
        with _send("POST", f"{url}/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        location += ("&" if "?" in location else "?") + f"digest={path.name}"
        _send("PUT", location, path.read_bytes(), "application/octet-stream").close()
    manifest = (folder / "manifest.json").read_bytes()
    kind = json.loads(manifest)["mediaType"]
    _send("PUT", f"{url}/manifests/v1", manifest, kind).close()


def _send(method, url, data=b"", kind="application/octet-stream"):
    request = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
    return urllib.request.urlopen(request, timeout=60)


# ---- what a user does

PULL = """
import sys, grpc
from guest import rpc
messages = rpc.messages(rpc.CRI, rpc.CRI_TEXT)
with grpc.insecure_channel("unix://" + sys.argv[1]) as channel:
    call = channel.unary_unary(
        f"/{rpc.CRI}.ImageService/PullImage",
        lambda request: request.SerializeToString(),
        messages["PullImageResponse"].FromString,
    )
    spec = messages["ImageSpec"](image=sys.argv[2])
    print(call(messages["PullImageRequest"](image=spec), timeout=120).image_ref)
"""


def pull():
    """As a kubelet does, through CRI: this tells the snapshotter where the layers are."""
    return _told("/usr/bin/python3", "-c", PULL, CONTAINERD, IMAGE, cwd="/opt/vm").strip()


def ctr(*arguments):
    return _told("ctr", "--namespace", "k8s.io", *arguments)


def _told(*argv, **more):
    """What a program said; when it failed, what the services said too."""
    try:
        return programs.output(*argv, **more)
    except RuntimeError as error:
        raise RuntimeError(f"{error}\n{logs()}") from None


def run(name, script, labels=()):
    """A container that runs a script; what it said. It stays until remove()."""
    options = [f"--snapshotter-label={label}" for label in labels]
    options += ["--snapshotter=overlaybd"]
    return ctr("run", *options, IMAGE, name, "/bin/sh", "-c", script)


def remove(name):
    return ctr("containers", "delete", name)


def snapshots(*arguments):
    return ctr("snapshots", "--snapshotter=overlaybd", *arguments)


def wait_detached():
    """Until no device is left: containerd removes snapshots a moment after it was told to."""
    deadline = time.monotonic() + START_S
    while disk.attached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"attached: {disk.attached()}\n{logs()}")
        time.sleep(0.1)


def layer_folders():
    """What is in each snapshot's fs folder."""
    return {str(path): sorted(os.listdir(path)) for path in pathlib.Path(ROOT).glob("*/*/fs")}


def cached_bytes():
    files = [path for path in pathlib.Path(CACHE).rglob("*") if path.is_file()]
    return sum(path.stat().st_blocks * 512 for path in files)
