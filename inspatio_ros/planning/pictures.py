# SPDX-License-Identifier: Apache-2.0
"""Candidates over the map under them, as a picture from above."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.planning.candidates import Candidate, RefusedCandidate
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.ground_map import DROP, GROUND, OBSTACLE, UNKNOWN, GroundMap
from inspatio_ros.planning.scores import Ranking, State

Image = npt.NDArray[np.uint8]

# RGB, colour-blind safe: never seen, ground, blocked, drop.
_COLORS = {UNKNOWN: (40, 40, 40), GROUND: (150, 190, 170), OBSTACLE: (20, 20, 110),
           DROP: (120, 60, 120)}
_FAILED, _BEST = (200, 60, 0), (255, 255, 255)


def map_picture(
    ground: GroundMap, candidates: Sequence[Candidate | RefusedCandidate], ranking: Ranking,
    footprint: Footprint, world_from_base: npt.NDArray[np.float64], size: int = 800,
) -> Image:
    """RGB [size, size, 3], x to the right, y up: the map, the robot, and each candidate's way.

    Ways are orange (no score) to yellow (score 1), thin when UNSUPPORTED; the best is white and
    ends in the robot's outline.
    """
    palette = np.zeros((4, 3), np.uint8)
    for state, color in _COLORS.items():
        palette[state] = color
    picture = np.ascontiguousarray(cv2.resize(
        palette[ground.state], (size, size), interpolation=cv2.INTER_NEAREST))
    scale = size / (ground.cell * ground.state.shape[0])

    def draw(points: npt.NDArray[np.float64], color: tuple[int, ...], thick: int) -> None:
        local = rigid.transform_points(ground.map_from_world, points)[:, :2] * scale
        pixels = np.clip(np.rint(local * 16), -2**24, 2**24).astype(np.int32)
        cv2.polylines(picture, [pixels], False, color, thick, cv2.LINE_AA, 4)

    def outline(pose: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        corners = np.zeros((5, 3))
        corners[:, :2] = footprint.corners(0.0, 0.0, 0.0)[[0, 1, 2, 3, 0]]
        return rigid.transform_points(pose, corners)

    scores = {score.id: score for score in ranking.scores}
    for candidate in sorted((c for c in candidates if isinstance(c, Candidate)),
                            key=lambda c: (c.id == ranking.best_id, scores[c.id].score)):
        score = scores[candidate.id]
        best = candidate.id == ranking.best_id
        color = _BEST if best else (
            _FAILED if score.score == 0 else (255, round(90 + 160 * score.score), 0))
        way = candidate.at(np.linspace(candidate.times[0], candidate.times[-1], 60))
        draw(way[:, :3, 3], color, 3 if best else 1 if score.state == State.UNSUPPORTED else 2)
        if best:
            draw(outline(way[-1]), color, 2)
    draw(outline(world_from_base), _BEST, 2)
    return np.ascontiguousarray(picture[::-1])
