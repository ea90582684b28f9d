# SPDX-License-Identifier: Apache-2.0
"""Between poses, odometry, paths and 4x4 transforms."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Pose, PoseStamped, Transform
from nav_msgs.msg import Path
from rclpy.serialization import deserialize_message
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from inspatio_ros.geometry import rigid
from inspatio_ros.messages.poses import pose_to_matrix, to_ns, transform_to_matrix

__all__ = [
    "PathError", "PathPoses", "matrix_to_pose", "matrix_to_transform", "pose_to_matrix",
    "read_path", "read_serialized_path", "to_path", "trajectory_to_path_poses",
    "transform_to_matrix",
]

Array = npt.NDArray[np.float64]

# Quaternions off unit length by more than this are worth a word to the user.
UNIT_TOLERANCE = 1e-2


class PathError(ValueError):
    """A path that cannot be followed; says which pose and why."""


@dataclass(frozen=True)
class PathPoses:
    """A path's poses as they stand in its own frame.

    frame_from_pose: [N, 4, 4] m. stamps_ns: [N] or None when no pose carries one. frame_id and
    stamp_ns: of the path's header. normalized: quaternions that were not of unit length.
    """

    frame_id: str
    stamp_ns: int
    frame_from_pose: Array
    stamps_ns: npt.NDArray[np.int64] | None
    normalized: int


def matrix_to_pose(transform: Array) -> Pose:
    """The pose message of a transform."""
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = map(float, transform[:3, 3])
    q = pose.orientation
    q.x, q.y, q.z, q.w = map(float, rigid.to_quaternion(transform))
    return pose


def matrix_to_transform(matrix: Array) -> Transform:
    """The transform message of a 4x4."""
    transform = Transform()
    t, q = transform.translation, transform.rotation
    t.x, t.y, t.z = map(float, matrix[:3, 3])
    q.x, q.y, q.z, q.w = map(float, rigid.to_quaternion(matrix))
    return transform


def read_path(path: Path, thin_to: int) -> PathPoses:
    """The poses of a path; more than `thin_to` are thinned evenly, first and last kept.

    Poses may name no frame or the path's own; quaternions of another length are normalised and
    counted. Raises PathError naming the pose on values that are not finite, quaternions without a
    direction, a frame that differs within the path, or a path without any frame.
    """
    keep = _kept(len(path.poses), thin_to)
    poses = [path.poses[i] for i in keep]
    numbers = np.array([(p.position.x, p.position.y, p.position.z, p.orientation.x,
                         p.orientation.y, p.orientation.z, p.orientation.w)
                        for p in (stamped.pose for stamped in poses)]).reshape(-1, 7)
    stamps = np.array([to_ns(stamped.header.stamp) for stamped in poses], dtype=np.int64)
    frames = {stamped.header.frame_id for stamped in poses}
    return _checked(path.header.frame_id, to_ns(path.header.stamp), frames, stamps, numbers, keep)


def read_serialized_path(data: bytes, thin_to: int) -> PathPoses:
    """`read_path` of a serialised nav_msgs/Path, fast enough for any length.

    rclpy takes 2.5 s to make Python objects of 100 000 poses, and holds the interpreter all the
    while; where every pose names the same frame (always, in practice) the CDR bytes are an array
    and are read as one in a millisecond. Any other layout goes through rclpy.
    """
    read = _read_cdr(data, thin_to)
    if read is not None:
        return read
    return read_path(deserialize_message(data, Path), thin_to)


def trajectory_to_path_poses(trajectory: Any) -> PathPoses:
    """The poses of a nav_msgs/Trajectory, timed by its stamp plus each time_from_start.

    Raises PathError as `read_path`.
    """
    numbers = np.array([(p.position.x, p.position.y, p.position.z, p.orientation.x,
                         p.orientation.y, p.orientation.z, p.orientation.w)
                        for p in (point.pose for point in trajectory.points)]).reshape(-1, 7)
    start_ns = to_ns(trajectory.header.stamp)
    stamps = np.array([start_ns + to_ns(point.time_from_start) for point in trajectory.points],
                      dtype=np.int64)
    return _checked(trajectory.header.frame_id, start_ns, set(), stamps, numbers,
                    np.arange(len(numbers)))


def _read_cdr(data: bytes, thin_to: int) -> PathPoses | None:
    """The poses when the bytes are plain little-endian CDR with one frame name, else None."""
    if data[:2] != b"\x00\x01" or len(data) < 24:
        return None
    body = memoryview(data)[4:]
    seconds, nanoseconds, length = struct.unpack_from("<iII", body, 0)
    at = _aligned(12 + length, 4)
    if at + 4 > len(body):
        return None
    frame_id = bytes(body[12:12 + length]).rstrip(b"\0").decode(errors="replace")
    stamp_ns = seconds * 10**9 + nanoseconds
    (count,) = struct.unpack_from("<I", body, at)
    at += 4
    if count == 0:
        return _checked(frame_id, stamp_ns, set(), np.zeros(0, np.int64), np.zeros((0, 7)),
                        np.zeros(0, np.int64))
    if at + 12 > len(body):
        return None
    (name_length,) = struct.unpack_from("<I", body, at + 8)
    # The first pose may start at an odd multiple of four; all later ones start at one of eight.
    first_pose = _aligned(at + 12 + name_length, 8)
    second = first_pose + 56
    stride = _aligned(12 + name_length, 8) + 56
    if second + stride * (count - 1) > len(body):
        return None
    offsets = np.concatenate([[at], second + stride * np.arange(count - 1)])
    raw = np.frombuffer(body, np.uint8)
    heads = raw[offsets[:, None] + np.arange(12 + name_length)]
    fields = np.ascontiguousarray(heads[:, :12]).view("<u4")
    if (fields[:, 2] != name_length).any() or (heads[:, 12:] != heads[0, 12:]).any():
        return None
    keep = _kept(count, thin_to)
    poses = np.concatenate([[first_pose], second + stride * np.arange(1, count) - 56])[keep]
    numbers = np.ascontiguousarray(raw[poses[:, None] + np.arange(56)]).view("<f8")
    stamps = (fields[keep, 0].view("<i4").astype(np.int64) * 10**9 + fields[keep, 1])
    name = heads[0, 12:].tobytes().rstrip(b"\0").decode(errors="replace")
    return _checked(frame_id, stamp_ns, {name}, stamps, numbers.astype(np.float64), keep)


def _aligned(offset: int, size: int) -> int:
    return -(-offset // size) * size


def _kept(count: int, thin_to: int) -> npt.NDArray[np.int64]:
    if count <= thin_to:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, thin_to).astype(np.int64))


def _checked(frame_id: str, stamp_ns: int, frames: set[str], stamps: npt.NDArray[np.int64],
             numbers: Array, indices: npt.NDArray[np.int64]) -> PathPoses:
    """numbers: [N, 7] position and quaternion of the poses with these indices in the path."""
    frame_id = _one_frame(frame_id, frames - {""}, len(numbers))
    positions, quaternions = numbers[:, :3], numbers[:, 3:]
    norms = np.linalg.norm(quaternions, axis=1)
    bad = ~np.isfinite(numbers).all(axis=1)
    if bad.any():
        i = int(np.argmax(bad))
        raise PathError(f"pose {indices[i]} of the path is not finite: position "
                        f"{positions[i].tolist()}, orientation {quaternions[i].tolist()}")
    if (norms < 1e-6).any():
        raise PathError(f"pose {indices[int(np.argmax(norms < 1e-6))]} of the path has the "
                        "orientation (0, 0, 0, 0), which is no rotation; (0, 0, 0, 1) is none")
    matrices = np.tile(np.eye(4), (len(numbers), 1, 1))
    if len(numbers):
        matrices[:, :3, :3] = Rotation.from_quat(quaternions).as_matrix()
    matrices[:, :3, 3] = positions
    return PathPoses(frame_id, stamp_ns, matrices, stamps if stamps.any() else None,
                     int(np.count_nonzero(np.abs(norms - 1.0) > UNIT_TOLERANCE)))


def _one_frame(frame_id: str, frames: set[str], count: int) -> str:
    chosen = frame_id or (min(frames) if frames else "")
    others = frames - {chosen}
    if others:
        raise PathError(f"path in frame '{chosen}' has poses in {sorted(others)[:3]}; all poses "
                        "must be in the path's frame")
    if not chosen and count:
        raise PathError("path names no frame: fill header.frame_id")
    return chosen.lstrip("/")


def to_path(transforms: Array, stamps_ns: Sequence[int], header: Header) -> Path:
    """A path message of transforms [N, 4, 4] in header.frame_id, one stamp each."""
    path = Path(header=header)
    for transform, stamp_ns in zip(transforms, stamps_ns, strict=True):
        stamped = PoseStamped(pose=matrix_to_pose(transform))
        stamped.header.frame_id = header.frame_id
        stamped.header.stamp.sec, stamped.header.stamp.nanosec = divmod(int(stamp_ns), 10**9)
        path.poses.append(stamped)
    return path
