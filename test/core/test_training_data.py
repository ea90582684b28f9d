# SPDX-License-Identifier: Apache-2.0
"""Clips, shards, sources, faults and latents: what a model is trained on."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.cli import main as cli
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.model.presets import TINY
from inspatio_ros.model.small_codec import SmallCodec
from inspatio_ros.model.weights import save_small_codec
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.training import clips as clips_module
from inspatio_ros.training.augment import Faults, FaultyMemory, faulty_observation, patches
from inspatio_ros.training.clips import (
    SUFFIX,
    Clip,
    ClipError,
    ClipInfo,
    Shard,
    pack_bits,
    read_clips,
    unpack_bits,
    write_shard,
)
from inspatio_ros.training.codec_trainer import (
    CodecTraining,
    codec_figures,
    gradient_difference,
    train_codec,
)
from inspatio_ros.training.latents import encode_clip, encode_clips, encode_folder, open_latents
from inspatio_ros.training.saving import save_tensors
from inspatio_ros.training.sources import (
    HELD_OUT_SEED,
    ClipMaker,
    ClipSize,
    photograph_clip,
    picture_clip,
    recording_clips,
    world_clip,
)
from inspatio_ros.training.stereo_sensor import StereoSensor
from inspatio_ros.worlds.clutter import clutter
from inspatio_ros.worlds.photographs import Billboard, PhotographWorld
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.street import street

SIZE = ClipSize(64, 32, 12)


def picture(seed: int = 0, height: int = 60, width: int = 90) -> np.ndarray:
    """A smooth picture with some structure."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / rng.uniform(4, 20) + y / rng.uniform(4, 20) + rng.uniform(0, 6))
             for _ in range(3)]
    return np.clip(128 + 90 * np.stack(waves, -1), 0, 255).astype(np.uint8)


def made_clip(frames: int = 12, seed: int = 0, held_out: bool = False) -> Clip:
    """A v2v clip of moving waves with a hole on the right."""
    wide = picture(seed, SIZE.height, SIZE.width + frames)
    truth = np.stack([wide[:, i:i + SIZE.width] for i in range(frames)])
    known = np.ones(truth.shape[:3], np.bool_)
    known[:, :, 40:] = False
    render = np.where(known[..., None], truth, 128).astype(np.uint8)
    info = ClipInfo("v2v", "waves", f"waves-{seed}", "Apache-2.0", held_out)
    return Clip(info, truth, render, known, truth[:1])


# --- shards --------------------------------------------------------------------------------------


def test_a_shard_gives_back_what_was_packed(tmp_path: Path) -> None:
    clip = made_clip()
    plain = Clip(ClipInfo("t2v", "plain", "r", "MIT", True), clip.truth)
    path = tmp_path / f"a{SUFFIX}"
    assert write_shard(path, [clip, plain], quality=4) == 2
    shard = Shard(path)
    assert len(shard) == 2
    assert shard.info(0) == clip.info
    assert shard.info(1) == plain.info
    read = shard.clip(0)
    assert read.render is not None
    assert read.source is not None
    assert np.array_equal(read.known, clip.known)
    for part, original in ((read.truth, clip.truth), (read.render, clip.render),
                           (read.source, clip.source)):
        assert np.abs(part.astype(int) - original).mean() < 3
    assert shard.clip(1).render is None
    assert [c.info.domain for c in read_clips(tmp_path)] == ["waves", "plain"]


def test_hints_are_kept_where_there_are_any(tmp_path: Path) -> None:
    plain = made_clip()
    assert plain.known is not None
    hinted = ~plain.known
    hinted[:, :8] = False
    write_shard(tmp_path / f"a{SUFFIX}", [replace(plain, hinted=hinted), plain])
    first, second = read_clips(tmp_path)
    assert first.hinted is not None
    np.testing.assert_array_equal(first.hinted, hinted)
    assert second.hinted is None
    told = np.where(plain.known, 1, np.where(hinted, 0, -1))
    np.testing.assert_array_equal(first.told, told)
    np.testing.assert_array_equal(second.told, np.where(plain.known, 1, -1))
    with pytest.raises(ClipError, match="no guide"):
        _ = Clip(ClipInfo("t2v", "a", "a", "MIT", False), plain.truth).told
    with pytest.raises(ClipError, match="hinted"):
        replace(plain, hinted=hinted[:3])


