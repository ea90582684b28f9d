# SPDX-License-Identifier: Apache-2.0
"""The geometric filler: a backend without a network, for when there is none and to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.doubt import softened
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.guide import Guide, GuideRenderer
from inspatio_ros.memory.rolling_cloud import RollingCloud
from inspatio_ros.memory.splatting import make_splatter
from inspatio_ros.memory.surfaces import extend_depth
from inspatio_ros.sensing.observation import Observation, Provenance

Image = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]
Pose = npt.NDArray[np.float64]


def push_pull(values: Float, weights: Float) -> Float:
    """`values` [H, W, C] with every pixel of weight 0 filled smoothly from those around it.

    Weighted means go down a pyramid and come back up where nothing finer is known (Gortler et al.,
    The Lumigraph, 1996). weights [H, W] in [0, 1]. Where no pixel has any weight the result is 0.
    """
    height, width = weights.shape
    premultiplied = np.empty((height, width, values.shape[2] + 1), np.float32)
    np.multiply(values, weights[..., None], out=premultiplied[..., :-1])
    premultiplied[..., -1] = weights
    levels: list[npt.NDArray[Any]] = [premultiplied]
    while max(levels[-1].shape[:2]) > 1:
        finer: npt.NDArray[Any] = levels[-1]
        pad_y, pad_x = finer.shape[0] % 2, finer.shape[1] % 2
        if pad_y or pad_x:
            finer = cv2.copyMakeBorder(finer, 0, pad_y, 0, pad_x, cv2.BORDER_REPLICATE)
        size = (finer.shape[1] // 2, finer.shape[0] // 2)
        coarser: npt.NDArray[Any] = cv2.resize(finer, size, interpolation=cv2.INTER_AREA)
        # Saturation: a coarse pixel with any evidence counts as known up to what its share
        # justifies; four times the mean means one known pixel of four is enough.
        mass = coarser[..., -1:]
        coarser *= np.minimum(1.0, 4.0 * mass) / np.maximum(mass, 1e-8)
        levels.append(np.ascontiguousarray(coarser))
    filled: npt.NDArray[Any] = levels.pop()
    while levels:
        finer = levels.pop()
        size = (finer.shape[1], finer.shape[0])
        up: npt.NDArray[Any] = cv2.resize(filled, size, interpolation=cv2.INTER_LINEAR)
        filled = finer + (1.0 - np.minimum(finer[..., -1:], 1.0)) * up
    result: Float = filled[:height, :width, :-1] / np.maximum(filled[..., -1:], 1e-8)
    return result


def nearest_blurred(
    image: npt.NDArray[Any], known: npt.NDArray[np.bool_], sigma: float = 2.0
) -> Float:
    """`image` [H, W, 3], its unknown pixels taking the nearest known colour, then blurred.

    Returns float32 [H, W, 3]; known pixels unchanged. `known` must hold at least one True.
    """
    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    palette = np.zeros((int(labels.max()) + 1, 3), np.float32)
    palette[labels[known]] = image[known]
    nearest = palette.take(np.asarray(labels, np.int32), axis=0, mode="clip")
    blurred = cv2.GaussianBlur(nearest, (0, 0), sigma)
    blurred[known] = image[known]
    return np.asarray(blurred, dtype=np.float32)


class GeometricFiller:
    """Fills what no geometry backs; deterministic, one frame a block.

    The guide brings hints along (colours seen at a guessed depth), which are blurred as far as
    that guess may mislead. What is still empty then takes
    what was filled in the frame before, carried along so that it stands still in the world, and
    last a smooth continuation of the colours around.
    """

    name = "geometric"
    block_frames = 1
    first_block_frames = 1
    lookahead = 0
    reference_frames = 1
    asynchronous = False

    def __init__(self) -> None:
        self._renderer = GuideRenderer(make_splatter("numba"), "soft", guess=False)
        self._no_cloud = RollingCloud(capacity=1)

    @property
    def nbytes(self) -> int:
        """Bytes held between requests."""
        return self._no_cloud.nbytes

    def begin(self, request: ImaginationRequest) -> GeometricSession:
        """Start a request."""
        self._renderer.clear()
        return GeometricSession(request, self._renderer, self._no_cloud)

    def warm_up(self, camera: PinholeCamera) -> None:
        """Run once at this size, so that library start-up is not part of the first frame."""
        rng = np.random.default_rng(0)
        image = rng.integers(0, 255, (camera.height, camera.width, 3)).astype(np.uint8)
        depth = np.ones(image.shape[:2], np.float32)
        labels = np.full(depth.shape, Provenance.OBSERVED, np.uint8)
        labels[::2] = Provenance.UNKNOWN
        labels[1::4] = Provenance.IMAGINED
        seen = Observation(0, image, depth, camera, np.eye(4))
        trajectory = CameraTrajectory(np.eye(4)[None], np.zeros(1))
        session = self.begin(ImaginationRequest(camera, trajectory, (seen,)))
        session.start_fill([[Guide(image, depth, labels, guessed=depth)] * 2], (seen,))
        session.close()

    def close(self) -> None:
        """Free what was prepared."""
        self._renderer.clear()


class GeometricSession:
    """One request's state in the filler: the last picture, with a depth for every pixel."""

    def __init__(
        self, request: ImaginationRequest, renderer: GuideRenderer, no_cloud: RollingCloud
    ) -> None:
        self.stage_times: dict[str, float] = {}
        self._request = request
        camera = request.camera
        # What is filled is smooth: half the size does, and is four times as fast.
        self._camera = camera.resized(-(-camera.width // 2), -(-camera.height // 2))
        self._renderer = renderer
        self._no_cloud = no_cloud
        self._frame = 0
        self._filled: list[list[Image]] = []
        self._last: Observation | None = None
        # Of the block's frames, at half the size: guessed where nothing was seen; of a frame that
        # shows nothing at all the one before, since along a way much stays where it is in the
        # picture: the road below, what is far ahead.
        self.depths: list[Float] = []
        # Where hints were seen from.
        self._seen_from: Pose | None = None
        self._guess: Float | None = None
        # Called before every picture, for who has other things to do.
        self.meanwhile: Callable[[], None] | None = None

    def start_fill(
        self, guides: Sequence[Sequence[Guide]], references: Sequence[Observation]
    ) -> None:
        """Fill the pictures of a block."""
        self.depths = []
        if references:
            self._seen_from = references[0].world_from_camera
        self._filled = [[self._fill_one(guide) for guide in lane] for lane in guides]

    def finish_fill(self) -> list[list[Image]]:
        """Whole pictures, one a guide."""
        filled, self._filled = self._filled, []
        return filled

    def close(self) -> None:
        """Forget the request."""
        self._last = None
        self._renderer.clear()

    def _fill_one(self, guide: Guide) -> Image:
        if self.meanwhile is not None:
            self.meanwhile()
        poses = self._request.trajectory.world_from_camera
        pose = poses[min(self._frame, len(poses) - 1)]
        self._frame += 1
        known = guide.provenance != Provenance.UNKNOWN
        drawn = guide.image
        if self._seen_from is not None:
            drawn = softened(guide, self._request.camera, rigid.invert(self._seen_from) @ pose)
        colors, share = reduced(drawn, known)
        if self._last is not None:
            carried = self._renderer.render(self._camera, pose, [self._last], self._no_cloud)
            fresh = (share == 0) & (carried.provenance != Provenance.UNKNOWN)
            colors[fresh] = carried.image[fresh]
            share[fresh] = 1.0
        complete = continued(colors, share)
        small = cv2.resize(guide.shown_depth, self._camera.size, interpolation=cv2.INTER_NEAREST)
        depth = extend_depth(np.asarray(small, np.float32))
        if guide.moving is not None:
            # What moves is not where it was: its colours do not fill the next view's holes.
            gone = cv2.resize(guide.moving.astype(np.uint8), self._camera.size,
                              interpolation=cv2.INTER_AREA)
            depth = np.where(cv2.dilate(gone, np.ones((3, 3), np.uint8)) > 0,
                             np.float32(np.nan), depth)
        self._last = Observation(self._frame, complete, depth, self._camera, pose)
        if self._guess is None or (depth > 0).any():
            self._guess = np.asarray(depth, np.float32)
        self.depths.append(self._guess)
        return merged(drawn, known, complete)


def fill_holes(image: Image, known: npt.NDArray[np.bool_]) -> Image:
    """`image` uint8 [H, W, 3] with unknown pixels filled; mid-grey when nothing is known at all.

    The filling is made at half the size: it is smooth, and four times as fast.
    """
    if known.all():
        return image
    return merged(image, known, continued(*reduced(image, known)))


def reduced(image: Image, known: npt.NDArray[np.bool_]) -> tuple[Float, Float]:
    """Mean colours of the known pixels float32 [h, w, 3] at half the size, and their share [h, w].

    Black where no pixel is known.
    """
    size = (-(-image.shape[1] // 2), -(-image.shape[0] // 2))
    weight = known.astype(np.float32)
    total = cv2.resize(image * weight[..., None], size, interpolation=cv2.INTER_AREA)
    share = np.asarray(cv2.resize(weight, size, interpolation=cv2.INTER_AREA), np.float32)
    return np.asarray(total / np.maximum(share, 1e-6)[..., None], np.float32), share


def continued(colors: Float, share: Float) -> Image:
    """Colours [h, w, 3] with empty pixels (share 0) filled, uint8; mid-grey when all are empty.

    The mean of push-pull and of blurred nearest colours: the two err differently, and their mean
    beats either on recordings.
    """
    some = share > 0
    if not some.any():
        return np.full(colors.shape, 128, np.uint8)
    filled = (push_pull(colors, some.astype(np.float32)) + nearest_blurred(colors, some)) / 2.0
    return np.asarray(np.rint(np.clip(filled, 0, 255)), dtype=np.uint8)


def merged(image: Image, known: npt.NDArray[np.bool_], filling: Image) -> Image:
    """`image` where known, else `filling` brought to its size."""
    whole = cv2.resize(filling, (image.shape[1], image.shape[0]))
    cv2.copyTo(image, known.astype(np.uint8), whole)
    return np.asarray(whole, np.uint8)
