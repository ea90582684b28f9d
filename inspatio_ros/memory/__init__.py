# SPDX-License-Identifier: Apache-2.0
"""What has been seen: the rolling cloud, its rendering, and the guides made of both."""
