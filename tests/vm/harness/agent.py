# SPDX-License-Identifier: Apache-2.0
"""The first process of the guest, and the guest's end of the wire.

PID 1 forks at once. The parent only buries orphans, so that a killed daemon is really gone (a
zombie would keep its locks visible in /proc); the child is the agent. When the agent ends, the
machine is powered off.

It runs from the initrd with the root image's Python, as a plain script beside protocol.py.
"""
import json
import os
import queue
import subprocess
import sys
import threading
import time

import protocol

PORT_WAIT_S = 20
OUTPUT_GRACE_S = 0.3

# IPv4 loopback, the modules and configfs: what every test needs, so that it costs no test anything.
SET_UP = """
ip link set lo up
modprobe -a target_core_user tcm_loop sd_mod
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
"""


def bury_children(agent_pid):
    while True:
        pid, _ = os.wait()
        if pid == agent_pid:
            power_off()


def power_off():
    os.sync()
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("o")
    time.sleep(60)


def open_port():
    deadline = time.monotonic() + PORT_WAIT_S
    while time.monotonic() < deadline:
        for port in os.listdir("/sys/class/virtio-ports"):
            with open("/sys/class/virtio-ports/%s/name" % port) as name:
                if name.read().strip() == protocol.PORT_NAME:
                    return os.open("/dev/" + port, os.O_RDWR)
        time.sleep(0.01)
    sys.exit("agent: no virtio port named " + protocol.PORT_NAME)


class Wire:
    """The port. Frames are written whole, under the lock."""

    def __init__(self, fd):
        self.fd = fd
        self.write_lock = threading.Lock()

    def send(self, channel, kind, data=b""):
        frame = memoryview(protocol.pack(channel, kind, data))
        with self.write_lock:
            while frame:
                frame = frame[os.write(self.fd, frame) :]

    def read(self, count):
        data = bytearray()
        while len(data) < count:
            part = os.read(self.fd, min(count - len(data), protocol.CHUNK_BYTES))
            if not part:  # the host has not connected yet; reading does not wait for it
                time.sleep(0.01)
            data += part
        return bytes(data)


class Command:
    """
    One running command. Its input has a thread of its own: a full pipe must not stop the other
    commands.
    """

    def __init__(self, wire, channel, spec):
        self.wire = wire
        self.channel = channel
        self.input = queue.Queue()
        self.process = subprocess.Popen(
            spec["argv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=spec.get("cwd") or "/root",
            env=dict(os.environ, **(spec.get("env") or {})),
            start_new_session=True,
        )

    def run(self, forget):
        self.pumps = [
            threading.Thread(target=self.pump, args=args, daemon=True)
            for args in (
                (self.process.stdout, protocol.OUTPUT),
                (self.process.stderr, protocol.ERRORS),
            )
        ]
        for thread in self.pumps:
            thread.start()
        threading.Thread(target=self.feed, daemon=True).start()
        threading.Thread(target=self.wait, args=(forget,), daemon=True).start()

    def pump(self, stream, kind):
        while True:
            data = os.read(stream.fileno(), protocol.CHUNK_BYTES)
            if not data:
                return
            self.wire.send(self.channel, kind, data)

    def feed(self):
        while True:
            data = self.input.get()
            try:
                if data is None:
                    self.process.stdin.close()
                    return
                self.process.stdin.write(data)
                self.process.stdin.flush()
            except BrokenPipeError:  # the command does not read any more; its status says why
                return

    def wait(self, forget):
        status = self.process.wait()
        # A child left in the background may hold the pipes open; its later words are not this
        # command's.
        for thread in self.pumps:
            thread.join(OUTPUT_GRACE_S)
        forget(self.channel)
        self.input.put(None)
        self.wire.send(self.channel, protocol.EXIT, protocol.NUMBER.pack(status))

    def signal(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass


def start(wire, commands, channel, spec):
    try:
        command = Command(wire, channel, spec)
    except OSError as error:
        wire.send(channel, protocol.ERRORS, ("%s\n" % error).encode())
        wire.send(channel, protocol.EXIT, protocol.NUMBER.pack(127))
        return
    commands[channel] = command
    command.run(lambda gone: commands.pop(gone, None))


def serve(wire):
    commands = {}
    while True:
        channel, kind, data = protocol.unpack(wire.read)
        if kind == protocol.POWER_OFF:
            return
        if kind == protocol.START:
            start(wire, commands, channel, json.loads(data))
            continue
        command = commands.get(channel)
        if command is None:  # it ended while the frame was on its way
            continue
        if kind == protocol.INPUT:
            command.input.put(data)
        elif kind == protocol.INPUT_END:
            command.input.put(None)
        elif kind == protocol.SIGNAL:
            command.signal(protocol.NUMBER.unpack(data)[0])


def main():
    agent_pid = os.fork()
    if agent_pid:
        bury_children(agent_pid)
    os.environ.update(
        PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        HOME="/root",
        LANG="C.UTF-8",
    )
    subprocess.run(["/bin/sh", "-ec", SET_UP], check=True)
    wire = Wire(open_port())
    wire.send(0, protocol.READY)
    serve(wire)


if __name__ == "__main__":
    main()