def test_lossless_where_asked(tmp_path: Path) -> None:
    clip = made_clip()
    write_shard(tmp_path / f"a{SUFFIX}", [clip], quality=0)
    # The colour space costs a rounding step; the coding nothing.
    read = Shard(tmp_path / f"a{SUFFIX}").clip(0)
    assert np.abs(read.truth.astype(int) - clip.truth).max() <= 3


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_packed_bits_round_trip(t: int, h: int, w: int, seed: int) -> None:
    mask = np.random.default_rng(seed).uniform(size=(t, h, w)) < 0.5
    assert np.array_equal(unpack_bits(pack_bits(mask), mask.shape), mask)


def test_bad_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=f"no \\*{SUFFIX} there"):
        list(read_clips(tmp_path))
    path = tmp_path / f"a{SUFFIX}"
    with pytest.raises(ClipError, match="no clip to write"):
        write_shard(path, [])
    path.write_bytes(b"nonsense")
    with pytest.raises(ClipError, match=r"a\.clips\.safetensors: not a readable shard"):
        Shard(path)
    save_tensors(path, {"x": torch.zeros(1)}, {"format": "other"})
    with pytest.raises(ClipError, match="format 'other'"):
        Shard(path)
    write_shard(path, [made_clip()])
    whole = path.read_bytes()
    place = whole.index(b"mdat")
    path.write_bytes(whole[:place + 8] + bytes(2000) + whole[place + 2008:])
    with pytest.raises(ClipError, match=r"clip 0: "):
        Shard(path).clip(0)


def test_a_full_disk_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(clips_module.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path / f"a{SUFFIX}", [made_clip()])
    assert list(tmp_path.iterdir()) == []


def test_clips_that_do_not_fit_together_are_refused() -> None:
    clip = made_clip()
    with pytest.raises(ClipError, match="known is"):
        Clip(clip.info, clip.truth, clip.render, np.ones((1, 2, 3), np.bool_), clip.source)
    with pytest.raises(ClipError, match="v2v clip has render"):
        Clip(clip.info, clip.truth)
    with pytest.raises(ClipError, match="neither v2v nor t2v"):
        ClipInfo("other", "a", "b", "c")


# --- worlds of training --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 3, 11])
def test_clutter_leaves_the_drive_path_free(seed: int) -> None:
    world = clutter(seed, moving=False)
    poses = world.drive(0.5, np.linspace(0.0, 30.0, 40))
    points = poses[:, :3, 3] + np.array([0.0, 0.0, 0.8])
    assert world.clearance(points, 0.0, ignore=(0,)).min() > 0.1


def test_a_billboard_is_seen_exactly() -> None:
    board = Billboard(picture(1, 80, 120), np.full((80, 120), 255, np.uint8), 4.0, 6.0)
    camera = PinholeCamera(120, 80, 80.0, 80.0, 59.5, 39.5)
    view = PhotographWorld([board]).render(camera, np.eye(4))
    assert np.array_equal(view.image, board.image)  # 4 m away, 80 px a 4 m: pixel on pixel
    assert np.allclose(view.depth, 4.0)
    moved = rigid.from_rotation(np.eye(3), (0.5, 0.0, 0.0))  # 10 pixels of the picture
    shifted = PhotographWorld([board]).render(camera, moved)
    assert np.array_equal(shifted.image[:, :100], board.image[:, 10:110])
    assert np.isnan(shifted.depth[:, 111:]).all()
    with pytest.raises(ValueError, match="behind the billboard"):
        PhotographWorld([board]).render(camera, rigid.from_rotation(np.eye(3), (0, 0, 5.0)))


def test_nearer_billboards_hide_farther_ones() -> None:
    far = Billboard(picture(1), np.full((60, 90), 255, np.uint8), 5.0, 20.0)
    near = Billboard(picture(2), np.full((60, 90), 255, np.uint8), 2.0, 1.0)
    camera = PinholeCamera(64, 48, 50.0, 50.0, 31.5, 23.5)
    view = PhotographWorld([near, far]).render(camera, np.eye(4))
    assert view.depth[24, 32] == pytest.approx(2.0)
    assert view.depth[24, 2] == pytest.approx(5.0)
    assert set(np.unique(view.ids)) == {0, 1}


