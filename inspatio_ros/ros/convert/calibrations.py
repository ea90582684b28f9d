# SPDX-License-Identifier: Apache-2.0
"""Scores and calibrations of hindsight as messages, and calibrations read back."""

from __future__ import annotations

import numpy as np
from std_msgs.msg import Header

from inspatio_ros.evaluation.calibration import ErrorCalibration, MonotoneMap
from inspatio_ros.evaluation.live_hindsight import LiveScore
from inspatio_ros.msg import ErrorCalibration as CalibrationMessage
from inspatio_ros.msg import HindsightScore
from inspatio_ros.ros.convert.stamps import to_time


def score_message(score: LiveScore, header: Header) -> HindsightScore:
    """The message of a score; header: of the real image."""
    return HindsightScore(
        header=header, frame_stamp=to_time(score.frame_stamp_ns),
        source_stamp=to_time(score.source_stamp_ns), horizon=score.horizon,
        distance=score.distance, coverage=score.coverage, psnr_all=score.psnr_all,
        psnr_covered=score.psnr_covered, psnr_observed=score.psnr_observed,
        psnr_memory=score.psnr_memory, psnr_imagined=score.psnr_imagined,
        psnr_last_frame=score.psnr_last_frame, moved=score.moved, error=score.error,
        predicted_error=score.predicted_error, expected_error=score.expected_error)


def calibration_message(calibration: ErrorCalibration, header: Header) -> CalibrationMessage:
    """The message of a calibration; without knots while it has too few pairs."""
    curve = calibration.reliability()
    learnt = calibration.map
    return CalibrationMessage(
        header=header, pairs=len(calibration),
        predicted=[] if learnt is None else learnt.x.tolist(),
        expected=[] if learnt is None else learnt.y.tolist(),
        reliability_predicted=curve.predicted.tolist(), reliability_error=curve.error.tolist(),
        reliability_count=curve.count.tolist(), gap=curve.gap,
        ause=calibration.ause)


def to_map(message: CalibrationMessage) -> MonotoneMap | None:
    """The function that a message carries; None while there is none.

    Raises ValueError when its knots are no non-decreasing function.
    """
    if len(message.predicted) == 0 and len(message.expected) == 0:
        return None
    return MonotoneMap(np.array(message.predicted), np.array(message.expected))
