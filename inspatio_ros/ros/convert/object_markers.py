# SPDX-License-Identifier: Apache-2.0
"""Things that move as markers: a box, an arrow where each goes within a second, its number, and
how uncertain its place will be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from inspatio_ros.memory.moving import MovingObject
from inspatio_ros.ros.convert.paths import matrix_to_pose

# A viewer forgets a thing that is no longer told of.
_LIFETIME_S = 1
_LIFETIME = Duration(sec=_LIFETIME_S, nanosec=0)
_TEXT_HEIGHT = 0.4


def objects(now: Sequence[MovingObject], later: Sequence[MovingObject],
            header: Header) -> MarkerArray:
    """Markers of things now, and `later` where the same are a second on; after a DELETEALL.

    Namespaces: boxes, ways (arrow to the place of later), uncertainty (a flat disc there, of one
    standard deviation), names.
    """
    markers = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
    ahead = {thing.number: thing for thing in later}
    for thing in now:
        color = _color(thing.number)
        box = _marker(header, "boxes", thing.number, Marker.CUBE, color, 0.35)
        box.pose = _pose(thing.center, thing.axes)
        box.scale.x, box.scale.y, box.scale.z = map(float, thing.size)
        name = _marker(header, "names", thing.number, Marker.TEXT_VIEW_FACING, color, 1.0)
        name.pose = _pose(thing.center + thing.axes[:, 2] * (thing.size[2] / 2 + _TEXT_HEIGHT))
        name.scale.z = _TEXT_HEIGHT
        speed = float(np.linalg.norm(thing.velocity))
        name.text = f"{thing.label or 'object'} {thing.number}: {speed:.1f} m/s"
        markers.markers += [box, name]
        if thing.number not in ahead:
            continue
        then = ahead[thing.number]
        way = _marker(header, "ways", thing.number, Marker.ARROW, color, 0.9)
        way.points = [_point(thing.center), _point(then.center)]
        way.scale.x, way.scale.y = 0.08, 0.2
        disc = _marker(header, "uncertainty", thing.number, Marker.CYLINDER, color, 0.25)
        disc.pose = _pose(then.center, then.axes)
        disc.scale.x = disc.scale.y = max(0.05, 2 * then.deviation)
        disc.scale.z = 0.05
        markers.markers += [way, disc]
    return markers


def _marker(header: Header, namespace: str, number: int, kind: int, color: ColorRGBA,
            alpha: float) -> Marker:
    marker = Marker(header=header, ns=namespace, id=number, type=kind, action=Marker.ADD,
                    color=ColorRGBA(r=color.r, g=color.g, b=color.b, a=alpha), lifetime=_LIFETIME)
    marker.pose.orientation.w = 1.0
    return marker


def _pose(center: npt.NDArray[np.float64],
          axes: npt.NDArray[np.float64] | None = None) -> object:
    matrix = np.eye(4)
    if axes is not None:
        matrix[:3, :3] = axes
    matrix[:3, 3] = center
    return matrix_to_pose(matrix)


def _point(place: npt.NDArray[np.float64]) -> Point:
    return Point(x=float(place[0]), y=float(place[1]), z=float(place[2]))


def _color(number: int) -> ColorRGBA:
    """Colours far apart for neighbouring numbers (golden angle on the hue circle)."""
    hue = number * 0.618034 % 1.0
    r, g, b = (float(np.clip(abs((hue * 6 + offset) % 6 - 3) - 1, 0.15, 1.0))
               for offset in (0, 4, 2))
    return ColorRGBA(r=r, g=g, b=b, a=1.0)