# --- sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["room", "street", "clutter"])
def test_a_world_clip_is_repeatable_and_its_known_part_is_right(domain: str) -> None:
    maker = ClipMaker(SIZE)
    clip, again = (world_clip(maker, domain, 4, faults=False) for _ in range(2))
    assert np.array_equal(clip.truth, again.truth)
    assert np.array_equal(clip.render, again.render)
    assert not clip.info.held_out
    assert clip.known is not None
    assert clip.render is not None
    share = clip.known.mean()
    assert 0.05 < share < 1.0
    error = np.abs(clip.render.astype(float) - clip.truth).mean(axis=-1)
    assert error[clip.known].mean() < 0.8 * error[~clip.known].mean()


@pytest.mark.parametrize("domain", ["room", "street"])
def test_a_stereo_clip_is_of_another_domain_and_repeatable(domain: str) -> None:
    maker = ClipMaker(ClipSize(112, 64, 12))
    clip, again = (world_clip(maker, domain, 4, stereo=True) for _ in range(2))
    assert clip.info.domain == f"{domain} stereo"
    assert clip.info.recording == f"{domain}-stereo-4"
    assert np.array_equal(clip.truth, again.truth)
    assert np.array_equal(clip.render, again.render)
    assert clip.known is not None
    assert clip.render is not None
    assert 0.05 < clip.known.mean() < 1.0
    error = np.abs(clip.render.astype(float) - clip.truth).mean(axis=-1)
    assert error[clip.known].mean() < 0.8 * error[~clip.known].mean()


def test_only_worlds_have_pairs_to_render(tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                          ) -> None:
    out = tmp_path / f"a{SUFFIX}"
    assert cli.main(["data", "pack", str(out), "photographs", str(tmp_path), "--stereo"]) != 0
    assert "--stereo" in capsys.readouterr().err
    assert not out.exists()


def test_a_pair_sees_depth_with_the_errors_of_matching() -> None:
    camera = PinholeCamera(224, 128, 180.0, 180.0, 111.5, 63.5)
    world = street(3)
    pose = world.drive(5.0, np.zeros(1))[0] @ rigid.from_euler(
        0.0, 0.0, 0.0, (0.0, 0.0, 1.5)) @ rigid.BODY_FROM_OPTICAL
    sensor = StereoSensor(camera, np.random.default_rng(0), outdoors=True)
    seen = sensor.observe(world, pose, 0.0)
    true = world.render(sensor.camera, pose, 0.0)
    assert sensor.camera.width > 2 * camera.width
    assert np.abs(seen.image.astype(float) - true.image).mean() > 0.3
    both = (seen.depth > 0) & (true.depth > 0)
    assert 0.3 < both.mean() < 1.0
    off = np.abs(seen.depth[both] / true.depth[both] - 1)
    assert np.median(off) < 0.03
    assert np.mean(off > 0.1) > 0.002


def test_held_out_seeds_are_marked() -> None:
    assert world_clip(ClipMaker(SIZE), "room", HELD_OUT_SEED, faults=False).info.held_out


def test_photograph_clips() -> None:
    photographs = [picture(i, 200, 300) for i in range(2)]
    clip = photograph_clip(ClipMaker(SIZE), photographs, 5, "MIT", faults=False)
    assert clip.frames == SIZE.frames
    assert clip.info.licence == "MIT"
    plain = picture_clip(SIZE, photographs, 5, "MIT")
    assert plain.info.task == "t2v"
    assert len({frame.tobytes() for frame in plain.truth}) == SIZE.frames  # the camera moves


def test_recording_clips_come_forwards_and_backwards() -> None:
    world, camera = room(0, moving=False), PinholeCamera(64, 32, 50.0, 50.0, 31.5, 15.5)
    seen = []
    for index, time in enumerate(np.arange(0, 3, 0.2)):
        pose = world.drive(0.5, [time])[0] @ rigid.from_rotation(np.eye(3), (0, 0, 1.0))
        pose = pose @ rigid.BODY_FROM_OPTICAL
        view = world.render(camera, pose)
        seen.append(Observation(index * 200_000_000, view.image, view.depth, camera, pose))
    clips = list(recording_clips(ClipMaker(SIZE), seen, "r", "MIT", "d", stride=1, held_out=True))
    assert len(clips) == 2 * (len(seen) - SIZE.frames - 1)
    assert all(clip.info.held_out for clip in clips)
    assert np.array_equal(clips[0].truth[0], seen[2].image)
    assert np.array_equal(clips[-1].truth[0], seen[len(seen) - 1 - 3].image)


