# SPDX-License-Identifier: Apache-2.0
"""The page that plays source, guide and imagined video in step, and its local server."""
