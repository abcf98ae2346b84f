# SPDX-License-Identifier: Apache-2.0
"""Blobs of registries: who serves one, as whom we ask, one range of it at a time."""
