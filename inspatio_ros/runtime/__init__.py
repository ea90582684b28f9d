# SPDX-License-Identifier: Apache-2.0
"""Threads and timing: latest-wins slots, the one worker, stage times."""
