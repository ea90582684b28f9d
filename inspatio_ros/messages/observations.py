# SPDX-License-Identifier: Apache-2.0
"""From matched camera messages to observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.aligned_depth import MonocularDepth
from inspatio_ros.depth.estimator import EstimatorError
from inspatio_ros.depth.from_motion import (
    ESTIMATE,
    MONOCULAR,
    monocular_depth,
    scaling_estimator,
)
from inspatio_ros.depth.rectification import Rectifier
from inspatio_ros.depth.registration import needs_registration, register_depth
from inspatio_ros.depth.sensor_depth import (
    DepthError,
    DepthOptions,
    decode_compressed_depth,
    decode_depth,
)
from inspatio_ros.depth.stereo import StereoDepth, StereoOptions
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.messages import cameras, images
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]
Rgb = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]


class DecodeOptions(Protocol):
    """What the imagination node's `input.*` parameters say of the pictures."""

    @property
    def depth(self) -> str: ...  # noqa: D102 - documented as parameters
    @property
    def rectify(self) -> bool: ...  # noqa: D102
    @property
    def already_rectified(self) -> bool: ...  # noqa: D102
    @property
    def depth_unit(self) -> float: ...  # noqa: D102
    @property
    def min_depth(self) -> float: ...  # noqa: D102
    @property
    def max_depth(self) -> float: ...  # noqa: D102
    @property
    def flying_pixel_jump(self) -> float: ...  # noqa: D102
    @property
    def stereo_scale(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Messages of one instant, matched by stamp, with the calibrations in force.

    messages: by stream 'image' and, where depth comes from one, 'depth' or 'right'. arrived:
    steady seconds.
    """

    stamp_ns: int
    frame_id: str
    messages: Mapping[str, Any]
    infos: Mapping[str, Any]
    arrived: float


class InputRejected(ValueError):
    """An image set that cannot become an observation; `reason` is its drop counter."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ObservationDecoder:
    """Makes observations of image sets: decoding, rectification, depth, registration.

    topics: stream to topic name, for messages. lookup(target, source, stamp_ns) gives
    target_from_source between two cameras' optical frames, LookupError when it cannot.
    stereo_options(options): how a pair is matched. depth_model: folder of the model for depth
    'estimate'; empty: the best that is shipped. Keeps rectification maps and the stereo matcher of
    the calibration last seen. One thread at a time.
    """

    def __init__(self, topics: Mapping[str, str],
                 lookup: Callable[[str, str, int], Array],
                 stereo_options: Callable[[Any], StereoOptions] | None = None,
                 depth_model: str = "") -> None:
        self._topics = topics
        self._depth_model = depth_model
        self._stereo_options = stereo_options or default_stereo_options
        self._lookup = lookup
        self._made: dict[str, tuple[Any, Any]] = {}

    def decode(self, item: ImageSet, world_from_camera: Array,
               options: DecodeOptions) -> Observation:
        """The observation of `item`. Raises InputRejected naming the topic, and the fix."""
        try:
            if options.depth in MONOCULAR:
                image, depth, camera = self._monocular(item, world_from_camera, options)
            elif options.depth == "stereo":
                image, depth, camera = self._stereo(item, options)
            else:
                image, depth, camera = self._sensor(item, options)
        except (images.ImageError, cameras.CameraInfoError, DepthError) as error:
            raise InputRejected(error.reason, str(error)) from error
        return Observation(item.stamp_ns, image, depth, camera, world_from_camera)

    def color(self, item: ImageSet, options: DecodeOptions) -> tuple[Rgb, PinholeCamera]:
        """The rectified picture of `item` alone, and its camera. Raises as `decode` does."""
        try:
            return self._color(item, options)
        except (images.ImageError, cameras.CameraInfoError) as error:
            raise InputRejected(error.reason, str(error)) from error

    def _sensor(self, item: ImageSet,
                options: DecodeOptions) -> tuple[Rgb, Depth, PinholeCamera]:
        image, camera = self._color(item, options)
        return image, self._depth(item, camera, options), camera

    def _monocular(self, item: ImageSet, world_from_camera: Array,
                   options: DecodeOptions) -> tuple[Rgb, Depth, PinholeCamera]:
        image, camera = self._color(item, options)
        source = self._kept("monocular", (options.depth, camera),
                            lambda: self._depth_from_motion(options))
        depth = source.add(item.stamp_ns, image, camera, world_from_camera)
        if depth is None:
            raise InputRejected("no_depth_yet", f"{self._topics['image']}: no depth: "
                                f"{source.reason}")
        if not (depth > 0).any():
            raise InputRejected(
                "no_depth_yet", f"{self._topics['image']}: no pixel's depth can be told from the "
                "camera's motion: is there texture, and are the poses those of this camera?")
        return image, depth, camera

    def _depth_from_motion(self, options: DecodeOptions) -> MonocularDepth:
        try:
            estimator = scaling_estimator(self._depth_model) if options.depth == ESTIMATE else None
        except EstimatorError as error:
            raise InputRejected("depth_model", f"depth 'estimate': {error}") from error
        return monocular_depth(estimator, options.min_depth, options.max_depth,
                               options.flying_pixel_jump)

    def _color(self, item: ImageSet, options: DecodeOptions) -> tuple[Rgb, PinholeCamera]:
        image = self._picture(item, "image")
        info = item.infos["image"]
        if self._must_rectify(item, "image", options):
            self._require_size("image", image.shape, info.width, info.height)
            rectifier = self._kept("rectifier", _key(info), lambda: Rectifier(
                cameras.to_calibration(info, self._info_topic("image"))))
            return rectifier(image), rectifier.camera
        return image, self._camera(item, "image", image.shape)

    def _depth(self, item: ImageSet, color: PinholeCamera, options: DecodeOptions) -> Depth:
        topic, message = self._topics["depth"], item.messages["depth"]
        try:
            if images.is_compressed(message):
                stored, encoding = decode_compressed_depth(bytes(message.data), message.format)
            else:
                stored, encoding = images.to_depth(message), message.encoding
            depth = decode_depth(stored, encoding, depth_options(options))
        except (DepthError, images.ImageError) as error:
            raise InputRejected(error.reason, f"{topic}: {error}") from error
        if self._must_rectify(item, "depth", options):
            depth, camera = self._rectified_depth(item, depth)
        else:
            camera = self._camera(item, "depth", depth.shape)
        frame = message.header.frame_id.lstrip("/") or item.frame_id
        if frame == item.frame_id:
            color_from_depth = np.eye(4)
        else:
            color_from_depth = self._lookup(item.frame_id, frame, item.stamp_ns)
        if not needs_registration(camera, color, color_from_depth):
            return depth
        return register_depth(depth, camera, color, color_from_depth)

    def _rectified_depth(self, item: ImageSet, depth: Depth) -> tuple[Depth, PinholeCamera]:
        info = item.infos["depth"]
        rectifier = self._kept("depth_rectifier", _key(info), lambda: Rectifier(
            cameras.to_calibration(info, self._info_topic("depth"))))
        self._require_size("depth", depth.shape, info.width, info.height)
        try:
            return rectifier.depth(depth), rectifier.camera
        except ValueError as error:
            raise InputRejected("distorted", f"{self._topics['depth']}: {error}") from error

    def _stereo(self, item: ImageSet,
                options: DecodeOptions) -> tuple[Rgb, Depth, PinholeCamera]:
        left, right = self._picture(item, "image"), self._picture(item, "right")
        raw = self._must_rectify(item, "image", options) | self._must_rectify(
            item, "right", options)
        stereo = self._kept("stereo", (_key(item.infos["image"]), _key(item.infos["right"]), raw),
                            lambda: self._pair(item, options, raw))
        for stream, picture in (("image", left), ("right", right)):
            self._require_size(stream, picture.shape, item.infos[stream].width,
                               item.infos[stream].height)
        return stereo.left(left), stereo.depth(left, right), stereo.camera

    def _pair(self, item: ImageSet, options: DecodeOptions, raw: bool) -> StereoDepth:
        left, right = (cameras.to_calibration(item.infos[stream], self._info_topic(stream))
                       for stream in ("image", "right"))
        try:
            return StereoDepth(left, right, self._stereo_options(options), rectified=not raw,
                               left_from_right=self._left_from_right(item))
        except ValueError as error:
            raise InputRejected("stereo", f"{self._info_topic('right')}: {error}") from error

    def _left_from_right(self, item: ImageSet) -> Array | None:
        """From tf, when the right camera has a frame of its own; None when P has to say it."""
        frame = item.messages["right"].header.frame_id.lstrip("/")
        if frame in ("", item.frame_id):
            return None
        try:
            return self._lookup(item.frame_id, frame, item.stamp_ns)
        except LookupError:
            if item.infos["right"].p[3] != 0.0:
                return None
            raise

    def _picture(self, item: ImageSet, stream: str) -> Rgb:
        message = item.messages[stream]
        try:
            if images.is_compressed(message):
                return images.decode_rgb(message)
            return images.to_rgb(message)
        except images.ImageError as error:
            raise InputRejected(error.reason, f"{self._topics[stream]}: {error}") from error

    def _camera(self, item: ImageSet, stream: str, shape: tuple[int, ...]) -> PinholeCamera:
        camera = cameras.to_camera(item.infos[stream], self._info_topic(stream))
        self._require_size(stream, shape, camera.width, camera.height)
        return camera

    def _require_size(self, stream: str, shape: tuple[int, ...], width: int, height: int) -> None:
        if shape[:2] != (height, width):
            raise InputRejected(
                "size", f"{self._topics[stream]} is {shape[1]}x{shape[0]} but "
                f"{self._info_topic(stream)} says {width}x{height}: they are not of one camera, "
                "or one of the two was resized")

    def _must_rectify(self, item: ImageSet, stream: str, options: DecodeOptions) -> bool:
        info = item.infos[stream]
        cameras.require_calibrated(info, self._info_topic(stream))
        if not cameras.is_distorted(info) or options.already_rectified:
            return False
        if not options.rectify:
            raise InputRejected(
                "distorted", f"{self._info_topic(stream)}: camera '{info.header.frame_id}' has "
                f"lens distortion; rectify it with image_proc and set input.already_rectified, "
                "or set input.rectify to have it done here")
        return True

    def _info_topic(self, stream: str) -> str:
        return self._topics[f"{stream}_info"]

    def _kept(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        if self._made.get(name, (None,))[0] != key:
            self._made[name] = (key, make())
        return self._made[name][1]


def depth_options(options: DecodeOptions) -> DepthOptions:
    """How depth pictures are decoded."""
    return DepthOptions(unit=options.depth_unit, min_depth=options.min_depth,
                        max_depth=options.max_depth, flying_pixel_jump=options.flying_pixel_jump)


def default_stereo_options(options: DecodeOptions) -> StereoOptions:
    """How a pair is matched unless the caller says otherwise."""
    return StereoOptions(min_depth=max(options.min_depth, 1e-3), max_depth=options.max_depth,
                         scale=options.stereo_scale)


def _key(info: Any) -> tuple[Any, ...]:
    return (info.width, info.height, info.distortion_model, tuple(info.d), tuple(info.k),
            tuple(info.r), tuple(info.p), info.binning_x, info.binning_y)
