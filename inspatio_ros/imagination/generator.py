# SPDX-License-Identifier: Apache-2.0
"""The diffusion transformer as a backend: guides in, imagined pictures out, block by block."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.conditioning import guide_tensors, pack_mask
from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.imagination.engine import BLOCKS_AT_ONCE
from inspatio_ros.imagination.exemplar import Exemplar, Experience
from inspatio_ros.imagination.filler import GeometricFiller, GeometricSession
from inspatio_ros.imagination.long_rollouts import LongRollout, RolloutHistory
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.imagination.retrieved import (
    ViewReader,
    latent_frame_numbers,
    plucker_rays,
    scene_scale,
)
from inspatio_ros.imagination.steadier import Lasting, Steadier
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.view_bank import ViewBank
from inspatio_ros.model.codec import (
    DecoderState,
    EncoderState,
    VideoCodec,
    frames_from_uint8,
)
from inspatio_ros.model.config import ModelConfig, ModelError
from inspatio_ros.model.finisher import Finisher
from inspatio_ros.model.stereo import RetrievedViews
from inspatio_ros.model.text_encoder import TextSource
from inspatio_ros.runtime.cores import shared_cores
from inspatio_ros.sensing.observation import Observation, Provenance

Image = npt.NDArray[np.uint8]
Known = npt.NDArray[np.bool_]

# Mean difference of the channels, in grey values: of a picture with full colours, and what video
# codecs add to pictures without any.
_COLORFUL, _CODED = 24.0, 2.0


class GeneratorBackend:
    """Imagines with a block-wise diffusion transformer and its codec.

    denoiser: the model with its steps. codec: of the model's latents. text: prompt to embedding.
    fixed_size: work at the model's own picture size, stretching the guide as the public release
    does; otherwise at the size of about as many pixels that fits the request's aspect.
    digest: SHA-256 of the transformer's file, for those who are told what made a picture.
    finisher: of a model that has one (`ModelConfig.finished`), which also fills its render.
    long_rollout: what keeps many blocks from drifting; may be set between requests.
    Raises ModelError when the parts do not belong together.
    """

    def __init__(
        self,
        name: str,
        denoiser: BlockDenoiser,
        codec: VideoCodec,
        text: TextSource,
        *,
        fixed_size: bool,
        finisher: Finisher | None = None,
        digest: str = "",
        long_rollout: LongRollout | None = None,
    ) -> None:
        self.long_rollout = long_rollout or LongRollout()
        config = denoiser.config
        if (codec.latent_channels, codec.spatial_stride, codec.temporal_stride,
                codec.first_frames) != (config.latent_channels, config.spatial_stride,
                                        config.temporal_stride, config.first_frames):
            raise ModelError(
                f"{name}: the codec {codec.name} does not make the latents that the model reads")
        if config.fill_render and codec.encoder_lookahead:
            raise ModelError(f"{name}: the codec {codec.name} looks ahead, where no render can be "
                             "filled yet; fill_render needs one that does not")
        if config.finished != (finisher is not None) or config.finished > config.fill_render:
            raise ModelError(f"{name}: a model with finished needs a finisher and fill_render, "
                             "one without takes none")
        self.name = name
        self.finisher = finisher
        self.digest = digest
        self.denoiser = denoiser
        self.codec = codec
        self.config = config
        self.fixed_size = fixed_size
        self.block_frames = config.block_frames
        self.first_block_frames = config.first_block_frames
        self.lookahead = codec.encoder_lookahead
        # On a GPU the host is free while a block is made.
        self.asynchronous = denoiser.model.device.type == "cuda"
        # One for all requests: they share the denoiser and its caches.
        self._thread: ThreadPoolExecutor | None = None
        self.reference_frames = config.block_frames
        self._text = text
        self._prompt: str | None = None

    def begin(self, request: ImaginationRequest) -> GeneratorSession:
        """Start a request; its first block projects its prompt unless the last had the same."""
        return GeneratorSession(self, [request])

    def begin_together(self, requests: Sequence[ImaginationRequest]) -> GeneratorSession:
        """Start requests that share camera, prompt, references and length."""
        return GeneratorSession(self, requests)

    def hold_rollouts(self, reanchor: float, keyframes: int) -> None:
        """What keeps the requests to come from drifting (`LongRollout`); ValueError if wrong."""
        self.long_rollout = LongRollout(reanchor, keyframes)

    def use_prompt(self, prompt: str) -> None:
        """Have the text of `prompt` in place."""
        if prompt != self._prompt:
            self.denoiser.set_prompt(self._text.embed(prompt))
            self._prompt = prompt

    def submit(self, make: Callable[[], _Made], aside: bool) -> Future[_Made]:
        """What `make` gives, made behind what was submitted before.

        aside: in a thread of its own and its share of the cores; the caller goes on meanwhile.
        """
        if aside and self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="imagined_block")
        if self._thread is None:
            done: Future[_Made] = Future()
            done.set_result(make())
            return done
        future = self._thread.submit(
            functools.partial(_in_share_of_cores, make) if aside else make)
        if not aside:
            wait([future])
        return future

    def working_size(self, camera: PinholeCamera) -> tuple[int, int]:
        """(width, height) in pixels that the model works at for pictures of `camera`."""
        config = self.config
        if self.fixed_size:
            return config.width, config.height
        rows = config.spatial_stride * config.patch_size[1]
        columns = config.spatial_stride * config.patch_size[2]
        pixels = config.width * config.height
        width = math.sqrt(pixels * camera.width / camera.height)
        best = (config.width, config.height)
        misfit = math.inf
        # Both neighbours of the ideal width, and the height that fits each: the least stretched.
        for count in (math.floor(width / columns), math.ceil(width / columns)):
            w = max(1, count) * columns
            h = max(1, round(w * camera.height / camera.width / rows)) * rows
            stretch = abs(math.log(w / h * camera.height / camera.width))
            if w * h <= 1.15 * pixels and stretch < misfit:
                best, misfit = (w, h), stretch
        return best

    def warm_up(self, camera: PinholeCamera) -> None:
        """Run two blocks of noise with holes: both context lengths, both codec directions."""
        from inspatio_ros.geometry.trajectory import CameraTrajectory

        rng = np.random.default_rng(0)
        image = rng.integers(0, 255, (camera.height, camera.width, 3)).astype(np.uint8)
        depth = np.ones(image.shape[:2], np.float32)
        seen = Observation(0, image, depth, camera, np.eye(4))
        labels = np.full(depth.shape, Provenance.OBSERVED, np.uint8)
        labels[:, :camera.width // 2] = Provenance.UNKNOWN
        labels[:, camera.width // 2::2] = Provenance.IMAGINED
        request = ImaginationRequest(
            camera, CameraTrajectory(np.eye(4)[None], np.zeros(1)), (seen,))
        session = self.begin(request)
        for count in (self.first_block_frames, self.block_frames):
            guide = Guide(image, depth, labels, guessed=depth)
            session.fill([guide] * (count + self.lookahead), (seen,))
        session.close()

    def close(self) -> None:
        """Free caches; the weights go with the object."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
        self.denoiser.close()
        self._prompt = None

    @property
    def nbytes(self) -> int:
        """Bytes of weights, caches and text."""
        parameters = [*self.denoiser.model.parameters(), *self.codec.parameters()]
        if self.finisher is not None:
            parameters += self.finisher.parameters()
        held = sum(p.numel() * p.element_size() for p in parameters)
        return held + self.denoiser.nbytes


