# SPDX-License-Identifier: Apache-2.0
"""What runs inside the machine: imported there as the package ``guest``, never on the host.

Only the standard library and what the machine's Debian brings. Functions take and return JSON
values, because serve.py calls them by name for the host.
"""
