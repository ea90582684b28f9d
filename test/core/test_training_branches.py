# SPDX-License-Identifier: Apache-2.0
"""Training of branches: pairs that overlap as wanted, a branch that learns to read its view."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inspatio_ros.cli.main import main
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.model.branches import STEREO_FILE, load_branches, save_branch
from inspatio_ros.model.presets import TINY
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.stereo import LAYOUTS
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.weights import CODEC_FILE, save_small_codec, save_small_model
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.training.branch_trainer import (
    BlockSampler,
    BranchModel,
    BranchTraining,
    branch_figures,
    branch_loss,
    levels,
    train_branches,
)
from inspatio_ros.training.clips import ClipError, ClipInfo
from inspatio_ros.training.latents import read_latents
from inspatio_ros.training.sources import ClipSize
from inspatio_ros.training.view_pairs import (
    PAIR_PARTS,
    PairedClip,
    PairMaker,
    degraded,
    read_pairs,
    write_pairs,
)
from inspatio_ros.worlds.room import room

SMALL = replace(TINY, name="toy", dim=48, ffn_dim=96, num_heads=2, num_layers=2, freq_dim=16,
                height=16, width=32, denoising_steps=(1000, 500), finished=False)
GRID = (2, 4)


def codec() -> SmallCodec:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return SmallCodec(SmallCodecConfig(frame_width=16, group_width=16)).eval()


def toy_clips(count: int = 12) -> list[PairedClip]:
    """Clips that nothing but the view tells: the target is the view, the guide is empty."""
    g = torch.Generator().manual_seed(0)
    clips = []
    for index in range(count):
        lead = (1, SMALL.frames_per_block)
        views = torch.randn(*lead, SMALL.latent_channels, 1, 1, generator=g).expand(
            *lead, SMALL.latent_channels, *GRID).clone()
        zeros = torch.zeros_like(views)
        points = torch.zeros(*lead, 4, *GRID)
        poses = torch.zeros(*lead, 7)
        poses[..., 0] = 1
        parts = {"target": views, "source": zeros, "render": zeros,
                 "mask": -torch.ones(*lead, SMALL.mask_channels, *GRID),
                 "weight": torch.ones(*lead, 1, *GRID), "views": views, "view_poses": poses,
                 "view_points": points, "frame_points": points, "view_valid": torch.ones(lead),
                 "rays": torch.zeros(*lead, 6, *GRID)}
        clips.append(PairedClip(ClipInfo("v2v", "toy", f"toy-{index}", "none", index >= 9), parts))
    return clips


def toy_model() -> CausalTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return CausalTransformer(SMALL)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_branch_learns_to_read_its_view(layout: str, tmp_path: Path) -> None:
    options = BranchTraining(stereo=layout, train_model=True, steps=100, batch=8, warm_up=5,
                             learning_rate=5e-3, ema=0.9, drop=0.1)
    clips = toy_clips()
    whole = train_branches(clips, toy_model(), tmp_path, options)
    figures = branch_figures(whole, clips[9:], options, batches=6)
    # On clips never trained on: only by looking at its own view can a frame be known.
    assert figures["with_views"] < 0.75 * figures["without_views"], figures
    assert figures["with_views"] < 0.75 * figures["other_views"], figures
    loaded = load_branches(tmp_path, SMALL)
    assert loaded.stereo is not None
    for name, value in whole.stereo.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, loaded.stereo.state_dict()[name])


def test_the_transformer_stays_as_it_is(tmp_path: Path) -> None:
    model = toy_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = BranchTraining(control=True, steps=4, batch=2)
    whole = train_branches(toy_clips(), model, tmp_path, options)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert whole.stereo is not None
    assert whole.control is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "branches_options.json", "branches_state.pt", "control.safetensors", "stereo.safetensors"]
    assert (whole.stereo.layer(0).out.weight != 0).any()


def test_an_untrained_branch_leaves_the_loss(tmp_path: Path) -> None:
    options = BranchTraining(control=True, steps=1)
    whole = BranchModel(toy_model(), options)
    batch = BlockSampler(toy_clips(), options, levels(whole.model)).batch(3)
    assert torch.equal(branch_loss(whole, batch), branch_loss(whole, batch, with_views=False))


def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    options = BranchTraining(steps=6, batch=2, warm_up=2)
    whole = train_branches(toy_clips(), toy_model(), tmp_path / "one", options)

    def stop(step: int, losses: dict[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_branches(toy_clips(), toy_model(), tmp_path / "two", options, save_every=2,
                       on_step=stop)
    again = train_branches(toy_clips(), toy_model(), tmp_path / "two", options)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, again.state_dict()[name])


def test_pairs_from_a_world_overlap_and_fit(tmp_path: Path) -> None:
    config = replace(TINY, height=64, width=96)
    maker = PairMaker(codec(), config, ClipSize(96, 64, 12))
    clips = [maker.world("room", seed) for seed in (0, 1_000_000)]
    for clip in clips:
        assert clip.parts["views"].shape == clip.parts["target"].shape == (1, 3, 16, 8, 12)
        assert clip.parts["view_poses"].shape == (1, 3, 7)
        assert clip.parts["rays"].shape == (1, 3, 6, 8, 12)
        assert all(bool(part.isfinite().all()) for part in clip.parts.values())
    shares = [float(clip.parts["view_valid"].mean()) for clip in clips]
    assert max(shares) > 0
    for clip in clips:
        valid = clip.parts["view_valid"] > 0
        known = clip.parts["view_points"][:, :, 3].mean((-1, -2))
        assert (known[valid] > 0.2).all()
        # Its own view would be the frame itself: turned or moved it must be.
        moved = clip.parts["view_poses"][valid]
        if len(moved):
            still = (moved[:, 0] > 0.9999) & (moved[:, 4:].norm(dim=1) < 0.01)
            assert not still.any()
    path = tmp_path / "pairs.safetensors"
    assert write_pairs(path, clips) == 2
    back = read_pairs(path)
    assert [clip.info for clip in back] == [clip.info for clip in clips]
    assert [clip.info.held_out for clip in back] == [False, True]
    for name in PAIR_PARTS:
        torch.testing.assert_close(back[0].parts[name], clips[0].parts[name], rtol=1e-2,
                                   atol=2e-2)
    plain = read_latents(path, config)
    assert set(plain[0].parts) == {"target", "source", "render", "mask", "weight"}


def test_degraded_views_keep_their_place() -> None:
    camera = PinholeCamera(96, 64, 80.0, 80.0, 47.5, 31.5)
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    pose[2, 3] = 1.0
    view = room(0, moving=False).render(camera, pose)
    seen = Observation(0, view.image, view.depth, camera, pose)
    kinds = set()
    for seed in range(20):
        worse = degraded(seen, np.random.default_rng(seed))
        both = (worse.depth > 0) & (seen.depth > 0)
        off = np.median(np.abs(worse.depth - seen.depth)[both] / seen.depth[both])
        kinds.add("same" if off == 0 else "changed")
        assert off < 0.05
        assert (worse.image != seen.image).any()
    assert kinds == {"same", "changed"}


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="no clip with pairs"):
        write_pairs(tmp_path / "x.safetensors", [])
    with pytest.raises(ClipError, match=r"x\.safetensors: not readable"):
        read_pairs(tmp_path / "x.safetensors")
    save_small_codec(codec(), tmp_path / "codec.safetensors")
    with pytest.raises(ClipError, match="not a file of latents"):
        read_pairs(tmp_path / "codec.safetensors")
    with pytest.raises(ValueError, match="neither a stereo nor a control"):
        BranchTraining(stereo="", control=False)


def test_by_commands_from_a_world_to_a_branch(tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                              ) -> None:
    folder = tmp_path / "model"
    config = replace(SMALL, name="tiny", height=64, width=96)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_small_model(folder, CausalTransformer(config), codec())
    assert (folder / CODEC_FILE).is_file()
    pairs = tmp_path / "pairs.safetensors"
    assert main(["data", "pairs", str(pairs), "world", "clutter", "--codec", str(folder),
                 "--seeds", "0:2", "--size", "96x64", "--frames", "12"]) == 0
    run = tmp_path / "run"
    assert main(["train", "branches", "--run", str(run), "--data", str(pairs), "--model",
                 str(folder), "--steps", "2", "--batch", "2"]) == 0
    assert "no held-out clips" in capsys.readouterr().out
    stereo = load_branches(run, config).stereo
    assert stereo is not None
    save_branch(stereo, folder)
    assert (folder / STEREO_FILE).is_file()
