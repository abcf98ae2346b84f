# SPDX-License-Identifier: Apache-2.0
"""
A snapshotter for containerd, the least that drives our service as the real one does: the same
files, labels, steps and mounts. Modes "overlayfs" and, by label, "dir" and "dev". It keeps nothing
on disk.

    python3 -m guest.snapshotter FOLDER SOCKET
"""
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import threading

import grpc
from guest import disk, mounts, rpc

PREFIX = "containerd.io/snapshot/"
REFERENCE = "containerd.io/snapshot.ref"
IMAGE_LABELS = (PREFIX + "image-ref", PREFIX + "cri.image-ref")
DIGEST, SIZE = PREFIX + "overlaybd/blob-digest", PREFIX + "overlaybd/blob-size"
WRITABLE = PREFIX + "overlaybd.writable"
VIEW, ACTIVE, COMMITTED = 1, 2, 3
PROGRAMS = "/opt/overlaybd/bin"

Messages = rpc.messages(rpc.SNAPSHOTS, rpc.SNAPSHOTS_TEXT)


class Refusal(Exception):
    """Becomes the call's status."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Snapshot:
    def __init__(self, root, number, name, parent, kind, labels):
        self.number, self.name, self.parent = number, name, parent
        self.kind, self.labels = kind, labels
        self.folder = f"{root}/snapshots/{number}"
        self.mountpoint = f"{self.folder}/block/mountpoint"
        self.config_path = f"{self.folder}/block/config.v1.json"
        self.result_path = f"{self.folder}/block/init-debug.log"
        self.mark_path = f"{self.folder}/block/backstore_mark"
        for path in (f"{self.folder}/fs", f"{self.folder}/work", self.mountpoint):
            os.makedirs(path)
        open(self.result_path, "w").close()

    @property
    def has_config(self):
        return os.path.exists(self.config_path)

    @property
    def writable(self):
        return self.labels.get(WRITABLE) in ("dir", "dev")

    @property
    def mounted_by_us(self):
        """A disk that is handed out as it is, whoever runs the container mounts."""
        return self.labels.get(WRITABLE) != "dev"

    def config(self):
        with open(self.config_path) as file:
            return json.load(file)

    def write_config(self, url, lowers, upper):
        document = {"repoBlobUrl": url, "lowers": lowers, "upper": upper}
        text = json.dumps(dict(document, resultFile=self.result_path), separators=(",", ":"))
        with open(os.open(self.config_path + ".new", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(text)
        os.rename(self.config_path + ".new", self.config_path)

    def attach(self, read_only):
        """Its disk, mounted at its mount point if we do that; nothing to do when it is there."""
        if os.path.ismount(self.mountpoint):
            return
        name = disk.attach(self.number, self.config_path, rounds=disk.CROWD_ROUNDS)["disk"]
        with open(self.mark_path, "w") as mark:
            mark.write(f"/dev/{name}")
        if self.mounted_by_us:
            mounts.mount(name, self.mountpoint, read_only)

    def device(self):
        with open(self.mark_path) as mark:
            return mark.read()

    def detach(self):
        if os.path.ismount(self.mountpoint):
            mounts.unmount(self.mountpoint)
        disk.detach(self.number)

    def info(self):
        info = Messages["Info"](name=self.name, parent=self.parent, kind=self.kind)
        info.labels.update(self.labels)
        return info


class Store:
    """The snapshots by name; `_lock` is held for each call, as the real one's transaction is."""

    def __init__(self, root):
        self._root = root
        self._lock = threading.Lock()
        self._snapshots = {}
        self._last = 0

    # ---- the service's calls

    def prepare(self, request):
        return self._create(request, ACTIVE)

    def view(self, request):
        return self._create(request, VIEW)

    def mounts(self, request):
        one = self._find(request.key)
        self._bring_up(one)
        return self._mounts(one)

    def commit(self, request):
        one = self._find(request.key)
        if request.name in self._snapshots:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, request.name)
        one.labels.update(request.labels)
        if one.writable:
            self._seal(one)
        self._commit(one, request.name)
        return rpc.Empty()

    def remove(self, request):
        one = self._find(request.key)
        if any(other.parent == one.name for other in self._snapshots.values()):
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, f"{one.name} has children")
        if os.path.exists(one.mark_path):
            one.detach()
        del self._snapshots[one.name]
        parent = self._snapshots.get(one.parent)
        if one.kind != COMMITTED and parent and not self._in_use(parent):
            parent.detach()  # autoRemoveDev
        shutil.rmtree(one.folder)
        return rpc.Empty()

    def stat(self, request):
        return Messages["InfoResponse"](info=self._find(request.key).info())

    def update(self, request):
        one = self._find(request.info.name)
        one.labels = dict(request.info.labels)
        return Messages["InfoResponse"](info=one.info())

    def usage(self, request):
        self._find(request.key)
        return Messages["UsageResponse"]()

    def list(self, request):
        return Messages["ListSnapshotsResponse"](info=[s.info() for s in self._snapshots.values()])

    def call(self, method, request):
        with self._lock:
            return method(request)

    # ---- what they do

    def _find(self, name):
        if name not in self._snapshots:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"snapshot {name} does not exist")
        return self._snapshots[name]

    def _create(self, request, kind):
        if request.key in self._snapshots:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, request.key)
        parent = self._find(request.parent) if request.parent else None
        self._last += 1
        labels = dict(request.labels)
        one = Snapshot(self._root, self._last, request.key, request.parent, kind, labels)
        self._snapshots[one.name] = one
        target = labels.get(REFERENCE)
        if target and DIGEST in labels:
            self._make_remote(one, parent)
            self._commit(one, target)
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"target snapshot {target}")
        if not target:
            self._bring_up(one)
        return self._mounts(one)

    def _make_remote(self, one, parent):
        """A layer of an image: nothing of it is fetched, and no device is made."""
        image = next(one.labels[key] for key in IMAGE_LABELS if key in one.labels)
        host, _, rest = image.partition("/")
        url = f"http://{host}/v2/{rest.rpartition(':')[0]}/blobs"
        lower = {"digest": one.labels[DIGEST], "size": int(one.labels[SIZE])}
        lowers = parent.config()["lowers"] if parent else []
        one.write_config(url, [*lowers, dict(lower, dir=f"{one.folder}/fs")], {})

    def _commit(self, one, name):
        del self._snapshots[one.name]
        one.name, one.kind = name, COMMITTED
        self._snapshots[name] = one

    def _bring_up(self, one):
        """The disk that a container's snapshot needs: its own, or its parent's."""
        if not one.writable:
            self._find(one.parent).attach(read_only=True)
            return
        if not one.has_config:
            below = self._find(one.parent).config()
            folder = f"{one.folder}/block"
            upper = {"index": f"{folder}/writable_index", "data": f"{folder}/writable_data"}
            _run(f"{PROGRAMS}/overlaybd-create", upper["data"], upper["index"], "0")
            one.write_config(below["repoBlobUrl"], below["lowers"], upper)
            one.attach(read_only=False)

    def _seal(self, one):
        one.detach()
        document = one.config()
        upper, place = document["upper"], f"{one.folder}/fs"
        _run(f"{PROGRAMS}/overlaybd-commit", "--seal", upper["data"], upper["index"])
        os.rename(upper["data"], f"{place}/overlaybd.sealed")
        os.unlink(upper["index"])
        one.write_config(document["repoBlobUrl"], [*document["lowers"], {"dir": place}], {})
        del one.labels[WRITABLE]

    def _in_use(self, parent):
        return any(
            one.parent == parent.name and one.kind != COMMITTED and not one.writable
            for one in self._snapshots.values()
        )

    def _mounts(self, one):
        if one.labels.get(REFERENCE):
            return _mount("bind", f"{one.folder}/fs", "rw", "rbind")
        if not one.mounted_by_us:
            return _mount("ext4", one.device(), "rw", "discard")
        if one.writable:
            return _mount("bind", one.mountpoint, "rw", "rbind")
        lower = self._find(one.parent).mountpoint
        if one.kind == VIEW:
            return _mount("bind", lower, "ro", "rbind")
        places = [f"workdir={one.folder}/work", f"upperdir={one.folder}/fs", f"lowerdir={lower}"]
        return _mount("overlay", "overlay", "index=off", *places)


