# SPDX-License-Identifier: Apache-2.0
"""What an operator sees of a running service: metrics, the API, the status page, what hangs."""
