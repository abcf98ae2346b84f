# SPDX-License-Identifier: Apache-2.0
"""Whole layers, fetched in the background until a device needs its registry no more."""
