# SPDX-License-Identifier: Apache-2.0
"""Images: what config.v1.json says, and a stack of layers opened from it. Knows no front end."""
