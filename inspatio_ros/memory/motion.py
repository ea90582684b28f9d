# SPDX-License-Identifier: Apache-2.0
"""What moved between two looks at the world, found without weights.

Every pixel is asked three things: does the flow between the pictures, once the camera's own motion
is taken out by depth, still move it; was its place seen to be empty before; or does it look as it
would if it stood. What stands on the ground is cut into surfaces, and a surface moves when more of
its pixels say so than not.

Method: residual flow and residual depth as in motion segmentation for dynamic SLAM (DynaSLAM,
Bescos 2018, its geometric part; FlowFusion, Zhang 2020), free-space violation as in Dynablox
(Schmid 2023), flow by DIS (Kroeger 2016, OpenCV's). The spreading of decisions over surfaces and
all thresholds are this package's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory import motion_numba as kernels
from inspatio_ros.memory import pieces_numba
from inspatio_ros.memory.residual_flow import ResidualFlow, count_differing
from inspatio_ros.memory.surfaces import close_gaps, reduce_depth
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.int32]

# Pixels across the picture in which motion is looked for; finer pictures are reduced first.
WORK_WIDTH = 416
# Residual flow that counts, px; grey values that pictures of one surface differ by.
LEAST_FLOW_PX = 1.0
NOISE = 7.0
# Ground: size of a cell, cells ahead, rise of the ground, and the height from which a thing stands
# on it.
CELL, CELLS, STEEP, LEAST_HEIGHT = 0.4, 200, 0.15, 0.12
# Relative depth that is the same: this many times what most of the picture differs by, within
# these bounds; and the value where too little is seen twice.
TOLERANCE_FACTOR, TOLERANCES, TOLERANCE = 8.0, (0.012, 0.06), 0.04
# Relative depth between neighbouring pixels of one surface; px over which a decision spreads.
SURFACE_JUMP = 0.025
SPREAD_PX = 12
# Moving surfaces have at least so many pixels that say so, and so large a share of those that can
# be asked.
LEAST_PIXELS = 12
LEAST_TOLD = 0.3
# Farther things are too coarse in depth to tell, m.
MAX_DEPTH = 80.0
# A shift of the whole picture up to this is the pose's error, not motion, px.
LARGEST_SHIFT_PX = 2.0


@dataclass(frozen=True)
class Look:
    """An observation as motion is sought in it: reduced, grey, with gaps in depth closed.

    near, far: 3x3 extremes of depth [h, w]. labels int32 [h, w]: not 0 where a thing was found to
    move; 0 everywhere until it has been compared. known: pixels of known depth. smooth: pictures
    that were smoothed already, by size.
    """

    stamp_ns: int
    camera: PinholeCamera
    world_from_camera: Array
    gray: npt.NDArray[np.uint8]
    depth: Float
    near: Float
    far: Float
    labels: npt.NDArray[np.int32]
    known: int
    smooth: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def smoothed(self, size: int) -> npt.NDArray[np.uint8]:
        """The grey picture with each pixel the mean of so many across and down; kept."""
        if size not in self.smooth:
            self.smooth[size] = np.asarray(cv2.blur(self.gray, (size, size)), np.uint8)
        return self.smooth[size]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.gray.nbytes + 4 * self.depth.nbytes + sum(
            picture.nbytes for picture in self.smooth.values())


@dataclass(frozen=True)
class Piece:
    """A surface that moved. number: its label. pixels: of the look; said: those that said so
    themselves. displacement [3] m since the earlier look, NaN where flow could not tell; spread
    [3] m: median deviation of the pixels that measured it. places int32 [pixels]: flat.
    borne_out: two looks have been asked already whether it moved or stood."""

    number: int
    pixels: int
    said: int
    displacement: Array
    spread: Array
    places: Pixels
    borne_out: bool = False


@dataclass(frozen=True)
class Motion:
    """labels int32 [h, w] of the look: 0 stands, else the number of a piece. evidence int8 [h, w]:
    1 says it moved, -1 that it stands, 2 nothing where something is known to move, 0 nothing.
    share: of the pixels with depth, that moved."""

    labels: npt.NDArray[np.int32]
    evidence: npt.NDArray[np.int8]
    pieces: tuple[Piece, ...]
    share: float
    seconds: float


def look_at(observation: Observation, width: int = WORK_WIDTH) -> Look:
    """The observation reduced to `width` pixels across."""
    camera, image = observation.camera, observation.image
    depth = close_gaps(observation.depth)
    if camera.width > width:
        size = (width, max(1, round(camera.height * width / camera.width)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        depth = close_gaps(reduce_depth(depth, size))
        camera = camera.resized(*size)
    gray = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    near, far = np.empty_like(depth), np.empty_like(depth)
    known = int(kernels.extremes(depth, near, far))
    return Look(observation.stamp_ns, camera, observation.world_from_camera, gray, depth, near,
                far, np.zeros(depth.shape, np.int32), known)


def _tolerance(before_depth: Float, places: Float, expected: Float) -> np.float32:
    """How exact depth is, by what most pixels differ by from one look to the next."""
    found = np.empty((expected.shape[0] // 4 + 1) * (expected.shape[1] // 4 + 1), np.float32)
    count = kernels.off_by(before_depth, places, expected, np.float32(0.15), found)
    if count < 100:
        return np.float32(TOLERANCE)
    return np.float32(np.clip(TOLERANCE_FACTOR * np.median(found[:count]), *TOLERANCES))


class _Buffers:
    """Scratch of one size of look, kept so that it is not mapped anew for each."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.places = np.empty((*shape, 2), np.float32)
        self.expected = np.empty(shape, np.float32)
        self.decided = np.empty(shape, np.int8)
        self.cells = np.empty(shape, np.int32)


