# SPDX-License-Identifier: Apache-2.0
"""
What test_kill.py kills: opens an image, lets it download its one layer, reads all of it and says
"done" when it was never killed. Arguments: cache folder, layer's folder, repoBlobUrl, digest, size
of the blob, SHA-256 of the disk.
"""

import hashlib
import os
import sys
import time

from overlaybd_tcmu import config
from overlaybd_tcmu.image import config as image_config
from overlaybd_tcmu.image import opener, remote

DOWNLOAD = {"enable": True, "delay": 0, "delayExtra": 0, "maxMBps": 0, "blockSize": 16384}


def main(cache, folder, repository, digest, size, expected):
    settings = {"cacheType": "file", "cacheDir": cache, "refillSize": 16384}
    lazily = remote.Remote(config.parse("service", {"cacheConfig": settings})[0])
    lowers = [{"digest": digest, "size": int(size), "dir": folder}]
    document = {"repoBlobUrl": repository, "lowers": lowers, "download": DOWNLOAD}
    with opener.open_image(image_config.parse("c", document), remote=lazily) as reader:
        while not os.path.exists(os.path.join(folder, "overlaybd.commit")):
            time.sleep(0.005)
        seen = hashlib.sha256()
        for offset in range(0, reader.info().virtual_size, 1 << 17):
            seen.update(reader.pread(1 << 17, offset))
    lazily.stop()
    print("done" if seen.hexdigest() == expected else "wrong bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
