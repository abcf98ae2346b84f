# SPDX-License-Identifier: Apache-2.0
"""
What test_warm_open.py watches from outside: opens an image all of whose metadata is in the cache.
Arguments: cache folder, the image's config, and another one, which is opened first: it pays for
what is paid for once in a process.

Asking for a file of these names marks where the opening begins and ends.
"""

import contextlib
import os
import sys

from overlaybd_tcmu import config
from overlaybd_tcmu.cache import service
from overlaybd_tcmu.image import opener, remote
from overlaybd_tcmu.registry import blob

BEGIN, END = "/nonexistent/begin", "/nonexistent/end"


def main(folder, unit, path, other):
    settings = {"cacheType": "file", "cacheDir": folder, "refillSize": int(unit)}
    document = {"cacheConfig": settings, "credentialConfig": {"mode": "file"}}
    one = config.parse("service", document)[0]
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(contextlib.closing(blob.Registry(one)))
        cache = service.Cache(one, registry)
        cache.start()
        stack.callback(cache.stop)
        lazily = remote.Remote(one, cache)

        def open_one(wanted):
            return opener.open_image(wanted, remote=lazily)

        with opener.open_with_result(other, open_one):
            pass
        os.path.exists(BEGIN)
        with opener.open_with_result(path, open_one):
            os.path.exists(END)


if __name__ == "__main__":
    main(*sys.argv[1:])
