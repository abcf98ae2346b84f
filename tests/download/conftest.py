# SPDX-License-Identifier: Apache-2.0
"""A registry, a cache, images that are only in the registry; and nothing left at the end."""

from ..support.lazy_service import disk, lazily, make, nothing_left, server  # noqa: F401
