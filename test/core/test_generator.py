# SPDX-License-Identifier: Apache-2.0
"""The diffusion transformer behind the engine, at a small size with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.testing as npt
import pytest
import torch

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.backends import BackendOptions, make_backend
from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.imagination.engine import BLOCKS_AT_ONCE, ImaginationEngine
from inspatio_ros.imagination.generator import GeneratorBackend, steps_of
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedFrame
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.model.codec import frames_from_uint8
from inspatio_ros.model.config import ModelConfig, ModelError
from inspatio_ros.model.presets import TINY
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.text_encoder import ConstantText
from inspatio_ros.model.tiny_vae import TinyVAE
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.weights import WeightsError
from inspatio_ros.runtime.cores import shared_cores
from inspatio_ros.sensing.observation import Observation, Provenance

CAMERA = PinholeCamera(96, 64, 80.0, 80.0, 47.5, 31.5)
SMALL = replace(TINY, dim=64, ffn_dim=128, num_heads=2, num_layers=2, height=64, width=96)


class CountingText(ConstantText):
    """A constant text that remembers what it was asked for."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.text_len, config.text_dim)
        self.prompts: list[str] = []

    def embed(self, prompt: str) -> torch.Tensor:
        self.prompts.append(prompt)
        return super().embed(prompt)


@pytest.fixture
def backend() -> GeneratorBackend:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = CausalTransformer(SMALL).prepare_for_inference()
        codec = SmallCodec(SmallCodecConfig(frame_width=16, group_width=16)).eval()
    return GeneratorBackend("small", BlockDenoiser(model), codec, CountingText(SMALL),
                            fixed_size=False)


def _observation(seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (8, 12, 3)).astype(np.uint8)
    image = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)
    depth = np.full((64, 96), 2.0, np.float32)
    return Observation(seed * 10**8, image, depth, CAMERA, np.eye(4))


def _request(frames: int, **options: object) -> ImaginationRequest:
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = np.arange(frames) * 0.02
    return ImaginationRequest(  # type: ignore[arg-type]
        CAMERA, CameraTrajectory.from_poses(poses, 10.0), (_observation(),), **options)


def _memory() -> WorldMemory:
    return WorldMemory(MemoryOptions(capacity=10_000))


def _frames(backend: GeneratorBackend, request: ImaginationRequest) -> list[ImaginedFrame]:
    blocks = ImaginationEngine(backend).imagine(request, _memory())
    return [frame for block in blocks for frame in block.frames]


