# SPDX-License-Identifier: Apache-2.0
"""overlaybd's backend: a Python control plane over a small native data plane."""

__version__ = "0.1.0"
