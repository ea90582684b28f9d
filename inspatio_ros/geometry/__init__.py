# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms, pinhole cameras, camera trajectories and motion files. No ROS, no torch."""
