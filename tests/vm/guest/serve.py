# SPDX-License-Identifier: Apache-2.0
"""
Runs functions of this package for the host: one JSON object a line in, one a line out, each call in
a thread.

    in   {"id": 7, "call": "disk.attach", "args": [1, "/x/config.v1.json"], "kwargs": {}}
    out  {"id": 7, "value": ...}
    or   {"id": 7, "error": "FileNotFoundError", "errno": 2, "text": ..., "trace": ...}

One process serves a whole session: starting a Python for each call would cost more than most calls.
"""
import importlib
import json
import sys
import threading
import traceback

_write_lock = threading.Lock()


def _answer(answer):
    line = json.dumps(answer) + "\n"
    with _write_lock:
        sys.stdout.write(line)
        sys.stdout.flush()


def _run(request):
    try:
        module, _, function = request["call"].rpartition(".")
        callee = getattr(importlib.import_module("guest." + module), function)
        value = callee(*request["args"], **request["kwargs"])
        _answer({"id": request["id"], "value": value})
    except BaseException as error:
        _answer(
            {
                "id": request["id"],
                "error": type(error).__name__,
                "errno": getattr(error, "errno", None),
                "text": str(error),
                "trace": traceback.format_exc(),
            }
        )


def main():
    for line in sys.stdin:
        threading.Thread(target=_run, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    main()
