# SPDX-License-Identifier: Apache-2.0
"""The TCMU front end's life-cycle: the kernel's knobs, libtcmu's callbacks, one thread a device."""
