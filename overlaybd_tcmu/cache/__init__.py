# SPDX-License-Identifier: Apache-2.0
"""Local copies of remote blobs: what to keep, what to fetch, and for whom first."""