# --- faults --------------------------------------------------------------------------------------


@given(st.floats(0.02, 0.9), st.integers(0, 1000))
def test_patches_cover_their_share(share: float, seed: int) -> None:
    mask = patches((40, 60), share, np.random.default_rng(seed))
    assert abs(mask.mean() - share) < 0.05


def test_a_faulty_sensor_loses_and_shakes_depth() -> None:
    camera = PinholeCamera(64, 48, 50.0, 50.0, 31.5, 23.5)
    depth = np.linspace(1, 9, 64 * 48, dtype=np.float32).reshape(48, 64)
    exact = Observation(0, picture(0, 48, 64), depth, camera, np.eye(4))
    faults = Faults(depth_noise=0.02, dropped_depth=0.3, max_depth=6.0, exposure=0.2)
    got = faulty_observation(exact, faults, np.random.default_rng(0))
    known = np.isfinite(got.depth)
    assert known.mean() < 0.65
    assert got.depth[known].max() <= 6.0
    relative = got.depth[known] / depth[known] - 1
    assert 0.01 < relative.std() < 0.03
    assert not np.array_equal(got.image, exact.image)
    same = faulty_observation(exact, Faults(), np.random.default_rng(0))
    assert np.array_equal(same.depth, depth)
    assert np.array_equal(same.image, exact.image)


def test_punched_holes_are_unknown_and_the_rest_is_untouched() -> None:
    camera = PinholeCamera(64, 48, 50.0, 50.0, 31.5, 23.5)
    seen = Observation(0, picture(0, 48, 64), np.full((48, 64), 2.0, np.float32), camera,
                       np.eye(4))
    memory = WorldMemory()
    memory.integrate(seen)
    whole = memory.render(camera, np.eye(4), [seen])
    holed = FaultyMemory(memory, Faults(holes=0.3), np.random.default_rng(0)).render(
        camera, np.eye(4), [seen])
    lost = holed.provenance == Provenance.UNKNOWN
    assert 0.2 < lost.mean() < 0.4
    assert np.array_equal(holed.image[~lost], whole.image[~lost])
    assert np.isnan(holed.depth[lost]).all()


# --- the codec and latents -----------------------------------------------------------------------


