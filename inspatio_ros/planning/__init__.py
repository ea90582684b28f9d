# SPDX-License-Identifier: Apache-2.0
"""For planners: candidates scored, counterfactual recordings, closed loops. No ROS."""