class _Lane:
    """What one request of a session remembers from block to block."""

    def __init__(self, request: ImaginationRequest, codec: VideoCodec, device: torch.device,
                 fill_render: bool) -> None:
        self.encoder: EncoderState = codec.encoder_state()
        self.filler: GeometricSession | None = (
            GeometricFiller().begin(request) if fill_render else None)
        self.decoder: DecoderState = codec.decoder_state()
        self.generator = torch.Generator(device).manual_seed(request.seed)
        self.seed = request.seed
        # Of the finisher's texture: it stays where it is while the request lasts.
        self.grain: Tensor | None = None
        # What invented surfaces take their detail from; none before a picture has been seen.
        self.exemplar: Exemplar | None = None
        self._steadier: Steadier | None = None
        self._lasting = Lasting(request.camera)
        self._camera = request.camera
        self._way = request.trajectory.world_from_camera
        self._frame = 0

    def pictures(self, made: npt.NDArray[Any], shown: _Shown, size: tuple[int, int]
                 ) -> list[Image]:
        """A block's pictures at size (width, height).

        made: pictures uint8 [T, H, W, 3], or float32 what is added to the filled ones.
        """
        if made.dtype == np.uint8:
            return [resized_picture(image, size) for image in made]
        pictures = []
        if self._steadier is None:
            self._steadier = Steadier(self._camera.resized(made.shape[2], made.shape[1]))
        for filled, change, known, settled, depth in zip(
                shown.pictures, made, shown.seen, shown.settled, shown.depths, strict=True):
            pose = self._way[min(self._frame, len(self._way) - 1)]
            self._frame += 1
            # Of what is seen, hints too, only what is added lasts; the rest does as a picture.
            steady = self._steadier.add(change, depth, pose)
            added = tuple(np.asarray(cv2.resize(one, size, interpolation=cv2.INTER_LINEAR),
                                     np.float32) for one in (steady, change))
            whole, held = self._lasting.add(filled, (added[0], added[1]), known, settled, depth,
                                            pose)
            if self.exemplar is not None:
                whole = self.exemplar.add(whole, ~known, depth, pose, held)
            pictures.append(whole)
        return pictures


