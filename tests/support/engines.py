# SPDX-License-Identifier: Apache-2.0
"""
The IO engines that tests run over.

Under ThreadSanitizer POSIX AIO is left out: glibc starts its threads behind the sanitizer's back,
and the first lock they touch crashes it.
"""

import os

from overlaybd_tcmu.ffi import load, native

_BUILD = os.path.basename(os.path.dirname(load.find_library()))
UNDER_TSAN = "tsan" in _BUILD
SANITIZED = UNDER_TSAN or "asan" in _BUILD
ALL = [one for one in native.Engine if not (UNDER_TSAN and one is native.Engine.POSIX_AIO)]
