# SPDX-License-Identifier: Apache-2.0
"""Posed observations from streams: matching by stamp, pose lookup, gating. No ROS, no torch."""