def test_the_codec_learns_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    clips = [made_clip(seed=i) for i in range(2)]
    options = CodecTraining(steps=8, batch=2, groups=1, crop=32, warm_up=2, bfloat16=False)
    losses: list[float] = []
    whole = train_codec(clips, tmp_path / "whole", options, save_every=4,
                        on_step=lambda step, said: losses.append(said["total"]))
    assert losses[-1] < 0.8 * losses[0]
    assert set(codec_figures(whole, clips)) == {"waves"}

    class Killed(Exception):
        pass

    def kill(step: int, said: dict[str, float]) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        train_codec(clips, tmp_path / "cut", options, save_every=4, on_step=kill)
    resumed = train_codec(clips, tmp_path / "cut", options, save_every=4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_gradient_difference_sees_blur_and_not_brightness() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    assert float(gradient_difference(image, image + 0.2)) < 1e-6
    assert float(gradient_difference(image, blurred)) > 0.1


def test_no_clip_is_long_enough_for_the_codec(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="no clip has the 8 frames"):
        train_codec([made_clip(frames=7)], tmp_path, CodecTraining(groups=2))


def test_latents_of_a_clip_fit_the_model() -> None:
    codec = SmallCodec().eval()
    latent = encode_clip(made_clip(frames=25), codec, TINY)
    assert latent.parts["target"].shape == (2, 3, 16, 4, 8)
    assert latent.parts["mask"].shape == (2, 3, 4, 4, 8)
    weight = latent.parts["weight"]
    assert float(weight[..., :, 5:].min()) == pytest.approx(1.0)  # the hole counts whole
    assert float(weight[..., :, 0].max()) == pytest.approx(0.2)
    # The source is one picture, held: every block is shown the same.
    assert torch.equal(latent.parts["source"][0], latent.parts["source"][1])
    with pytest.raises(ClipError, match="shorter than a block"):
        encode_clip(made_clip(frames=8), codec, TINY)


def test_clips_are_encoded_together_as_alone() -> None:
    torch.manual_seed(0)
    codec = SmallCodec().eval()
    clips = [world_clip(ClipMaker(ClipSize(TINY.width, TINY.height, 12)), "clutter", seed)
             for seed in (1, 2)]
    for clip, latent in zip(clips, encode_clips(clips, codec, TINY), strict=True):
        alone = encode_clip(clip, codec, TINY)
        assert alone.info == latent.info
        for name, part in alone.parts.items():
            torch.testing.assert_close(latent.parts[name], part, rtol=1e-4, atol=1e-4)


def test_encoded_folders_become_batches_by_step_alone(tmp_path: Path) -> None:
    folder, codec = tmp_path / "clips", SmallCodec()
    write_shard(folder / f"a{SUFFIX}", [made_clip(seed=i) for i in range(3)])
    write_shard(folder / f"held{SUFFIX}", [made_clip(seed=9, held_out=True)])
    save_small_codec(codec, tmp_path / "codec.safetensors")
    out = tmp_path / "latents.safetensors"
    assert encode_folder(folder, tmp_path, out) == 4
    config = TINY.with_size(SIZE.height, SIZE.width)
    data = open_latents(out, config, batch_size=4, seed=1)
    again = open_latents(out, config, batch_size=4, seed=1)
    one, same, other = data.batch(5), again.batch(5), data.batch(6)
    one.check(config)
    assert torch.equal(one.target, same.target)
    assert not torch.equal(one.target, other.target)
    halves = [data.batch(5, rank, 2).target for rank in range(2)]
    assert torch.equal(torch.cat(halves), one.target)
    held = list(data.validation())
    assert [batch.size for batch in held] == [1]
    seen = {tuple(clip.flatten().tolist()) for step in range(30)
            for clip in data.batch(step).target}
    assert tuple(held[0].target[0].flatten().tolist()) not in seen
    assert len(seen) == 6  # three clips, each mirrored too
    with pytest.raises(ClipError, match="does not divide among 3"):
        data.batch(0, 0, 3)
    (tmp_path / "bad").write_bytes(b"x")
    with pytest.raises(ClipError, match="bad: not readable"):
        open_latents(tmp_path / "bad", config, 1, 0)


# --- the program ---------------------------------------------------------------------------------


def test_pack_show_and_wrong_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"room{SUFFIX}"
    words = ["data", "pack", str(out), "world", "clutter", "--seeds", "0:2", "--size", "64x32",
             "--frames", "12"]
    assert cli.main(words) == 0
    assert cli.main(["data", "show", str(tmp_path), "--picture", str(tmp_path / "s.png")]) == 0
    shown = capsys.readouterr().out
    assert "2 clips in 1 shards" in shown
    assert "clutter (v2v), Apache-2.0" in shown
    assert (tmp_path / "s.png").stat().st_size > 1000
    for wrong, message in (
        (["data", "pack", str(tmp_path / "x"), "world", "room"], "the name of a shard ends in"),
        (["data", "pack", str(out), "world", "moon"], "no world 'moon'"),
        (["data", "pack", str(out), "photographs", str(tmp_path)], "--licence"),
        (["data", "pack", str(out), "pictures", str(tmp_path), "--licence", "MIT"],
         "no photograph"),
        ([*words[:-2], "--seeds", "a:b"], "expected FIRST:END"),
        ([*words[:-4], "--size", "big"], "expected WIDTHxHEIGHT"),
    ):
        assert cli.main(wrong) == 1
        assert message in capsys.readouterr().err


def test_train_codec_from_the_command_line(tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "clips"
    write_shard(folder / f"a{SUFFIX}", [made_clip(seed=1), made_clip(seed=2, held_out=True)])
    words = ["train", "codec", "--data", str(folder), "--run", str(tmp_path / "run"), "--steps",
             "2", "--batch", "1", "--groups", "1", "--crop", "32", "--no-bfloat16"]
    assert cli.main(words) == 0
    assert "waves" in capsys.readouterr().out
    assert (tmp_path / "run" / "codec.safetensors").is_file()
    assert (tmp_path / "run" / "codec_metrics.jsonl").read_text().count("\n") == 2
