# SPDX-License-Identifier: Apache-2.0
"""Views of the bank on their way to the stereo branch: codes, pairing, and the engine with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.generator import GeneratorBackend
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedFrame
from inspatio_ros.imagination.retrieved import (
    ViewReader,
    latent_frame_numbers,
    paired,
    plucker_rays,
    point_map,
    pose_code,
)
from inspatio_ros.imagination.together import imagine_together
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.stereo_memory import StereoOptions
from inspatio_ros.memory.view_bank import BankOptions, ViewBank
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.model.control_branch import ControlBranch
from inspatio_ros.model.presets import INSPATIO_WORLD_1_3B, TINY
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.stereo import LAYOUTS, StereoBranch
from inspatio_ros.model.text_encoder import ConstantText
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.sensing.observation import Observation, Provenance

CAMERA = PinholeCamera(96, 64, 80.0, 80.0, 47.5, 31.5)
SMALL = replace(TINY, dim=64, ffn_dim=128, num_heads=2, num_layers=2, height=64, width=96,
                finished=False)


def look(x: float, seed: int = 0, stamp: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    image = np.repeat(np.repeat(rng.integers(0, 255, (8, 12, 3)), 8, 0), 8, 1).astype(np.uint8)
    return Observation(stamp, image, np.full((64, 96), 2.0, np.float32), CAMERA,
                       rigid.from_rotation(np.eye(3), (x, 0.0, 0.0)))


def codec() -> SmallCodec:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return SmallCodec(SmallCodecConfig(frame_width=16, group_width=16)).eval()


def backend(stereo: StereoBranch | None = None, control: ControlBranch | None = None
            ) -> GeneratorBackend:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = CausalTransformer(SMALL).prepare_for_inference()
    return GeneratorBackend("small", BlockDenoiser(model, stereo=stereo, control=control), codec(),
                            ConstantText(SMALL.text_len, SMALL.text_dim), fixed_size=False)


def way(frames: int = 24) -> CameraTrajectory:
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = np.arange(frames) * 0.05
    return CameraTrajectory.from_poses(poses, 10.0)


def memory(views: bool) -> WorldMemory:
    held = WorldMemory(MemoryOptions(capacity=10_000, stereo=StereoOptions(BankOptions(8))))
    if views:
        assert held.stereo is not None
        for index in range(3):
            held.stereo.add(look(0.6 * index, seed=index + 1))
    return held


def imagined(made: GeneratorBackend, held: WorldMemory) -> list[ImaginedFrame]:
    request = ImaginationRequest(CAMERA, way(), (look(0.0),), mode="model")
    return [frame for block in ImaginationEngine(made).imagine(request, held)
            for frame in block.frames]


def trained(branch: torch.nn.Module) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in branch.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return branch.eval().requires_grad_(False)


def test_pose_code_is_the_relative_pose() -> None:
    pose = rigid.from_euler(0.1, -0.4, 0.3, (1.0, 2.0, 3.0))
    code = pose_code(pose, 2.0)
    assert code[0] > 0
    back = rigid.from_quaternion([*code[1:4], code[0]], code[4:] * 2.0)
    np.testing.assert_allclose(back, pose, atol=1e-6)
    np.testing.assert_allclose(pose_code(np.eye(4), 1.0), [1, 0, 0, 0, 0, 0, 0], atol=1e-7)


def test_point_maps_of_a_pair_agree_where_they_see_the_same() -> None:
    view, own = look(0.5), look(0.0)
    _, theirs, frame = paired(view, CAMERA, own.world_from_camera, own.depth, (8, 12))
    assert theirs.shape == frame.shape == (4, 8, 12)
    # Both see the wall z = 2, one scene unit away; the view's points lie half a metre aside.
    np.testing.assert_allclose(theirs[2], 1.0, atol=1e-5)
    np.testing.assert_allclose(theirs[0] - frame[0], 0.25, atol=1e-5)
    assert (theirs[3] == 1).all()


def test_unknown_and_far_points() -> None:
    depth = np.full((64, 96), np.nan, np.float32)
    assert (point_map(depth, CAMERA, np.eye(4), (8, 12), 1.0) == 0).all()
    lengths = []
    for far in (4.0, 8.0, 80.0, 8000.0):
        points = point_map(np.full((64, 96), far, np.float32), CAMERA, np.eye(4), (8, 12), 1.0)
        assert np.isfinite(points).all()
        lengths.append(float(np.linalg.norm(points[:3, 4, 6])))
    assert lengths == sorted(lengths)
    assert lengths[0] == pytest.approx(4.0, rel=0.02)
    assert lengths[-1] < 80


def test_rays_are_pluecker_coordinates() -> None:
    pose = rigid.from_euler(0.2, 0.5, -0.1, (0.3, -1.0, 2.0))
    rays = plucker_rays(CAMERA, pose, (8, 12), 2.0)
    direction, moment = rays[:3], rays[3:]
    np.testing.assert_allclose(np.linalg.norm(direction, axis=0), 1.0, atol=1e-6)
    np.testing.assert_allclose((direction * moment).sum(0), 0.0, atol=1e-6)
    # Any point on the ray has the same moment.
    point = pose[:3, 3, None, None] / 2.0 + 1.7 * direction
    np.testing.assert_allclose(np.cross(point, direction, axis=0), moment, atol=1e-6)


def test_latent_frames_stand_for_their_last_picture() -> None:
    assert latent_frame_numbers(TINY, first=True) == [3, 7, 11]
    assert latent_frame_numbers(INSPATIO_WORLD_1_3B, first=True) == [0, 4, 8]
    assert latent_frame_numbers(INSPATIO_WORLD_1_3B, first=False) == [3, 7, 11]


def test_each_frame_gets_the_view_of_its_place() -> None:
    bank = ViewBank(BankOptions(8, spacing=0.05))
    for index, x in enumerate((0.0, 3.0, 6.0)):
        bank.add(look(x, seed=index))
    nothing = np.full((64, 96), np.nan, np.float32)
    guide = Guide(np.zeros((64, 96, 3), np.uint8), nothing, np.zeros((64, 96), np.uint8))
    reader = ViewReader(codec(), SMALL, torch.device("cpu"))
    poses = [look(x).world_from_camera for x in (6.1, 0.1, 50.0)]
    views = reader.read(bank, CAMERA, [(poses, [guide] * 3)], (96, 64))
    views.check(SMALL, 1, SMALL.grid_of(64, 96))
    assert views.valid.tolist() == [[1.0, 1.0, 0.0]]
    np.testing.assert_allclose(views.poses[0, :2, 4], [-0.05, -0.05], atol=1e-6)
    assert (views.latents[0, 2] == 0).all()
    one = reader.read(bank, CAMERA, [(poses[1:2] * 3, [guide] * 3)], (96, 64))
    assert torch.equal(one.latents[0, 0], views.latents[0, 1])
    assert not torch.equal(views.latents[0, 0], views.latents[0, 1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_untrained_branches_leave_imagined_pictures_as_they_are(layout: str) -> None:
    held = memory(views=True)
    plain = imagined(backend(), held)
    branched = imagined(backend(StereoBranch(SMALL, layout).eval(), ControlBranch(SMALL).eval()),
                        held)
    assert len(plain) == len(branched) == 24
    for one, other in zip(plain, branched, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_trained_branch_looks_into_the_bank(layout: str) -> None:
    stereo = trained(StereoBranch(SMALL, layout))
    without = imagined(backend(), memory(views=False))
    empty = imagined(backend(stereo), memory(views=False))
    full = imagined(backend(stereo), memory(views=True))
    for one, other in zip(without, empty, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    assert any((one.image != other.image).any() for one, other in zip(empty, full, strict=True))
    again = imagined(backend(stereo), memory(views=True))
    for one, other in zip(full, again, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


def test_requests_imagined_together_look_into_the_bank_as_alone() -> None:
    stereo, control = trained(StereoBranch(SMALL)), trained(ControlBranch(SMALL))
    held = memory(views=True)
    made = backend(stereo, control)
    requests, now = [], look(0.0)
    for sign in (1, -1):
        poses = way(12).world_from_camera.copy()
        poses[:, 0, 3] *= sign
        requests.append(ImaginationRequest(
            CAMERA, CameraTrajectory.from_poses(poses, 10.0), (now,), mode="model"))
    both = list(imagine_together(ImaginationEngine(made), requests, held))
    for index, request in enumerate(requests):
        alone = [f for b in ImaginationEngine(made).imagine(request, held) for f in b.frames]
        other = [f for blocks in both for f in blocks[index].frames]
        assert len(alone) == len(other) == 12
        for one, two in zip(alone, other, strict=True):
            off = np.abs(one.image.astype(int) - two.image)
            assert off.max() <= 2
            assert (one.provenance >= Provenance.IMAGINED).all()
