# SPDX-License-Identifier: Apache-2.0
"""From recordings to imagined videos: captions, depth and cameras, guides, imagination, page."""
