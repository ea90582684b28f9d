# SPDX-License-Identifier: Apache-2.0
"""What can be done without a memory of the scene; imagined views have to beat it.

Written apart from the memory's renderers on purpose: a baseline that shares their code would share
their mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.filler import nearest_blurred, push_pull
from inspatio_ros.memory.guide import Guide
from inspatio_ros.sensing.observation import Observation, Provenance

Image = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]

LAST_FRAME, HOMOGRAPHY, NEAREST_VIEW = "last_frame", "homography", "nearest_view"
SINGLE_WARP, CLASSICAL, MEAN_FILL = "single_warp", "classical_fill", "mean_fill"
BASELINES = (LAST_FRAME, HOMOGRAPHY, NEAREST_VIEW, SINGLE_WARP, CLASSICAL, MEAN_FILL)
# Classical fills of the very guide that a model is shown: what its filling has to beat.
GUIDE_TELEA, GUIDE_NAVIER_STOKES = "guide_telea", "guide_navier_stokes"
GUIDE_PUSH_PULL, GUIDE_NEAREST, GUIDE_MEAN = "guide_push_pull", "guide_nearest", "guide_mean"
GUIDE_FILLS = (GUIDE_TELEA, GUIDE_NAVIER_STOKES, GUIDE_PUSH_PULL, GUIDE_NEAREST, GUIDE_MEAN)
# Those that need the newest frame and its depth only, and no more time than a view takes.
QUICK = (LAST_FRAME, SINGLE_WARP, CLASSICAL)

# How strongly near points outweigh far ones that land on the same pixel, as in InSpatio-World's
# warper; and the weight below which a pixel counts as not reached.
_SHARPNESS = 50.0
_LEAST_WEIGHT = 1e-4
_INPAINT_RADIUS = 3

# Views a bank holds, and the first distance (radians of view, see `view_angle`) between two.
_BANK_VIEWS = 128
_BANK_SPACING = 0.02


def baselines(camera: PinholeCamera, world_from_camera: npt.NDArray[np.float64],
              newest: Observation, methods: Sequence[str] = QUICK,
              bank: ViewBank | None = None) -> dict[str, Image]:
    """The picture uint8 RGB [H, W, 3] that each of `methods` gives of a view, by name.

    last_frame: the newest frame again. homography: the newest frame on a wall across its view at
    its median depth. nearest_view: of what `bank` holds (without one: of the newest frame) the
    picture taken from nearest to the pose. single_warp: the newest frame forward-warped by its
    depth (bilinear, near before far), unreached pixels in the mean colour of the reached ones.
    classical_fill: the same warp, unreached pixels by inpainting (Telea 2004). mean_fill: the same
    warp, unreached pixels by the mean of four fills: Telea's, Navier-Stokes (Bertalmio 2001),
    push-pull and the nearest colour blurred. Raises ValueError for another name.
    """
    unknown = [name for name in methods if name not in BASELINES]
    if unknown:
        raise ValueError(f"no baseline '{unknown[0]}'; there are {', '.join(BASELINES)}")
    last = picture_of(newest, camera)
    depth = depth_of(newest, camera)
    step = rigid.invert(world_from_camera) @ newest.world_from_camera
    pictures: dict[str, Image] = {}
    if LAST_FRAME in methods:
        pictures[LAST_FRAME] = last
    if HOMOGRAPHY in methods:
        pictures[HOMOGRAPHY] = planar_warp(last, depth, camera, step)
    if NEAREST_VIEW in methods:
        pictures[NEAREST_VIEW] = last if bank is None else bank.nearest(world_from_camera)
    if not {SINGLE_WARP, CLASSICAL, MEAN_FILL} & set(methods):
        return pictures
    warped, reached = forward_warp(last, depth, camera, step)
    holes = (~reached).astype(np.uint8)
    if SINGLE_WARP in methods:
        plain = warped.copy()
        if reached.any():
            plain[~reached] = np.rint(warped[reached].mean(axis=0)).astype(np.uint8)
        pictures[SINGLE_WARP] = plain
    if CLASSICAL in methods:
        pictures[CLASSICAL] = _inpainted(warped, holes, cv2.INPAINT_TELEA)
    if MEAN_FILL in methods:
        pictures[MEAN_FILL] = _mean_fill(warped, holes)
    return {name: pictures[name] for name in methods}


def _inpainted(image: Image, holes: Image, method: int) -> Image:
    return np.asarray(cv2.inpaint(image, holes, _INPAINT_RADIUS, method), dtype=np.uint8)


def _mean_fill(warped: Image, holes: Image) -> Image:
    fills = classical_fills(warped, holes == 0)
    return fills[GUIDE_MEAN]


def guide_fills(guide: Guide, methods: Sequence[str] = GUIDE_FILLS) -> dict[str, Image]:
    """The guide's picture with what it does not know filled classically, by name of `methods`.

    guide_telea, guide_navier_stokes: inpainting (Telea 2004, Bertalmio 2001). guide_push_pull:
    Gortler 1996. guide_nearest: the nearest known colour, blurred. guide_mean: the mean of the
    four. Hints of the guide count as known: the fills get all that the model gets.
    """
    wanted = [name for name in GUIDE_FILLS if name in methods]
    if not wanted:
        return {}
    fills = classical_fills(guide.image, guide.provenance != Provenance.UNKNOWN)
    return {name: fills[name] for name in wanted}


def classical_fills(image: Image, known: npt.NDArray[np.bool_]) -> dict[str, Image]:
    """Four classical fills of a picture and their mean, by the names of `GUIDE_FILLS`."""
    if not known.any():
        return dict.fromkeys(GUIDE_FILLS, image)
    color, holes = image.astype(np.float32), (~known).astype(np.uint8)
    fills = {
        GUIDE_TELEA: _inpainted(image, holes, cv2.INPAINT_TELEA).astype(np.float32),
        GUIDE_NAVIER_STOKES: _inpainted(image, holes, cv2.INPAINT_NS).astype(np.float32),
        GUIDE_PUSH_PULL: push_pull(color, known.astype(np.float32)),
        GUIDE_NEAREST: nearest_blurred(color, known)}
    fills[GUIDE_MEAN] = np.mean(list(fills.values()), axis=0)
    whole = {name: np.rint(fill).clip(0, 255).astype(np.uint8) for name, fill in fills.items()}
    return {name: np.asarray(np.where(known[..., None], image, fill), dtype=np.uint8)
            for name, fill in whole.items()}


def planar_warp(image: Image, depth: Float, camera: PinholeCamera,
                target_from_source: npt.NDArray[np.float64]) -> Image:
    """`image` from elsewhere, as if all of it were a wall across the view at its median depth.

    Beyond the picture its rim goes on; what would lie behind the camera is in the mean colour.
    Where no depth is known, or the way leads through the wall, only the turn is followed.
    """
    rotation, shift = target_from_source[:3, :3], target_from_source[:3, 3]
    known = depth[depth > 0]
    move = np.zeros((3, 3))
    if known.size:
        distance = float(np.median(known))
        # Where the middle of the wall comes to lie; close to or behind the camera it is no help.
        if (rotation @ (0.0, 0.0, distance) + shift)[2] > 0.2 * distance:
            move = np.outer(shift, (0.0, 0.0, 1.0 / distance))
    k = camera.matrix
    source_from_target = np.linalg.inv(k @ (rotation + move) @ np.linalg.inv(k))
    grid = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1)
    places = np.concatenate([grid, np.ones((*grid.shape[:2], 1))], axis=-1) @ source_from_target.T
    ahead = places[..., 2] > 1e-6
    pixels = places[..., :2] / np.where(ahead, places[..., 2], 1.0)[..., None]
    pixels = pixels.clip(-1e4, 1e4).astype(np.float32)
    warped = cv2.remap(image, pixels[..., 0], pixels[..., 1], cv2.INTER_LINEAR,
                       borderMode=cv2.BORDER_REPLICATE)
    mean = np.rint(image.mean(axis=(0, 1))).astype(np.uint8)
    return np.asarray(np.where(ahead[..., None], warped, mean), dtype=np.uint8)


def view_angle(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64],
               depth: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """By how many radians the middle of a scene `depth` m away moves between poses, at most.

    a [..., 4, 4], b [4, 4], depth of a's scene [...].
    """
    step = rigid.invert(a) @ b
    shift = np.linalg.norm(step[..., :3, 3], axis=-1) / np.maximum(depth, 1e-3)
    return np.asarray(rigid.rotation_angle(step) + shift)


def scene_depth(observation: Observation) -> float:
    """Median of the depth of an observation, m; 1 where none is known."""
    known = observation.depth[observation.depth > 0]
    return float(np.median(known)) if known.size else 1.0


# Picture, world_from_camera, median depth of the scene in m.
_BankView = tuple[Image, npt.NDArray[np.float64], float]


class ViewBank:
    """Pictures seen so far at the size of `camera`: the newest one, and 128 at most of the others.

    Those are spread over the poses. When there are too many every second leaves, and the spacing
    grows.
    """

    def __init__(self, camera: PinholeCamera, capacity: int = _BANK_VIEWS) -> None:
        self._camera = camera
        self._capacity = capacity
        self._spacing = _BANK_SPACING
        self._kept: list[_BankView] = []
        self._newest: list[_BankView] = []

    def __len__(self) -> int:
        return len(self._views)

    @property
    def _views(self) -> list[_BankView]:
        # The newest first: of equally near ones it is the better.
        return self._newest + self._kept

    def add(self, observation: Observation) -> None:
        """Take in what was seen."""
        for view in self._newest:
            kept = self._angles(self._kept, view[1])
            if kept.size == 0 or kept.min() >= self._spacing:
                self._kept.append(view)
        if len(self._kept) > self._capacity:
            self._kept = self._kept[::2]
            self._spacing *= 1.5
        self._newest = [(picture_of(observation, self._camera), observation.world_from_camera,
                         scene_depth(observation))]

    def nearest(self, world_from_camera: npt.NDArray[np.float64]) -> Image:
        """The picture taken from nearest to a pose. Raises ValueError when there is none."""
        views = self._views
        if not views:
            raise ValueError("the bank of views is empty")
        return views[int(np.argmin(self._angles(views, world_from_camera)))][0]

    @staticmethod
    def _angles(views: Sequence[_BankView], pose: npt.NDArray[np.float64]
                ) -> npt.NDArray[np.float64]:
        poses = np.array([view[1] for view in views]).reshape(-1, 4, 4)
        return view_angle(poses, pose, np.array([view[2] for view in views]))


def picture_of(observation: Observation, camera: PinholeCamera) -> Image:
    """An observation's picture at the size of `camera`."""
    if observation.camera.size == camera.size:
        return observation.image
    resized = cv2.resize(observation.image, camera.size, interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.uint8)


