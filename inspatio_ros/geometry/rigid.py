# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms as 4x4 float64 matrices; `a_from_b` maps coordinates in b to a."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation, Slerp

Array = npt.NDArray[np.float64]

# REP 103: body is x forward, y left, z up; optical is x right, y down, z forward.
OPTICAL_FROM_BODY: Array = np.array(
    [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
BODY_FROM_OPTICAL: Array = OPTICAL_FROM_BODY.T.copy()
OPTICAL_FROM_BODY.setflags(write=False)
BODY_FROM_OPTICAL.setflags(write=False)


def from_rotation(rotation: npt.ArrayLike, translation: npt.ArrayLike = (0.0, 0.0, 0.0)) -> Array:
    """The transform with this 3x3 rotation and translation in metres."""
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = translation
    return transform


def normalized_quaternion(xyzw: npt.ArrayLike) -> Array:
    """The unit quaternion [x, y, z, w] along `xyzw`.

    Raises ValueError when it is not finite or its norm is below 1e-6: such a quaternion holds no
    rotation (an all-zero orientation is what an unfilled message carries).
    """
    quaternion = np.asarray(xyzw, dtype=np.float64)
    norm = float(np.linalg.norm(quaternion))
    if quaternion.shape != (4,) or not np.isfinite(norm) or norm < 1e-6:
        raise ValueError(f"not a rotation: quaternion (x, y, z, w) = {quaternion.tolist()}")
    return quaternion / norm


def from_quaternion(xyzw: npt.ArrayLike, translation: npt.ArrayLike = (0.0, 0.0, 0.0)) -> Array:
    """The transform with rotation quaternion [x, y, z, w] (normalised here) and translation, m.

    Raises ValueError on a quaternion that holds no rotation or a translation that is not finite.
    """
    position = np.asarray(translation, dtype=np.float64)
    if position.shape != (3,) or not np.isfinite(position).all():
        raise ValueError(f"not a position: {position.tolist()}")
    return from_rotation(Rotation.from_quat(normalized_quaternion(xyzw)).as_matrix(), position)


def to_quaternion(transform: Array) -> Array:
    """The unit quaternion [x, y, z, w] of a transform's rotation, with w >= 0."""
    quaternion = Rotation.from_matrix(transform[:3, :3]).as_quat()
    return np.asarray(-quaternion if quaternion[3] < 0 else quaternion, dtype=np.float64)


def from_euler(
    roll: float, pitch: float, yaw: float, translation: npt.ArrayLike = (0.0, 0.0, 0.0)
) -> Array:
    """The transform with fixed-axis roll, pitch, yaw in radians (REP 103) and translation in m."""
    return from_rotation(Rotation.from_euler("xyz", [roll, pitch, yaw]).as_matrix(), translation)


def invert(transform: Array) -> Array:
    """The inverse of rigid transforms [..., 4, 4]."""
    inverse = np.zeros_like(transform)
    rotation = np.swapaxes(transform[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, transform[..., :3, 3])
    inverse[..., 3, 3] = 1.0
    return inverse


def transform_points(a_from_b: Array, points_b: npt.NDArray[np.floating]) -> Array:
    """Points [..., 3] of frame b in frame a."""
    return np.asarray(points_b @ a_from_b[:3, :3].T + a_from_b[:3, 3])


def rotation_angle(transform: Array) -> Array:
    """The rotation angle in radians, [0, pi], of transforms [..., 4, 4].

    From both the trace and the antisymmetric part, so that small angles keep their digits.
    """
    rotation = transform[..., :3, :3]
    cosine = (np.trace(rotation, axis1=-2, axis2=-1) - 1.0) / 2.0
    antisymmetric = rotation - np.swapaxes(rotation, -1, -2)
    sine = np.sqrt((antisymmetric**2).sum((-2, -1)) / 8.0)
    return np.asarray(np.arctan2(sine, cosine), dtype=np.float64)


def require_rigid(transform: npt.ArrayLike, name: str) -> Array:
    """`transform` as float64 after checking that it is a finite rigid [4, 4] or [n, 4, 4].

    Raises ValueError naming `name` otherwise.
    """
    matrix = np.asarray(transform, dtype=np.float64)
    if matrix.shape[-2:] != (4, 4):
        raise ValueError(f"{name}: expected 4x4 transforms, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name}: holds a value that is not finite")
    rotation = matrix[..., :3, :3]
    gram = rotation @ np.swapaxes(rotation, -1, -2)
    if np.abs(gram - np.eye(3)).max(initial=0.0) > 1e-4 or np.any(np.linalg.det(rotation) < 0):
        raise ValueError(f"{name}: the 3x3 part is not a rotation (R R^T differs from identity)")
    return matrix


def interpolate(times: npt.ArrayLike, transforms: Array, query_times: npt.ArrayLike) -> Array:
    """Transforms [n, 4, 4] at `query_times`: linear in translation, slerp in rotation.

    `times` [m] strictly increasing; queries outside are held at the first or last transform.
    Translation and rotation are interpolated apart, as tf2 does, so that a buffer of ours and
    tf2's give the same pose between two samples.
    """
    knots = np.asarray(times, dtype=np.float64)
    queries = np.clip(np.asarray(query_times, dtype=np.float64), knots[0], knots[-1])
    if len(knots) == 1:
        return np.repeat(transforms[:1], len(queries), axis=0)
    result = np.zeros((len(queries), 4, 4))
    for axis in range(3):
        result[:, axis, 3] = np.interp(queries, knots, transforms[:, axis, 3])
    rotations = Rotation.from_matrix(transforms[:, :3, :3])
    result[:, :3, :3] = Slerp(knots, rotations)(queries).as_matrix()
    result[:, 3, 3] = 1.0
    return result


def chain(transforms: Sequence[Array]) -> Array:
    """The product of transforms, left to right."""
    product = np.eye(4)
    for transform in transforms:
        product = product @ transform
    return product
