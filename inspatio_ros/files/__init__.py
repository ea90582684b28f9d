# SPDX-License-Identifier: Apache-2.0
"""Recordings in and out: rosbag2, videos, folders of frames. No ROS, no torch."""
