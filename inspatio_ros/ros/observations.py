# SPDX-License-Identifier: Apache-2.0
"""What the nodes use of `messages.observations`."""

from __future__ import annotations

from inspatio_ros.messages.observations import (
    ImageSet,
    InputRejected,
    ObservationDecoder,
    default_stereo_options,
    depth_options,
)

__all__ = [
    "ImageSet", "InputRejected", "ObservationDecoder", "default_stereo_options", "depth_options",
]
