# SPDX-License-Identifier: Apache-2.0
"""Analytic textured worlds with moving objects: exact color, depth, flow and ids. No ROS."""