def _same(a: list[ImaginedFrame], b: list[ImaginedFrame]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        npt.assert_array_equal(x.image, y.image)


@pytest.mark.parametrize("count", [1, 12, 13, 30])
def test_exactly_one_frame_a_pose(backend: GeneratorBackend, count: int) -> None:
    frames = _frames(backend, _request(count))
    assert [f.frame_index for f in frames] == list(range(count))
    assert max(f.block_index for f in frames) == (count - 1) // 12


def test_a_longer_request_begins_with_the_same_frames(backend: GeneratorBackend) -> None:
    """Streaming equals batch: what comes later does not change what has gone out."""
    _same(_frames(backend, _request(24)), _frames(backend, _request(36))[:24])


def test_seed_decides(backend: GeneratorBackend) -> None:
    first = _frames(backend, _request(13, seed=5))
    _same(first, _frames(backend, _request(13, seed=5)))
    other = _frames(backend, _request(13, seed=6, mode="model"))
    assert any(np.any(x.image != y.image) for x, y in zip(
        _frames(backend, _request(13, seed=5, mode="model")), other, strict=True))


def test_cancelling_leaves_a_fresh_backend(backend: GeneratorBackend) -> None:
    expected = _frames(backend, _request(24))
    blocks = ImaginationEngine(backend).imagine(_request(36, seed=9), _memory())
    next(iter(blocks))
    blocks.close()  # type: ignore[attr-defined]
    _same(expected, _frames(backend, _request(24)))


def test_nothing_is_computed_twice(backend: GeneratorBackend) -> None:
    counters = backend.denoiser.counters
    before = replace(counters)
    _frames(backend, _request(36, prompt="an office"))
    _frames(backend, _request(12, prompt="an office"))
    steps = len(backend.denoiser.steps)
    assert counters.text_projections - before.text_projections == 1
    assert counters.context_passes - before.context_passes == 4
    assert counters.denoise_passes - before.denoise_passes == 4 * steps
    assert counters.modulations == before.modulations
    assert backend._text.prompts == ["an office"]  # type: ignore[attr-defined]


def test_composite_keeps_geometry_and_model_mode_does_not(backend: GeneratorBackend) -> None:
    known = _frames(backend, _request(12))[5]
    observed = known.provenance == Provenance.OBSERVED
    deep = observed & (np.arange(96)[None, :] < 60)
    npt.assert_array_equal(known.image[deep], known.guide.image[deep])
    free = _frames(backend, _request(12, mode="model"))[5]
    assert np.mean(free.image[deep] == free.guide.image[deep]) < 0.5
    npt.assert_array_equal(known.provenance, free.provenance)


@pytest.mark.parametrize("mode", ["frozen", "live", "anchor", "stream"])
def test_source_modes(backend: GeneratorBackend, mode: str) -> None:
    fresh = [_observation(seed) for seed in range(1, 60)]
    calls = iter(range(100))

    def newest() -> list[Observation]:
        end = 12 * (next(calls) + 1)
        return fresh[:end][::-1][:12]

    request = _request(24, source_mode=mode, mode="model")
    engine = ImaginationEngine(backend)
    frames = [f for b in engine.imagine(request, _memory(), newest) for f in b.frames]
    assert len(frames) == 24
    anchored = [f for b in engine.imagine(request, _memory(), newest=lambda: request.references)
                for f in b.frames]
    differs = any(np.any(a.image != b.image) for a, b in zip(frames, anchored, strict=True))
    assert differs or mode == "anchor"


def _ahead(backend: GeneratorBackend, request: ImaginationRequest) -> list[ImaginedFrame]:
    """The frames of a way whose blocks are begun one before they are finished."""
    way = ImaginationEngine(backend).start(request, _memory(), ahead=True)
    frames: list[ImaginedFrame] = []
    while way.begin():
        assert way.ahead
        if way.begun == BLOCKS_AT_ONCE:
            frames += way.finish().frames
    assert way.whole
    assert way.begun == 1
    frames += way.finish().frames
    way.close()
    return frames


@pytest.mark.parametrize("shipped", [False, True])
def test_working_ahead_changes_nothing(backend: GeneratorBackend, shipped: bool) -> None:
    """With the shipped model too: a finisher, detail by example, guesses averaged on the way."""
    if shipped:
        tiny = make_backend(BackendOptions("tiny"))
        assert isinstance(tiny, GeneratorBackend)
        backend = tiny
    request = _request(40, prompt="an office")
    # Some sums depend on the number of threads in their last bits.
    with shared_cores(BLOCKS_AT_ONCE):
        expected = _frames(backend, request)
    _same(expected, _ahead(backend, request))


def test_giving_up_a_way_ahead_leaves_a_fresh_backend(backend: GeneratorBackend) -> None:
    with shared_cores(BLOCKS_AT_ONCE):
        expected = _frames(backend, _request(24))
    way = ImaginationEngine(backend).start(_request(36, seed=9), _memory(), ahead=True)
    way.begin()
    way.begin()
    way.close()
    assert not way.begin()
    _same(expected, _ahead(backend, _request(24)))
    backend.close()
    _same(expected, _ahead(backend, _request(24)))


def test_two_ways_ahead_take_turns(backend: GeneratorBackend) -> None:
    """A way may be begun while the last block of another is made; each keeps its own prompt."""
    requests = [_request(24, seed=1), _request(24, seed=2, prompt="an office")]
    with shared_cores(BLOCKS_AT_ONCE):
        expected = [_frames(backend, request) for request in requests]
    engine, memory = ImaginationEngine(backend), _memory()
    ways = [engine.start(request, memory, ahead=True) for request in requests]
    made: list[list[ImaginedFrame]] = [[], []]
    for way in (*ways, *ways):
        way.begin()
    for number in (0, 1, 0, 1):
        made[number] += ways[number].finish().frames
    for one, other in zip(expected, made, strict=True):
        _same(one, other)


def test_what_fails_aside_is_raised_by_finish(
        backend: GeneratorBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> torch.Tensor:
        raise MemoryError("no room for a block")

    way = ImaginationEngine(backend).start(_request(24), _memory(), ahead=True)
    with monkeypatch.context() as broken:
        broken.setattr(backend.denoiser, "block", fail)
        way.begin()
        with pytest.raises(MemoryError, match="no room for a block"):
            way.finish()
    way.close()
    assert len(_ahead(backend, _request(24))) == 24


def test_no_block_is_begun_before_what_it_needs_is_kept(backend: GeneratorBackend) -> None:
    engine = ImaginationEngine(backend)
    keeps = WorldMemory(MemoryOptions(capacity=10_000, keep_imagined=True))
    geometric = ImaginationEngine(make_backend(BackendOptions("geometric")))
    ways = [engine.start(_request(24), keeps, ahead=True), engine.start(_request(24), _memory()),
            geometric.start(_request(24), _memory(), ahead=True)]
    backend.asynchronous = True  # as on a GPU, where the host is free anyway
    ways.append(engine.start(_request(24), _memory(), ahead=True))
    for way in ways:
        way.begin()
        assert not way.ahead
        assert way.made
        way.close()


def test_first_frames_come_before_the_second_block_starts(backend: GeneratorBackend) -> None:
    counters = backend.denoiser.counters
    blocks: Iterator[object] = iter(ImaginationEngine(backend).imagine(_request(24), _memory()))
    before = counters.context_passes
    next(blocks)
    assert counters.context_passes - before == 1


def test_requests_that_share_a_context_equal_single_ones(backend: GeneratorBackend) -> None:
    guides = []
    memory = _memory()
    for shift in (0.0, 0.1, 0.2):
        pose = np.eye(4)
        pose[0, 3] = shift
        guides.append([memory.render(CAMERA, pose, [_observation()])] * 12)
    requests = [_request(24, seed=seed) for seed in (1, 2, 3)]
    references = (_observation(),)
    together = backend.begin_together(requests)
    contexts = backend.denoiser.counters.context_passes
    first = together.fill_together(guides, references)
    assert backend.denoiser.counters.context_passes - contexts == 1
    second = together.fill_together(guides, references)
    together.close()
    for k, request in enumerate(requests):
        session = backend.begin(request)
        for shared in (first, second):
            alone = session.fill(guides[k], references)
            for x, y in zip(shared[k], alone, strict=True):
                assert np.abs(x.astype(int) - y).max() <= 1
        session.close()


def test_drawing_ahead_while_a_block_is_made_changes_nothing(backend: GeneratorBackend) -> None:
    expected = _frames(backend, _request(30))
    backend.asynchronous = True
    _same(expected, _frames(backend, _request(30)))


def test_requests_that_do_not_belong_together_are_refused(backend: GeneratorBackend) -> None:
    with pytest.raises(ModelError, match="one camera, prompt and source mode"):
        backend.begin_together([_request(12), _request(12, prompt="other")])


def test_a_block_takes_its_number_of_guides(backend: GeneratorBackend) -> None:
    session = backend.begin(_request(12))
    blank = Guide(np.zeros((64, 96, 3), np.uint8), np.full((64, 96), np.nan, np.float32),
                  np.zeros((64, 96), np.uint8))
    with pytest.raises(ModelError, match="takes 12 guides, got 3"):
        session.fill([blank] * 3, (_observation(),))


def test_codec_of_another_model_is_refused(backend: GeneratorBackend) -> None:
    with pytest.raises(ModelError, match="does not make the latents"):
        GeneratorBackend("mixed", backend.denoiser, TinyVAE(), CountingText(SMALL),
                         fixed_size=False)


def test_a_codec_that_looks_ahead_streams_like_batch() -> None:
    """TAEHV reads three frames further; the guides beyond a block are drawn once."""
    config = replace(SMALL, first_frames=1, codec="tiny_vae", fill_render=False)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = CausalTransformer(config).prepare_for_inference()
        codec = TinyVAE().eval()
    ahead = GeneratorBackend("ahead", BlockDenoiser(model, [1000]), codec, CountingText(config),
                             fixed_size=True)
    assert (ahead.first_block_frames, ahead.block_frames, ahead.lookahead) == (9, 12, 3)
    with pytest.raises(ModelError, match="fill_render needs one that does not"):
        GeneratorBackend("ahead", BlockDenoiser(CausalTransformer(
            replace(config, fill_render=True)).prepare_for_inference(), [1000]), codec,
            CountingText(config), fixed_size=True)
    frames = _frames(ahead, _request(25, mode="model"))
    assert len(frames) == 25
    # Block by block equals longer: only the tail, padded with another frame, may differ.
    longer = _frames(ahead, _request(40, mode="model"))
    _same(frames[:9], longer[:9])


def test_a_filled_render_hides_no_hole_from_the_mask(backend: GeneratorBackend) -> None:
    """With fill_render the model sees a guess in the holes, and still that they are holes."""
    request = _request(12)
    session = backend.begin(request)
    image = np.full((CAMERA.height, CAMERA.width, 3), 90, np.uint8)
    labels = np.full(image.shape[:2], Provenance.OBSERVED, np.uint8)
    labels[:, CAMERA.width // 2:] = Provenance.UNKNOWN
    image[labels == Provenance.UNKNOWN] = 0
    depth = np.full(labels.shape, 2.0, np.float32)
    guides = [Guide(image, depth, labels)] * 12
    lane = session._lanes[0]
    shown = session._condition(lane, guides, (), 12)
    render, mask = shown.render, shown.mask
    assert backend.config.fill_render
    filled = backend.codec.encode(frames_from_uint8([np.full_like(image, 90)] * 12, "cpu"))
    # A flat wall goes on flat: the render is as if nothing was missing, the mask says half is.
    grid = filled.shape[-1] // 2
    assert torch.allclose(render[..., :grid - 2], filled[..., :grid - 2], atol=1e-3)
    assert torch.allclose(render[..., grid + 2:-1], filled[..., grid + 2:-1], atol=0.05)
    assert float(mask[..., 0].min()) == 1.0
    assert float(mask[..., -1].max()) == -1.0


def test_working_size_keeps_aspect_and_cost(backend: GeneratorBackend) -> None:
    assert backend.working_size(CAMERA) == (96, 64)
    for size in ((640, 480), (1280, 720), (320, 320), (480, 1000)):
        camera = PinholeCamera(*size, 300.0, 300.0, 1.0, 1.0)
        width, height = backend.working_size(camera)
        backend.config.grid_of(height, width)
        assert width * height <= 1.15 * 96 * 64
        assert abs(np.log(width / height * size[1] / size[0])) < 0.25


def test_other_picture_sizes_come_back_at_their_own_size(backend: GeneratorBackend) -> None:
    camera = PinholeCamera(133, 77, 100.0, 100.0, 66.0, 38.0)
    request = ImaginationRequest(camera, _request(3).trajectory, (_observation(),))
    assert _frames(backend, request)[0].image.shape == (77, 133, 3)


def test_steps_are_picked_from_the_models_own() -> None:
    assert steps_of(TINY, None) == (1000, 750, 500, 250)
    assert steps_of(TINY, 2) == (1000, 250)
    assert steps_of(TINY, 1) == (1000,)
    with pytest.raises(ModelError, match="1 to 4"):
        steps_of(TINY, 5)


def test_backends_by_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert make_backend(BackendOptions("geometric")).name == "geometric"
    with pytest.raises(ValueError, match="no backend 'dream'"):
        make_backend(BackendOptions("dream"))
    with pytest.raises(WeightsError, match="needs the folder of its weights"):
        make_backend(BackendOptions("inspatio_world_1_3b"))
    empty = tmp_path_factory.mktemp("weights")
    with pytest.raises(WeightsError, match="missing"):
        make_backend(BackendOptions("inspatio_world_1_3b", str(empty)))
    with pytest.raises(WeightsError):
        make_backend(BackendOptions("tiny", str(empty)))


def test_random_weights_come_from_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    one, two = (make_backend(BackendOptions("tiny_random", seed=7)) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert isinstance(one, GeneratorBackend)
    assert isinstance(two, GeneratorBackend)
    for a, b in zip(one.denoiser.model.parameters(), two.denoiser.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.config.name == "tiny_random"
    parameters = sum(p.numel() for p in (*one.denoiser.model.parameters(),
                                         *one.codec.parameters()))
    assert parameters <= 10_000_000