def _mount(kind, source, *options):
    one = Messages["Mount"](type=kind, source=source, options=options)
    return Messages["MountsResponse"](mounts=[one])


def _run(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _handler(store, method, request):
    def answer(call, context):
        print(method.__name__, str(call).replace("\n", " "), flush=True)
        try:
            return store.call(method, call)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))
        except Exception as error:
            print(repr(error), flush=True)
            context.abort(grpc.StatusCode.UNKNOWN, repr(error))

    def stream(call, context):
        yield answer(call, context)

    kind = grpc.unary_stream_rpc_method_handler if method.__name__ == "list" else None
    make = kind or grpc.unary_unary_rpc_method_handler
    message = Messages[request].FromString
    return make(stream if kind else answer, message, lambda reply: reply.SerializeToString())


def main():
    root, socket = sys.argv[1:]
    store = Store(root)
    calls = {
        "Prepare": (store.prepare, "PrepareSnapshotRequest"),
        "View": (store.view, "ViewSnapshotRequest"),
        "Mounts": (store.mounts, "MountsRequest"),
        "Commit": (store.commit, "CommitSnapshotRequest"),
        "Remove": (store.remove, "RemoveSnapshotRequest"),
        "Stat": (store.stat, "StatSnapshotRequest"),
        "Update": (store.update, "UpdateSnapshotRequest"),
        "Usage": (store.usage, "UsageRequest"),
        "List": (store.list, "ListSnapshotsRequest"),
    }
    handlers = {name: _handler(store, *pair) for name, pair in calls.items()}
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    service = f"{rpc.SNAPSHOTS}.Snapshots"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
