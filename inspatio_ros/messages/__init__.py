# SPDX-License-Identifier: Apache-2.0
"""Reading ROS messages as plain objects, whoever deserialized them.

A bag reader without ROS and a node with it meet the same fields; both go through here, so that a
recording is understood exactly as the live robot is. Nothing here imports ROS.
"""