@dataclass(frozen=True)
class _Shown:
    """What the model is shown of a block of T frames.

    render [1, F, C, h, w] and mask [1, F, stride, h, w]: latents. filled [T, 3, H, W] and known
    [T, 1, H, W] in [-1, 1]: the same in pixels; for a finisher with hints known is 0 there.
    pictures, seen: the filled ones and where they show what was seen, hints too, as large as the
    guides; settled: `Guide.settled`. depths: of the filled ones, m, guessed where nothing was
    seen.
    """

    render: Tensor
    mask: Tensor
    filled: Tensor
    known: Tensor
    pictures: Sequence[Image]
    seen: Sequence[Known]
    settled: Sequence[Known]
    depths: Sequence[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class _Begun:
    """A block that is shown to the model: of each request what it is shown, and of all the rest.

    first: of its requests. references: what is seen, newest first; experience: of the memory.
    frames: of the block; middle: the number of the one that stands for it.
    """

    first: bool
    lanes: Sequence[_Lane]
    shown: Sequence[_Shown]
    references: Sequence[Observation]
    experience: Experience
    views: RetrievedViews | None
    rays: Tensor | None
    frames: int
    middle: int


@dataclass(frozen=True)
class _Made:
    """What became of a block: of each request what `_Lane.pictures` takes, once `done` has come.

    pictures: made of it already, where no device is waited for. times: s, of the stages.
    """

    made: Sequence[Tensor]
    done: torch.cuda.Event | None
    pictures: list[list[Image]] | None
    times: Mapping[str, float]


class GeneratorSession:
    """One request, or several that share their context, inside the backend.

    Everything a request remembers is here: codec streams, noise generator, the block before.
    """

    def __init__(
        self, backend: GeneratorBackend, requests: Sequence[ImaginationRequest]
    ) -> None:
        first = requests[0]
        if any((r.camera, r.prompt, r.source_mode) != (first.camera, first.prompt,
                                                       first.source_mode) for r in requests):
            raise ModelError("requests that run together need one camera, prompt and source mode")
        self._backend = backend
        self._request = first
        self._size = backend.working_size(first.camera)
        self._device = device = backend.denoiser.model.device
        make_stream: Any = torch.cuda.Stream
        self._stream = make_stream(device) if device.type == "cuda" else None
        # What was begun, oldest first.
        self._begun: deque[tuple[_Begun, Future[_Made]]] = deque()
        # Of the camera's pictures; all there are while none has been seen.
        self._colorfulness = torch.ones((), device=device)
        self._lanes = [
            _Lane(request, backend.codec, device, backend.config.fill_render)
            for request in requests]
        self._blocks = 0
        self._past = RolloutHistory(backend.long_rollout)
        self._source: tuple[tuple[Observation, ...], Tensor] | None = None
        self._source_stream = backend.codec.encoder_state()
        # Where views for the stereo branch come from; the engine sets it.
        self.bank: ViewBank | None = None
        self._ways = [request.trajectory.world_from_camera for request in requests]
        self._next_frame = 0
        # Whether the next block may be begun before one is finished; the engine sets it.
        self.ahead = False
        # Called now and then while one is begun; the engine sets it too.
        self.meanwhile: Callable[[], None] = _nothing
        self._reader = ViewReader(backend.codec, backend.config, device)
        self.stage_times: dict[str, float] = {}
        width, height = self._size
        self._grid = backend.config.grid_of(height, width)

    @property
    def recalled(self) -> int:
        """Blocks that were shown an older block than the last (`long_rollout.keyframes`)."""
        return self._past.recalled

    def fill(self, guides: Sequence[Guide], references: Sequence[Observation]) -> list[Image]:
        """Pictures of one block at the request's size; lookahead guides get none."""
        return self.fill_together([guides], references)[0]

    def fill_together(
        self, guides: Sequence[Sequence[Guide]], references: Sequence[Observation]
    ) -> list[list[Image]]:
        """Pictures of one block for each request of the session."""
        self.start_fill(guides, references)
        return self.finish_fill()

    def start_fill(
        self, guides: Sequence[Sequence[Guide]], references: Sequence[Observation]
    ) -> None:
        """Begin a block. On a GPU all work is queued and the host goes on; on a CPU another
        thread goes on with what is prepared here if `ahead` is set, else it is all done here.

        With `ahead` another block may be begun before this one is finished.
        """
        backend, config = self._backend, self._backend.config
        frames = config.first_block_frames if self._blocks == 0 else config.block_frames
        expected = frames + backend.lookahead
        for lane_guides in guides:
            if len(lane_guides) != expected:
                raise ModelError(
                    f"{backend.name}: a block takes {expected} guides, got {len(lane_guides)}")
        start = time.perf_counter()
        with torch.inference_mode():
            with self._aside():
                shown = [self._condition(lane, g, references, frames)
                         for lane, g in zip(self._lanes, guides, strict=True)]
            views, rays = self._branch_inputs(guides)
        begun = _Begun(self._blocks == 0, self._lanes, shown, references,
                       Experience.of(guides[0][0]), views, rays, frames,
                       self._next_frame + frames // 2)
        self._blocks += 1
        self._next_frame += frames
        encode = time.perf_counter() - start
        self._begun.append((begun, backend.submit(
            lambda: self._make(begun, encode), aside=self.ahead)))

    def finish_fill(self) -> list[list[Image]]:
        """The pictures of the oldest block that `start_fill` began, once they are there."""
        start = time.perf_counter()
        begun, future = self._begun.popleft()
        made = future.result()
        pictures = made.pictures
        if pictures is None:
            assert made.done is not None
            made.done.synchronize()
            pictures = self._pictures_of(begun, made.made)
        self.stage_times = {**made.times, "wait": time.perf_counter() - start}
        return pictures

    @property
    def made(self) -> bool:
        """Whether the oldest block begun is made."""
        return bool(self._begun) and self._begun[0][1].done()

    def close(self) -> None:
        """Forget the request; what of it is being made is made in vain."""
        for _, future in self._begun:
            future.cancel()
        self._begun.clear()
        self._source = None
        self._past.reset()
        self._lanes = []

    def _make(self, begun: _Begun, encode: float) -> _Made:
        """encode: s that preparing it took."""
        backend, start = self._backend, time.perf_counter()
        backend.use_prompt(self._request.prompt)
        with torch.inference_mode():
            with self._aside():
                source = self._source_latents(begun)
                seen = self._newest_picture(begun.references, begun.experience)
            encoded = time.perf_counter()
            pose = self._pose_of(begun.middle)
            history = self._past.choose(pose)
            latents = self._denoise(begun, source, history)
            denoised = time.perf_counter()
            made = [self._decode(begun, k, seen, latents[k:k + 1])
                    for k in range(len(begun.shown))]
            done = _recorded_event(self._device)
            self._past.add(latents, source, pose)
        decoded = time.perf_counter()
        times = {"encode": encode + encoded - start, "denoise": denoised - encoded,
                 "decode": decoded - denoised}
        if done is not None:
            return _Made(made, done, None, times)
        pictures = self._pictures_of(begun, made)
        times["finish"] = time.perf_counter() - decoded
        return _Made(made, None, pictures, times)

    def _pictures_of(self, begun: _Begun, made: Sequence[Tensor]) -> list[list[Image]]:
        size = self._request.camera.size
        return [lane.pictures(one.numpy(), shown, size)
                for lane, one, shown in zip(begun.lanes, made, begun.shown, strict=True)]

    def _pose_of(self, number: int) -> npt.NDArray[np.float64]:
        way = self._ways[0]
        return np.asarray(way[min(number, len(way) - 1)])

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Queue the body beside the block before, not behind it; what follows waits for it."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def _decode(self, begun: _Begun, number: int, seen: Tensor, latents: Tensor) -> Tensor:
        """Pictures uint8 [T, H, W, 3] of request `number` on their way to the host.

        seen [1, 3, H, W]: the newest picture.
        With a finisher what it changes in the filled pictures instead, float32: these may be
        larger than the model's own, and keep their detail.
        """
        lane, shown = begun.lanes[number], begun.shown[number]
        frames = self._backend.codec.decode_stream(lane.decoder, latents)[0].float()
        if self._backend.finisher is not None:
            finished = self._backend.finisher(
                frames, shown.filled, shown.known, seen.expand_as(frames),
                self._grain(lane, shown.seen))
            change = finished - shown.filled
            # What a camera without colours will see has none, and a pale one sees pale ones.
            change = torch.lerp(change.mean(dim=1, keepdim=True), change, self._colorfulness)
            scaled = change.mul(127.5).to(torch.float32)
        else:
            scaled = frames.clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8)
        pictures = scaled.permute(0, 2, 3, 1).contiguous()
        if self._device.type != "cuda":
            return pictures
        host = torch.empty(pictures.shape, dtype=pictures.dtype, pin_memory=True)
        return host.copy_(pictures, non_blocking=True)

    def _branch_inputs(self, guides: Sequence[Sequence[Guide]]
                       ) -> tuple[RetrievedViews | None, Tensor | None]:
        """Views and rays of the block's latent frames, for the branches that there are."""
        denoiser, camera = self._backend.denoiser, self._request.camera
        numbers = latent_frame_numbers(self._backend.config, first=self._blocks == 0)
        poses = [[way[min(self._next_frame + n, len(way) - 1)] for n in numbers]
                 for way in self._ways]
        shown = [[lane[n] for n in numbers] for lane in guides]
        views = rays = None
        if denoiser.stereo is not None and self.bank is not None and len(self.bank):
            views = self._reader.read(self.bank, camera, list(zip(poses, shown, strict=True)),
                                      self._size)
        if denoiser.control is not None:
            references = self._request.references
            origin = references[0].world_from_camera if references else self._ways[0][0]
            scale = scene_scale(references[0].depth) if references else 1.0
            told = np.stack([[plucker_rays(camera, rigid.invert(origin) @ pose, self._grid, scale)
                              for pose in lane] for lane in poses])
            rays = torch.from_numpy(told).to(self._device)
        return views, rays

    def _denoise(self, begun: _Begun, source: Tensor, history: Tensor | None) -> Tensor:
        denoiser, lanes = self._backend.denoiser, len(begun.lanes)
        # Before the first block there is no history: all requests see the same context.
        contexts = 1 if history is None else lanes
        denoiser.begin(self._grid, contexts)
        noise = torch.cat([self._noise(lane) for lane in begun.lanes], dim=1)
        return denoiser.block(
            source.expand(contexts, -1, -1, -1, -1), history,
            torch.cat([shown.render for shown in begun.shown]),
            torch.cat([shown.mask for shown in begun.shown]),
            noise=noise, views=begun.views, rays=begun.rays)

    def _noise(self, lane: _Lane) -> Tensor:
        denoiser, config = self._backend.denoiser, self._backend.config
        return torch.randn(
            len(denoiser.steps), 1, config.frames_per_block, config.latent_channels, *self._grid,
            generator=lane.generator, device=lane.generator.device)

    def _grain(self, lane: _Lane, seen: Sequence[Known]) -> Tensor | None:
        """Noise [T, 1, H, W] that a finisher with grain makes texture of, the same all the way.

        0 where most of a pixel shows what was seen, hints too: that has its own detail.
        """
        finisher = self._backend.finisher
        if finisher is None or not finisher.config.grain:
            return None
        if lane.grain is None:
            width, height = self._size
            # Not of the denoiser's generator: its noise must not depend on what finishes.
            lane.grain = finisher.grain_noise(height, width, lane.seed)
        shares = [cv2.resize(known.astype(np.float32), self._size, interpolation=cv2.INTER_AREA)
                  for known in seen]
        empty = torch.from_numpy(np.stack(shares)[:, None] <= 0.5).to(self._device)
        return None if lane.grain is None else lane.grain * empty

    def _source_latents(self, begun: _Begun) -> Tensor:
        """Clean latents [1, F, C, h, w] of what is seen, as the request's source mode says."""
        codec, references = self._backend.codec, begun.references
        mode = self._request.source_mode
        chosen = references
        if mode == "anchor":
            chosen = self._request.references
        if mode == "frozen":
            chosen = references[:1]
        if mode == "stream":
            ahead = 0 if begun.first else self._backend.lookahead
            pictures = self._pictures(
                references, begun.frames + self._backend.lookahead)[ahead:]
            return codec.encode_stream(self._source_stream, self._upload(pictures))
        if self._source is None or not _same(self._source[0], chosen):
            count = self._backend.config.first_block_frames + self._backend.lookahead
            pictures = self._pictures(chosen, count)
            latents = codec.encode(self._upload(pictures))
            self._source = (
                tuple(chosen), latents[:, :self._backend.config.frames_per_block])
        return self._source[1]

    def _newest_picture(self, references: Sequence[Observation], experience: Experience
                        ) -> Tensor:
        """The newest picture [1, 3, H, W] that the source mode lets the model see."""
        if self._backend.finisher is None:
            return torch.empty(0)
        chosen = self._request.references if self._request.source_mode == "anchor" else references
        picture = self._upload(self._pictures(chosen, 1))[0]
        if chosen:
            self._colorfulness = _colorfulness(picture).float()
            self._take_example(chosen[0], experience)
        return picture

    def _take_example(self, newest: Observation, experience: Experience) -> None:
        """The first picture that is there gives the detail of the whole way."""
        camera = self._request.camera
        for lane in self._lanes:
            if lane.exemplar is None:
                lane.exemplar = Exemplar(resized_picture(newest.image, camera.size), camera,
                                         max(1.0, camera.width / self._size[0]), experience,
                                         newest.world_from_camera)

    def _pictures(self, newest_first: Sequence[Observation], count: int) -> list[Image]:
        """`count` pictures in time order that end with the newest; the oldest fills the front."""
        if not newest_first:
            width, height = self._size
            return [np.zeros((height, width, 3), np.uint8)] * count
        resized = [resized_picture(o.image, self._size) for o in newest_first[:count]]
        return [resized[-1]] * (count - len(resized)) + resized[::-1]

    def _condition(
        self, lane: _Lane, guides: Sequence[Guide], references: Sequence[Observation],
        frames: int,
    ) -> _Shown:
        """A block's guides as latents, and as pixels."""
        config, codec = self._backend.config, self._backend.codec
        images, known = zip(*(resized_guide(guide, self._size) for guide in guides), strict=True)
        render, mask = guide_tensors(images, known, self._device)
        filled: list[Image] = []
        depths: tuple[npt.NDArray[np.float32], ...] = ()
        if lane.filler is not None:
            lane.filler.meanwhile = self.meanwhile
            lane.filler.start_fill([guides], references)
            filled = lane.filler.finish_fill()[0]
            depths = tuple(lane.filler.depths[:frames])
            render = self._upload([resized_picture(picture, self._size) for picture in filled])
            self.meanwhile()
        # A codec that looks ahead has already read the first frames of this block.
        ahead = self._backend.lookahead if self._blocks else 0
        render_latents = codec.encode_stream(lane.encoder, render[:, ahead:])
        mask_latents = pack_mask(mask[:, :frames], config, first=self._blocks == 0)
        seen = tuple(g.provenance != Provenance.UNKNOWN for g in guides[:frames])
        backed = mask[0, :frames, None]
        if self._backend.finisher is not None and self._backend.finisher.config.hints:
            hinted = np.stack([hinted_pixels(g, self._size) for g in guides[:frames]])[:, None]
            shown = torch.from_numpy(hinted).to(self._device) & (backed < 0)
            backed = torch.where(shown, torch.zeros_like(backed), backed)
        return _Shown(render_latents, mask_latents, render[0, :frames], backed,
                      tuple(filled[:frames]), seen,
                      tuple(g.settled for g in guides[:frames]), depths)

    def _upload(self, pictures: Sequence[Image]) -> Tensor:
        return frames_from_uint8(pictures, self._device)


def _nothing() -> None:
    pass


def _in_share_of_cores(make: Callable[[], _Made]) -> _Made:
    with shared_cores(BLOCKS_AT_ONCE):
        return make()


def _colorfulness(picture: Tensor) -> Tensor:
    """How colourful a picture [1, 3, H, W] in [-1, 1] is, [] in 0 to 1; stays on its device."""
    spread = (picture.amax(dim=1) - picture.amin(dim=1)).mean() * 127.5
    return ((spread - _CODED) / (_COLORFUL - _CODED)).clamp(0.0, 1.0)


def _recorded_event(device: torch.device) -> torch.cuda.Event | None:
    if device.type != "cuda":
        return None
    make_event: Any = torch.cuda.Event
    event: torch.cuda.Event = make_event()
    event.record(torch.cuda.current_stream(device))
    return event


def _same(a: Sequence[Observation], b: Sequence[Observation]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def resized_picture(image: Image, size: tuple[int, int]) -> Image:
    """`image` at size (width, height): means when it shrinks, bilinear when it grows."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    shrinks = size[0] < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=method), dtype=np.uint8)


def resized_guide(guide: Guide, size: tuple[int, int]) -> tuple[Image, Known]:
    """Colours and known pixels of a guide at size (width, height).

    Means over known pixels only, so that holes do not darken their borders; a pixel is known when
    half of what it stands for is.
    """
    known = guide.settled
    if (guide.image.shape[1], guide.image.shape[0]) == size:
        return guide.image, known
    weight = known.astype(np.float32)
    method = cv2.INTER_AREA if size[0] < guide.image.shape[1] else cv2.INTER_LINEAR
    colors = cv2.resize(guide.image * weight[..., None], size, interpolation=method)
    share = cv2.resize(weight, size, interpolation=method)
    image = colors / np.maximum(share, 1e-6)[..., None]
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), np.asarray(share >= 0.5)


def hinted_pixels(guide: Guide, size: tuple[int, int]) -> Known:
    """Where half of a pixel at size (width, height) shows what was seen at a guessed depth."""
    hinted = ((guide.provenance != Provenance.UNKNOWN) & ~guide.settled).astype(np.float32)
    if (hinted.shape[1], hinted.shape[0]) != size:
        method = cv2.INTER_AREA if size[0] < hinted.shape[1] else cv2.INTER_LINEAR
        hinted = np.asarray(cv2.resize(hinted, size, interpolation=method), np.float32)
    return np.asarray(hinted >= 0.5)


def steps_of(config: ModelConfig, count: int | None) -> tuple[int, ...]:
    """The model's own steps, or `count` of them spread over the list, the first always kept."""
    own = config.denoising_steps
    if count is None or count == len(own):
        return own
    if not 1 <= count <= len(own):
        raise ModelError(f"steps: 1 to {len(own)} can be picked of {list(own)}, got {count}")
    picked = np.unique(np.linspace(0, len(own) - 1, count).round().astype(int))
    return tuple(own[i] for i in picked)
