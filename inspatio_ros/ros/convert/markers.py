# SPDX-License-Identifier: Apache-2.0
"""Camera frusta as line markers, coloured by how much of the view geometry backs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera

MAX_FRUSTA = 50
_LINE_WIDTH = 0.01
# Apex to the four corners, then round the corners.
_EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))


def support_color(support: float) -> ColorRGBA:
    """Red (nothing known) over yellow to green (all backed by geometry); gray when unknown."""
    if not 0.0 <= support <= 1.0:
        return ColorRGBA(r=0.6, g=0.6, b=0.6, a=0.8)
    return ColorRGBA(r=min(1.0, 2.0 * (1.0 - support)), g=min(1.0, 2.0 * support), b=0.1, a=0.9)


def frusta(
    camera: PinholeCamera, world_from_camera: npt.NDArray[np.float64], support: Sequence[float],
    header: Header, *, size: float = 0.15,
) -> MarkerArray:
    """One LINE_LIST a camera of [T, 4, 4], `size` m deep, after a DELETEALL of earlier ones.

    support: [T] in [0, 1], NaN where not yet known. More than MAX_FRUSTA are thinned evenly.
    """
    markers = no_frusta(header)
    count = len(world_from_camera)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_FRUSTA)).astype(int))
    corners = _corners(camera, size)
    for index in chosen:
        markers.markers.append(_frustum(
            int(index), rigid.transform_points(world_from_camera[index], corners),
            support_color(float(support[index])), header))
    return markers


def no_frusta(header: Header) -> MarkerArray:
    """Takes all frusta away."""
    return MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])


def _corners(camera: PinholeCamera, size: float) -> npt.NDArray[np.float64]:
    x = (np.array([-0.5, camera.width - 0.5]) - camera.cx) / camera.fx * size
    y = (np.array([-0.5, camera.height - 0.5]) - camera.cy) / camera.fy * size
    return np.array([[0, 0, 0], [x[0], y[0], size], [x[1], y[0], size], [x[1], y[1], size],
                     [x[0], y[1], size]], dtype=np.float64)


def _frustum(
    index: int, points: npt.NDArray[np.float64], color: ColorRGBA, header: Header
) -> Marker:
    marker = Marker(header=header, ns="frusta", id=index, type=Marker.LINE_LIST,
                    action=Marker.ADD, color=color)
    marker.scale.x = _LINE_WIDTH
    marker.pose.orientation.w = 1.0
    marker.points = [Point(x=float(p[0]), y=float(p[1]), z=float(p[2]))
                     for edge in _EDGES for p in points[list(edge)]]
    return marker
