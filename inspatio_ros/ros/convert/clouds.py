# SPDX-License-Identifier: Apache-2.0
"""Coloured points as PointCloud2."""

from __future__ import annotations

import array

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

# `rgb` is 0x00RRGGBB in the bytes of a FLOAT32 field, which is how RViz and PCL read it.
_POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])
_FIELDS = [PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
           for i, name in enumerate(("x", "y", "z", "rgb"))]


def to_cloud(
    points: npt.NDArray[np.float32], rgb: npt.NDArray[np.uint8], header: Header
) -> PointCloud2:
    """An unordered cloud of points [P, 3] m with colours uint8 [P, 3]; NaN points are left out."""
    finite = np.isfinite(points).all(axis=1)
    points, rgb = points[finite], rgb[finite]
    packed = np.empty(len(points), _POINT)
    packed["x"], packed["y"], packed["z"] = points.T
    red, green, blue = rgb.T.astype(np.uint32)
    packed["rgb"] = (red << 16) | (green << 8) | blue
    message = PointCloud2(
        header=header, height=1, width=len(points), fields=_FIELDS, is_bigendian=False,
        point_step=_POINT.itemsize, row_step=_POINT.itemsize * len(points), is_dense=True)
    data = array.array("B")
    data.frombytes(memoryview(packed).cast("B") if len(packed) else b"")
    message.data = data
    return message
