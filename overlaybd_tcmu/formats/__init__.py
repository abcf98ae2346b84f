# SPDX-License-Identifier: Apache-2.0
"""
The formats on disk, read and written in plain Python: correct first, checked everywhere, slow.

    layer.py       what is in a file, by content: [tar [ZFile [LSMT]]]
    tar.py zfile.py lsmt.py     one format each, byte tables first
    writable.py    LSMT's writable pair, and sealing it
    view.py        layers stacked and read as one disk
    stream.py crc32c.py         what all of them read from, and sum with

Tests hold the native core against these, tools read headers with them; the service uses neither.
Whatever is refused here is refused by the core with the same errno.
"""
