# SPDX-License-Identifier: Apache-2.0
"""Metric depth registered to the color camera: from a sensor, a stereo pair or an estimator.

No ROS here: arrays and cameras in, arrays out.
"""
