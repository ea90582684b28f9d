# SPDX-License-Identifier: Apache-2.0
"""Between ROS messages and the core's arrays and types; one file per kind of message."""
