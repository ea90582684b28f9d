# SPDX-License-Identifier: Apache-2.0
"""Branches beside the transformer: untrained they change no bit; a frame sees its view alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.model.branches import CONTROL_FILE, STEREO_FILE, load_branches, save_branch
from inspatio_ros.model.config import ModelConfig, ModelError
from inspatio_ros.model.control_branch import RAY_CHANNELS, ControlBranch
from inspatio_ros.model.presets import TINY
from inspatio_ros.model.rope import angles
from inspatio_ros.model.stereo import LAYOUTS, POINT_CHANNELS, RetrievedViews, StereoBranch
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.weights import WeightsError

CONFIG = replace(TINY, name="test", dim=48, ffn_dim=64, num_heads=2, num_layers=2, freq_dim=16,
                 height=32, width=48, denoising_steps=(1000, 500))
GRID = (4, 6)


def random_model(config: ModelConfig = CONFIG) -> CausalTransformer:
    torch.manual_seed(0)
    model = CausalTransformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.prepare_for_inference()


def random_views(seed: int = 1, batch: int = 1) -> RetrievedViews:
    g = torch.Generator().manual_seed(seed)
    lead = (batch, CONFIG.frames_per_block)
    return RetrievedViews(
        torch.randn(*lead, CONFIG.latent_channels, *GRID, generator=g),
        torch.randn(*lead, 7, generator=g),
        torch.randn(*lead, POINT_CHANNELS, *GRID, generator=g),
        torch.randn(*lead, POINT_CHANNELS, *GRID, generator=g), torch.ones(lead))


def trained(branch: torch.nn.Module, seed: int = 5) -> torch.nn.Module:
    """The branch with every weight away from zero."""
    torch.manual_seed(seed)
    for parameter in branch.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return branch.eval().requires_grad_(False)


def inputs(batch: int = 1, seed: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    lead = (batch, CONFIG.frames_per_block)
    shape = (*lead, CONFIG.latent_channels, *GRID)
    return {"reference": torch.randn(shape, generator=g), "history": torch.randn(
        shape, generator=g), "render": torch.randn(shape, generator=g), "mask": torch.randn(
            *lead, CONFIG.mask_channels, *GRID, generator=g).clamp(-1, 1),
        "noise": torch.randn(2, *shape, generator=g)}


def rays(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, CONFIG.frames_per_block, RAY_CHANNELS, *GRID,
                       generator=torch.Generator().manual_seed(9))


def made(model: CausalTransformer, stereo: StereoBranch | None = None,
         control: ControlBranch | None = None, views: RetrievedViews | None = None,
         ray: torch.Tensor | None = None, batch: int = 1) -> torch.Tensor:
    denoiser = BlockDenoiser(model, stereo=stereo, control=control)
    denoiser.begin(GRID, batch)
    return denoiser.block(**inputs(batch), views=views, rays=ray)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("text_len", [1, 5])
def test_untrained_branches_change_no_bit(layout: str, text_len: int) -> None:
    model = random_model(replace(CONFIG, text_len=text_len))
    torch.manual_seed(3)
    stereo, control = StereoBranch(model.config, layout).eval(), ControlBranch(model.config).eval()
    plain = made(model)
    assert torch.equal(plain, made(model, stereo, control, random_views(), rays()))
    assert torch.equal(plain, made(model, stereo, control))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_trained_branches_look_at_the_views(layout: str) -> None:
    model = random_model()
    stereo = trained(StereoBranch(CONFIG, layout))
    one, other = (made(model, stereo, views=random_views(s)) for s in (1, 2))
    assert (one - other).abs().max() > 1e-3
    for name in ("poses", "points"):
        views = random_views(1)
        changed = replace(views, **{name: getattr(views, name) + 1})
        assert (made(model, stereo, views=changed) - one).abs().max() > 1e-5, name
    views = random_views(1)
    changed = made(model, stereo, views=replace(views, frame_points=views.frame_points + 1))
    # Only the paper's layout codes the points of the frame itself.
    assert torch.equal(changed, one) == (layout == "offset")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_is_confined_to_the_pair(layout: str) -> None:
    # With one layer nothing else carries anything from frame to frame.
    config = replace(CONFIG, num_layers=1, denoising_steps=(1000,))
    model = random_model(config)
    stereo = trained(StereoBranch(config, layout))
    denoiser = BlockDenoiser(model, stereo=stereo)
    views = random_views()
    noise = inputs()["noise"][:1]

    def block(given: RetrievedViews) -> torch.Tensor:
        denoiser.begin(GRID)
        return denoiser.block(**{**inputs(), "noise": noise}, views=given)

    before = block(views)
    for frame in range(config.frames_per_block):
        latents, poses = views.latents.clone(), views.poses.clone()
        latents[:, frame] += 1.0
        poses[:, frame] -= 0.5
        after = block(replace(views, latents=latents, poses=poses))
        off = (after - before).abs().amax(dim=(0, 2, 3, 4))
        assert off[frame] > 1e-4
        off[frame] = 0
        assert off.max() == 0.0, f"frame {frame} reached another one"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_frame_without_a_view_is_as_without_the_branch(layout: str) -> None:
    model = random_model()
    stereo = trained(StereoBranch(CONFIG, layout))
    views = random_views()
    none = replace(views, valid=torch.zeros_like(views.valid))
    assert torch.equal(made(model), made(model, stereo, views=none))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_are_as_one_by_one(layout: str) -> None:
    model = random_model()
    stereo = trained(StereoBranch(CONFIG, layout))
    views = random_views(batch=2)
    both = made(model, stereo, views=views, batch=2)
    for index in range(2):
        denoiser = BlockDenoiser(model, stereo=stereo)
        denoiser.begin(GRID)
        own = {name: part[:, index:index + 1] if name == "noise" else part[index:index + 1]
               for name, part in inputs(2).items()}
        alone = denoiser.block(**own, views=RetrievedViews(*(
            part[index:index + 1] for part in views.tensors())))
        torch.testing.assert_close(both[index:index + 1], alone, rtol=1e-4, atol=1e-5)


def test_views_lie_beside_their_frame_at_its_time() -> None:
    branch = StereoBranch(CONFIG)
    rows, columns = CONFIG.token_grid(GRID)
    own, beside = branch._pair_rotations(3, GRID, torch.zeros(3, rows * columns, CONFIG.dim))
    times = CONFIG.group_positions(CONFIG.context_groups)
    for frame, time in enumerate(times):
        # On a grid of twice the width, the right half at the same time is where the view is.
        wide = angles(CONFIG, [time], (GRID[0], 2 * GRID[1]), torch.device("cpu"))
        wide = wide.reshape(rows, 2 * columns, -1)
        for table, half in ((own, wide[:, :columns]), (beside, wide[:, columns:])):
            expected = half.reshape(rows * columns, -1)
            torch.testing.assert_close(table[0][frame, :, 0], expected.cos().float())
            torch.testing.assert_close(table[1][frame, :, 0], expected.sin().float())


def test_offset_layout_is_attention_to_the_views_tokens() -> None:
    """One layer, written out: softmax(q k^T) v over the view's own tokens, projected, added."""
    config = replace(CONFIG, num_layers=1)
    model = random_model(config)
    stereo = trained(StereoBranch(config, "offset"))
    views = random_views()
    text = model.project_text(torch.zeros(1, config.text_len, config.text_dim))
    clean = model.modulation([0.0])
    q = torch.randn(1, config.block_tokens(GRID), config.num_heads, config.head_dim)
    x = torch.randn(1, config.block_tokens(GRID), config.dim)
    found = stereo.prepare(model, views, clean, text).add(0, x, q)
    tokens = stereo._tokens(model, views)
    _, beside = stereo._pair_rotations(3, GRID, tokens)
    k, v = model.blocks[0].keys_values(tokens, clean.blocks[0], beside)
    expected = x.clone()
    count = config.tokens_per_frame(GRID)
    for frame in range(3):
        own = slice(frame * count, (frame + 1) * count)
        scores = torch.einsum("nhd,mhd->hnm", q[0, own], k[frame]) * config.head_dim**-0.5
        read = torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v[frame]).flatten(1)
        expected[0, own] += stereo.layer(0).out(read)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_control_can_be_switched_off() -> None:
    model = random_model()
    control = trained(ControlBranch(CONFIG))
    plain = made(model)
    assert torch.equal(plain, made(model, None, control))
    on = made(model, None, control, ray=rays())
    assert (on - plain).abs().max() > 1e-3
    assert (made(model, None, control, ray=rays() + 1) - on).abs().max() > 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_strict_and_apart(layout: str, tmp_path: Path) -> None:
    keys = set(random_model().state_dict())
    stereo, control = trained(StereoBranch(CONFIG, layout)), trained(ControlBranch(CONFIG))
    save_branch(stereo, tmp_path)
    save_branch(control, tmp_path)
    assert set(random_model().state_dict()) == keys
    loaded = load_branches(tmp_path, CONFIG)
    assert loaded.stereo is not None
    assert loaded.control is not None
    assert loaded.stereo.layout == layout
    for one, other in ((stereo, loaded.stereo), (control, loaded.control)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
    with pytest.raises(WeightsError, match=r"stereo\.safetensors.*does not fit"):
        load_branches(tmp_path, replace(CONFIG, num_layers=3))
    (tmp_path / CONTROL_FILE).write_bytes((tmp_path / STEREO_FILE).read_bytes())
    with pytest.raises(WeightsError, match="not a control branch"):
        load_branches(tmp_path, CONFIG)
    assert load_branches(tmp_path / "nowhere", CONFIG).stereo is None


def test_what_does_not_fit_is_named() -> None:
    model = random_model()
    with pytest.raises(ModelError, match="no stereo branch"):
        made(model, views=random_views())
    with pytest.raises(ModelError, match="rays need a control branch"):
        made(model, ray=rays())
    stereo = StereoBranch(CONFIG)
    with pytest.raises(ModelError, match="poses must be"):
        made(model, stereo, views=replace(random_views(), poses=torch.zeros(1, 3, 6)))
    broken = random_views()
    broken.points[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="points holds NaN"):
        made(model, stereo, views=broken)
    with pytest.raises(ModelError, match="layout 'stacked'"):
        StereoBranch(CONFIG, "stacked")
    with pytest.raises(ModelError, match="control: rays"):
        made(model, None, ControlBranch(CONFIG), ray=rays()[:, :, :5])
