# SPDX-License-Identifier: Apache-2.0
"""
What test_kill.py kills: reads a whole lazily fetched image through a cache, over and over, and says
"done" when it was never killed. Arguments: cache folder, repoBlobUrl, digest, size of the blob,
size of the cache in units, SHA-256 of the disk.
"""

import hashlib
import sys

from overlaybd_tcmu import config
from overlaybd_tcmu.cache import room, service
from overlaybd_tcmu.image import config as image_config
from overlaybd_tcmu.image import opener, remote
from overlaybd_tcmu.registry import blob

UNIT = 16384


def main(folder, repository, digest, size, units, expected):
    settings = {"cacheType": "file", "cacheDir": folder, "cacheSizeGB": 0, "refillSize": UNIT}
    room.LEAST = int(units)
    one = config.parse("service", {"cacheConfig": settings})[0]
    registry = blob.Registry(one)
    cache = service.Cache(one, registry)
    cache.start()
    lowers = [{"digest": digest, "size": int(size)}]
    image = image_config.parse("c", {"repoBlobUrl": repository, "lowers": lowers})
    with opener.open_image(image, remote=remote.Remote(one, cache)) as reader:
        for _ in range(3):
            seen = hashlib.sha256()
            for offset in range(0, reader.info().virtual_size, 1 << 17):
                seen.update(reader.pread(1 << 17, offset))
            if seen.hexdigest() != expected:
                print("wrong bytes")
                return
    cache.stop()
    registry.close()
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
