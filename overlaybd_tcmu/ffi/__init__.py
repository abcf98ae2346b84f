# SPDX-License-Identifier: Apache-2.0
"""The only package that imports ctypes: the native core and tcmu-runner's libtcmu."""