def depth_of(observation: Observation, camera: PinholeCamera) -> Float:
    """An observation's depth at the size of `camera`; nearest, since a mean of two surfaces is
    none."""
    if observation.camera.size == camera.size:
        return observation.depth
    resized = cv2.resize(observation.depth, camera.size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, dtype=np.float32)


def forward_warp(image: Image, depth: Float, camera: PinholeCamera,
                 target_from_source: npt.NDArray[np.float64],
                 ) -> tuple[Image, npt.NDArray[np.bool_]]:
    """`image` as seen from elsewhere by the same camera, and where a point landed.

    Every pixel with a depth is spread bilinearly over the four pixels round where it lands;
    weights fall with the logarithm of depth, so that near points hide far ones.
    """
    known = depth > 0
    points = rigid.transform_points(target_from_source, camera.unproject(depth)[known])
    pixels, z = camera.project(points)
    inside = (z > 0) & np.isfinite(pixels).all(axis=1)
    pixels, z, colors = pixels[inside], z[inside], image[known][inside].astype(np.float64)
    total = np.zeros((camera.height, camera.width, 3))
    weights = np.zeros((camera.height, camera.width))
    if z.size:
        nearness = np.exp(-_SHARPNESS * np.log1p(z) / max(float(np.log1p(z).max()), 1e-9))
        nearness = nearness / nearness.max()
        corner = np.floor(pixels).astype(np.int64)
        part = pixels - corner
        for dy in (0, 1):
            for dx in (0, 1):
                share = (part[:, 0] if dx else 1 - part[:, 0]) * (
                    part[:, 1] if dy else 1 - part[:, 1])
                _spread(total, weights, corner + (dx, dy), colors, share, nearness)
    reached = weights > 0
    mean = total / np.where(reached, weights, 1.0)[..., None]
    return np.asarray(np.rint(mean), dtype=np.uint8), reached


def _spread(total: npt.NDArray[np.float64], weights: npt.NDArray[np.float64],
            pixels: npt.NDArray[np.int64], colors: npt.NDArray[np.float64],
            share: npt.NDArray[np.float64], nearness: npt.NDArray[np.float64]) -> None:
    height, width = weights.shape
    keep = ((pixels >= 0) & (pixels < (width, height))).all(axis=1) & (share > _LEAST_WEIGHT)
    flat = pixels[keep, 1] * width + pixels[keep, 0]
    weight = share[keep] * nearness[keep]
    weights += np.bincount(flat, weight, height * width).reshape(height, width)
    for channel in range(3):
        total[..., channel] += np.bincount(
            flat, weight * colors[keep, channel], height * width).reshape(height, width)
