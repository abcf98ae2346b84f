# SPDX-License-Identifier: Apache-2.0
"""
What another program may ask of whoever keeps a cache: a socket in its folder, for root alone.

One JSON object a line in, one out, then the connection ends:

    {"command": "remove", "digests": [...]}    {"done": [...]}    or {"error": "..."}
    {"command": "pin", "digests": [...]}       {"done": [all that are pinned then]}
    {"command": "unpin", "digests": [...]}     the same

overlaybd-cache asks so while a daemon runs, and does the same by itself while none does.
"""

import contextlib
import json
import logging
import os
import socket
import threading
from typing import Any, Dict, FrozenSet, Iterator, List, Protocol

from .. import errors
from . import folder

log = logging.getLogger("cache.control")

NAME = "control"
TIMEOUT_S = 10.0
_LIMIT = 1 << 20  # bytes of a request


class Keeper(Protocol):
    """Who can do it: a store, or a folder that is locked by us."""

    def remove(self, digest: str) -> None: ...

    def pinned(self) -> FrozenSet[str]: ...

    def pin(self, digests: FrozenSet[str]) -> None:
        """These and no others."""


def execute(keeper: Keeper, command: str, digests: List[str]) -> List[str]:
    """What the socket offers. ValueError for nonsense, OSError."""
    for digest in digests:
        if not folder.is_digest(digest):
            raise ValueError(f"{digest} is no digest")
    if command == "remove":
        for digest in digests:
            keeper.remove(digest)
        return digests
    if command not in ("pin", "unpin"):
        raise ValueError(f"{command} is no command")
    pinned = keeper.pinned()
    keeper.pin(pinned | set(digests) if command == "pin" else pinned - set(digests))
    return sorted(keeper.pinned())


class Server:
    """
    The thread "control". Answers one at a time. `_lock` guards which socket it listens at; nothing
    is taken under it.
    """

    def __init__(self, keeper: Keeper, path: str) -> None:
        """path: the cache's folder. OSError."""
        self._keeper = keeper
        self._folder = path
        self._path = os.path.join(path, NAME)
        self._lock = threading.Lock()
        self._stopped = False
        self._socket = self._listen()
        self._thread = threading.Thread(target=self._run, name="control")

    def start(self) -> None:
        self._thread.start()

    def renew(self) -> None:
        """The folder was removed and made again: nobody finds the old socket any more. OSError."""
        with self._lock:
            if self._stopped:
                return
            old, self._socket = self._socket, self._listen()
        old.shutdown(socket.SHUT_RDWR)  # its accept() fails: the thread goes on with the new one

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
        self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()
        folder.unlink(self._path)

    def _listen(self) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(self._folder) as short:
                one.bind(short)
            os.chmod(self._path, 0o600)
            one.listen(8)
        except BaseException:
            one.close()
            raise
        return one

    def _run(self) -> None:
        while True:
            with self._lock:
                listener = self._socket
            try:
                connection, _ = listener.accept()
            except OSError:
                with self._lock:
                    if listener is self._socket:  # not renewed, but stopped
                        return
                listener.close()
                continue
            try:
                with connection:
                    connection.settimeout(TIMEOUT_S)
                    self._answer(connection)
            except OSError as error:
                log.debug("asker went away error=%s", error)
            except Exception:  # the thread's top
                log.exception("request not answered")

    def _answer(self, connection: socket.socket) -> None:
        answer: Dict[str, Any]
        try:
            request = json.loads(_line(connection))
            digests = [str(one) for one in request.get("digests", [])]
            answer = {"done": execute(self._keeper, str(request["command"]), digests)}
            log.info("control command=%s digests=%d", request["command"], len(digests))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            answer = {"error": f"not understood: {error}"}
        except OSError as error:
            answer = {"error": error.strerror}
        connection.sendall(json.dumps(answer).encode() + b"\n")


def ask(path: str, command: str, digests: List[str]) -> List[str]:
    """As execute(), by whoever keeps the cache in this folder; CacheError when it does not."""
    request = json.dumps({"command": command, "digests": digests}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, _short(path) as short:
            connection.settimeout(TIMEOUT_S)
            connection.connect(short)
            connection.sendall(request)
            answer = json.loads(_line(connection))
    except (OSError, ValueError) as error:
        reason = f"is kept by another program, which does not answer: {error}"
        raise errors.CacheError(path, reason) from error
    if "error" in answer:
        raise errors.CacheError(path, str(answer["error"]))
    return [str(one) for one in answer["done"]]


def _line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        part = connection.recv(65536)
        if not part or len(data) > _LIMIT:
            raise ValueError("no whole line")
        data += part
    return data


@contextlib.contextmanager
def _short(path: str) -> Iterator[str]:
    """The socket's name in no more than the 107 bytes a socket's name may have."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{NAME}"
    finally:
        os.close(fd)
