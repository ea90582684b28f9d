# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 face: the only code that knows rclpy and message packages."""