class MotionSegmenter:
    """Compares two looks. up [3]: the world's; None: the world axis nearest to the camera's up."""

    def __init__(self, up: tuple[float, float, float] | None = (0.0, 0.0, 1.0)) -> None:
        self._up = None if up is None else np.asarray(up, np.float64)
        self._flow = ResidualFlow()
        self._grid = np.empty((CELLS, CELLS), np.float32)
        self._buffers = _Buffers((0, 0))

    def compare(self, now: Look, before: Look, slow: Look | None = None,
                known: npt.NDArray[np.int32] | None = None,
                boxes: npt.NDArray[np.int32] | None = None,
                standing: Mask | None = None) -> Motion:
        """What moved since `before`.

        slow: an older look, against whose empty space slow things show. known int32 [h, w]: where
        known things should be now, by the numbers of `before.labels`; pixels there that cannot
        tell are taken to move. boxes
        int32 [h, w]: pixels within a detector's boxes, by number: such a box moves as a whole.
        standing: what `standing` gave of this look, where that is known already.
        """
        if standing is None:
            standing = self.standing(now)
        camera, shape = now.camera, now.depth.shape
        rays, intrinsics = kernel_numbers(camera)
        before_from_now = rigid.invert(before.world_from_camera) @ now.world_from_camera
        forward = before_from_now[:3].astype(np.float32)
        buffers = self._buffers_for(shape)
        places, expected, evidence = buffers.places, buffers.expected, np.empty(shape, np.int8)
        kernels.expect(now.depth, rays, forward, intrinsics, places, expected)
        tolerance = _tolerance(before.depth, places, expected)
        warped = np.asarray(cv2.remap(before.gray, places, None,  # type: ignore[call-overload]
                                      cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)
        smooth = now.smoothed(3)
        smooth_warped = np.asarray(cv2.blur(warped, (3, 3)), np.uint8)
        flow = self._flow(now.gray, warped, count_differing(
            smooth, smooth_warped, standing, places, NOISE))
        shift, warped = _common_shift(flow, expected), smooth_warped
        labels = np.zeros(shape, np.int32) if known is None else known
        noise = np.float32(NOISE)
        kernels.judge(now.gray, smooth, warped, standing, flow, shift, places, expected,
                      now.depth, now.near, now.far, before.depth, before.near, before.labels,
                      labels, rays, intrinsics, forward,
                      rigid.invert(before_from_now)[:3].astype(np.float32), tolerance,
                      np.float32(LEAST_FLOW_PX), noise, np.float32(MAX_DEPTH), evidence)
        if slow is not None:
            earlier = rigid.invert(slow.world_from_camera) @ now.world_from_camera
            kernels.appeared(now.depth, rays, earlier[:3].astype(np.float32), intrinsics, standing,
                             now.near, now.far, slow.near, tolerance, np.float32(MAX_DEPTH),
                             evidence)

        def displacements(pixels: Pixels) -> Float:
            motion = np.empty((3, len(pixels)), np.float32)
            count = kernels.displacements(
                pixels, smooth, warped, flow, shift, places, expected, now.depth, before.depth,
                before.near, before.far, rays, now.world_from_camera[:3].astype(np.float32),
                before.world_from_camera[:3].astype(np.float32), tolerance, noise, motion)
            return motion[:, :count]

        found, pieces = self._pieces(now, standing, evidence, labels, boxes, displacements)
        share = sum(p.pixels for p in pieces) / now.known if now.known else 0.0
        return Motion(found, evidence, pieces, share, (now.stamp_ns - before.stamp_ns) * 1e-9)

    def standing(self, look: Look) -> Mask:
        """Pixels [h, w] of known depth that are not ground."""
        rotation = look.world_from_camera[:3, :3]
        up = rotation.T @ self.up(look.world_from_camera)
        ahead = np.array([0.0, 0.0, 1.0]) - up[2] * up
        ahead /= max(float(np.linalg.norm(ahead)), 1e-6)
        right = np.cross(ahead, up)
        rays, _ = kernel_numbers(look.camera)
        standing = np.empty(look.depth.shape, np.bool_)
        pieces_numba.off_ground(look.depth, rays, up.astype(np.float32), right.astype(np.float32),
                           ahead.astype(np.float32), np.float32(CELL), np.float32(STEEP),
                           np.float32(LEAST_HEIGHT), self._grid,
                           self._buffers_for(look.depth.shape).cells, standing)
        return standing

    def up(self, world_from_camera: Array) -> Array:
        """The world's up axis [3]."""
        if self._up is not None:
            return self._up
        camera_up = -world_from_camera[:3, 1]
        axis = int(np.argmax(np.abs(camera_up)))
        up = np.zeros(3)
        up[axis] = np.sign(camera_up[axis])
        return up

    def _buffers_for(self, shape: tuple[int, ...]) -> _Buffers:
        if self._buffers.cells.shape != shape:
            self._buffers = _Buffers(shape)
        return self._buffers

    def _pieces(self, now: Look, standing: Mask, evidence: npt.NDArray[np.int8],
                known: npt.NDArray[np.int32],
                boxes: npt.NDArray[np.int32] | None, displacements: Callable[[Pixels], Float]
                ) -> tuple[npt.NDArray[np.int32], tuple[Piece, ...]]:
        shape = now.depth.shape
        buffers, jump = self._buffers_for(shape), np.float32(SURFACE_JUMP)
        decided, queue = buffers.decided, buffers.cells.reshape(-1)
        pieces_numba.spread(now.depth, standing, known, jump, SPREAD_PX, evidence, decided, queue)
        labels = np.empty(shape, np.int32)
        found, count = pieces_numba.connected(now.depth, decided, jump, labels, queue)
        places, flat = queue[:found].copy(), labels.reshape(-1)
        if boxes is not None:
            inside = (boxes > 0) & standing
            labels[inside] = count + boxes[inside]
            count += int(boxes.max())
            places = np.flatnonzero(labels).astype(np.int32)
        # Few pixels belong to anything: only those are looked at from here on.
        numbers, words = flat[places], evidence.reshape(-1)[places]
        spoke = words == kernels.MOVING
        moving = np.bincount(numbers[spoke], None, count + 1)
        pixels = np.bincount(numbers, None, count + 1)
        # What is expected there and cannot tell does not speak against it.
        silent = np.bincount(numbers[words == kernels.EXPECTED], None, count + 1)
        keep = (moving >= LEAST_PIXELS) & (moving >= LEAST_TOLD * (pixels - silent))
        keep[0] = False
        pieces = []
        for number in np.flatnonzero(keep):
            own = numbers == number
            motion = displacements(places[own & spoke])
            displacement, spread = np.full(3, np.nan), np.full(3, np.nan)
            if motion.shape[1] >= 6:
                displacement = np.median(motion, axis=1).astype(np.float64)
                spread = np.median(np.abs(motion - displacement[:, None]), axis=1)
            pieces.append(Piece(int(number), int(pixels[number]), int(moving[number]),
                                displacement, spread, places[own]))
        flat[places[~keep[numbers]]] = 0
        return labels, tuple(pieces)


def kernel_numbers(camera: PinholeCamera) -> tuple[Float, Float]:
    """(1/fx, 1/fy, cx, cy), (fx, fy, cx, cy) for the kernels."""
    return (np.array([1 / camera.fx, 1 / camera.fy, camera.cx, camera.cy], np.float32),
            np.array([camera.fx, camera.fy, camera.cx, camera.cy], np.float32))


def _common_shift(flow: Float, expected: Float) -> Float:
    """What all the picture is off by, px [2]: the pose's error; 0 where it is too much for one."""
    sample = flow[::12, ::12][expected[::12, ::12] > 0]
    if len(sample) >= 100:
        shift = np.asarray(np.median(np.ascontiguousarray(sample.T), axis=1), np.float32)
        if np.abs(shift).max() <= LARGEST_SHIFT_PX:
            return shift
    return np.zeros(2, np.float32)
