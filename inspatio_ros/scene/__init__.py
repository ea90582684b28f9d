# SPDX-License-Identifier: Apache-2.0
"""Whole scenes: panoramas, schedules of clips, imagination of all of them, reconstruction."""
