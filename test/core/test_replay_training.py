# SPDX-License-Identifier: Apache-2.0
"""Replay: the mix is exact, a function of the step, and leaves every domain's stream whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.cli.main import main
from inspatio_ros.evaluation import two_sided
from inspatio_ros.model.config import ModelError
from inspatio_ros.model.presets import preset
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.weights import load_small_model, save_small_model
from inspatio_ros.training.batches import LatentBatch
from inspatio_ros.training.clips import ClipInfo
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.finetune import Mix, check_ratios, finetune
from inspatio_ros.training.latents import LATENT_FORMAT
from inspatio_ros.training.options import TrainingError, TrainingOptions
from inspatio_ros.training.replay import ReplaySource
from inspatio_ros.training.saving import save_tensors
from inspatio_ros.training.trainer import Trainer


class Numbered:
    """Batches that hold their own number, split among processes."""

    def __init__(self, base: int, clips: int = 4) -> None:
        self.base, self.clips = base, clips

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> LatentBatch:
        numbers = torch.arange(self.clips)[rank::world_size] + self.base + step * self.clips
        return LatentBatch("t2v", numbers.float().reshape(-1, 1, 1, 1, 1, 1))

    def validation(self) -> Iterator[LatentBatch]:
        yield LatentBatch("t2v", torch.full((1, 1, 1, 1, 1, 1), -1.0 - self.base))


RATIOS = st.integers(0, 99).map(lambda hundredths: hundredths / 100)


def mixed(ratio: float, domains: int = 2) -> ReplaySource:
    others = {f"domain{i}": Numbered(10_000 * (i + 1)) for i in range(domains)}
    return ReplaySource("main", Numbered(0), others, ratio)


@given(ratio=RATIOS, domains=st.integers(1, 4), steps=st.integers(0, 500))
def test_every_beginning_has_the_share_asked_for(ratio: float, domains: int, steps: int) -> None:
    source = mixed(ratio, domains)
    seen = [source.turn(step)[0] for step in range(steps)]
    counts = {name: seen.count(name) for name in source.domains}
    assert source.counts(steps) == counts
    replays = steps - counts["main"]
    exact = Fraction(round(ratio * 100), 100) * steps
    assert 0 <= exact - replays < 1
    others = [counts[name] for name in source.domains[1:]]
    assert max(others) - min(others) <= 1
    assert sum(mixed(ratio, domains).counts(1000).values()) == 1000
    assert 1000 - source.counts(1000)["main"] == round(ratio * 1000)


@given(ratio=RATIOS, domains=st.integers(1, 4))
def test_each_domain_is_read_in_order_without_a_gap(ratio: float, domains: int) -> None:
    source = mixed(ratio, domains)
    following = dict.fromkeys(source.domains, 0)
    for step in range(300):
        name, place = source.turn(step)
        assert place == following[name]
        following[name] += 1


@given(ratio=RATIOS, steps=st.lists(st.integers(0, 10_000), min_size=1, max_size=20))
def test_a_batch_depends_on_its_step_alone(ratio: float, steps: list[int]) -> None:
    first, second = mixed(ratio), mixed(ratio)
    for step in reversed(steps):
        first.batch(step)
    for step in steps:
        a, b = first.batch(step), second.batch(step)
        assert a.domain == b.domain == first.turn(step)[0]
        assert torch.equal(a.target, b.target)


@given(ratio=RATIOS, step=st.integers(0, 1000), world_size=st.integers(1, 4))
def test_processes_share_a_batch_of_one_domain(ratio: float, step: int, world_size: int) -> None:
    source = mixed(ratio)
    parts = [source.batch(step, rank, world_size) for rank in range(world_size)]
    assert len({part.domain for part in parts}) == 1
    together = torch.cat([part.target for part in parts]).flatten().sort().values
    assert torch.equal(together, source.batch(step).target.flatten())


@given(low=RATIOS, high=RATIOS)
def test_another_ratio_shows_the_same_clips_of_the_domain_only_fewer(
        low: float, high: float) -> None:
    low, high = sorted((low, high))

    def of_main(ratio: float) -> list[float]:
        source = mixed(ratio)
        batches = (source.batch(step) for step in range(40))
        return [float(n) for b in batches if b.domain == "main" for n in b.target.flatten()]

    many, few = of_main(low), of_main(high)
    assert few == many[:len(few)]


def test_without_replay_it_is_the_domain_itself() -> None:
    source = ReplaySource("main", Numbered(0), {}, 0.0)
    assert source.counts(7) == {"main": 7}
    for step in range(5):
        assert torch.equal(source.batch(step).target, Numbered(0).batch(step).target)


def test_decimals_are_meant_as_written() -> None:
    assert mixed(0.29, 1).counts(100)["domain0"] == 29  # 0.29 * 100 is 28.999... in binary


def test_validation_names_every_domain() -> None:
    assert [b.domain for b in mixed(0.1).validation()] == ["main", "domain0", "domain1"]


def test_what_makes_no_mix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.0 is not in \[0, 1\)"):
        mixed(1.0)
    with pytest.raises(ValueError, match=r"-0\.1 is not in"):
        mixed(-0.1)
    with pytest.raises(ValueError, match="no domain to replay"):
        ReplaySource("main", Numbered(0), {}, 0.1)
    with pytest.raises(ValueError, match="into itself"):
        ReplaySource("main", Numbered(0), {"main": Numbered(1)}, 0.1)
    with pytest.raises(ValueError, match="negative"):
        mixed(0.1).turn(-1)


def test_batches_of_unequal_size_are_refused() -> None:
    source = ReplaySource("main", Numbered(0), {"other": Numbered(1, clips=3)}, 0.5)
    source.batch(0)
    with pytest.raises(ModelError, match="'other' has 3 clips, one of 'main' 4"):
        source.batch(1)


# --- fine-tuning and the study, on a toy model ---------------------------------------------------


SMALL = replace(preset("tiny"), name="toy", dim=32, ffn_dim=64, num_layers=1, freq_dim=16,
                height=64, width=96, denoising_steps=(1000,))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file of latents of two domains, and the folder of a small model."""
    folder = tmp_path_factory.mktemp("toy")
    torch.manual_seed(0)
    save_small_model(folder / "model", CausalTransformer(SMALL), SmallCodec(SmallCodecConfig(
        frame_width=8, group_width=8, decoder_frame_blocks=1, decoder_group_blocks=1)))
    tensors, infos = {}, []
    for number in range(8):
        grid = (1, 3, 16, *SMALL.latent_grid)
        parts = {name: torch.randn(grid) for name in ("target", "source", "render")}
        parts["mask"] = torch.ones(1, 3, 4, *SMALL.latent_grid)
        info = ClipInfo("v2v", ("street", "room")[number % 2], f"clip {number}", "Apache-2.0",
                        held_out=number >= 6)
        tensors |= {f"{number:06d}.{name}": part for name, part in parts.items()}
        infos.append(asdict(info))
    save_tensors(folder / "latents.safetensors", tensors,
                 {"format": LATENT_FORMAT, "clips": json.dumps(infos)})
    return folder / "latents.safetensors", folder / "model"


def command(toy: tuple[Path, Path], *words: object) -> list[str]:
    data, model = toy
    common = ("--data", data, "--start", model, "--domain", "street", "--replay", "room",
              "--batch-size", 2, "--clips", 1, "--frames", 6, "--seen", 2, "--size", "96x64",
              "--steps", 4, "--warm-up", 0, "--validate-every", 0, "--precision", "float32")
    return ["train", *map(str, (*words, *common))]


def test_finetune_mixes_judges_and_refuses_another_mix(
        toy: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = command(toy, "finetune", "--run", run, "--judge", "room")
    assert main([*words, "--ratio", "0.5"]) == 0
    judged = json.loads((run / "judged.json").read_text())["0.5"]["domains"]["room"]
    assert judged["dynamics"]["clips"] == 1
    assert judged["appearance"]["psnr"] > 0
    assert judged["appearance"]["fid"] is None
    assert "--inception" in judged["missing"]["fid"]
    assert json.loads((run / "mix.json").read_text())["ratio"] == 0.5
    model, codec = load_small_model(run / "model")
    before = load_small_model(toy[1])[0]
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(),
                                                     strict=True))
    assert codec.latent_channels == 16
    assert main([*words, "--ratio", "0.25"]) == 1
    assert "a run of another mix" in capsys.readouterr().err


def test_finetune_names_what_is_missing(
        toy: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command(toy, "finetune", "--run", tmp_path / "run")
    assert main([*words, "--domain", "moon"]) == 1
    assert "no domain 'moon'; there are room, street" in capsys.readouterr().err
    assert main([*words, "--run", str(tmp_path / "other"), "--start", str(tmp_path)]) == 1
    assert "takes the folder of a whole small model" in capsys.readouterr().err


def test_the_study_trains_judges_and_reports_every_ratio(
        toy: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    words = command(toy, "replay-study", "--out", tmp_path, "--judge", "street")
    assert main([*words, "--ratios", "0.5", "0"]) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    assert list(content["results"]) == ["before", "0", "0.5"]
    sides = [result["domains"]["street"] for result in content["results"].values()]
    for side in sides:
        assert side["floor"] == sides[0]["floor"]
        assert side["dynamics"]["moving"]["objects"] >= 1
    assert len({side["appearance"]["psnr"] for side in sides}) == 3  # three different models
    assert content["correlations"]["street"]["psnr"]["runs"]["pairs"] == 3
    same = [(tmp_path / f"ratio_{ratio}" / "options.json").read_text() for ratio in ("0", "0.5")]
    assert same[0] == same[1]  # steps, optimiser and seed
    report = (tmp_path / "report.md").read_text()
    assert "| street | true frames |" in report
    assert "no FID" in report
    assert report in capsys.readouterr().out
    picture = ElementTree.parse(tmp_path / "pareto.svg").getroot()
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"street", "before", "0", "0.5"} <= set(texts)
    # Called again, nothing is trained or judged anew and the figures stay.
    monkeypatch.setattr(Trainer, "_update", None)
    monkeypatch.setattr(two_sided, "judge", None)
    assert main([*words, "--ratios", "0.5", "0"]) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == content


def test_every_objective_can_be_fine_tuned_but_the_teachers(
        toy: tuple[Path, Path], tmp_path: Path) -> None:
    mix = Mix(toy[0], toy[1], "street", ("room",), 0.5, 2)
    options = TrainingOptions(stage="article", steps=2, validate_every=0, precision="float32")
    model = finetune(tmp_path / "article", mix, options, Process())
    assert load_small_model(model)[0].config == SMALL
    with pytest.raises(TrainingError, match="two teachers"):
        finetune(tmp_path / "jdmd", mix, replace(options, stage="jdmd"), Process())
    with pytest.raises(TrainingError, match="no model that imagines block by block"):
        finetune(tmp_path / "teacher", mix, replace(options, stage="teacher"), Process())


def test_what_cannot_be_judged_is_said_before_training(
        toy: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command(toy, "finetune", "--run", tmp_path / "run")
    assert main([*words, "--judge", ""]) == 1
    assert "nothing to judge" in capsys.readouterr().err
    assert main([*words, "--size", "big"]) == 1
    assert "is not WxH" in capsys.readouterr().err
    assert main([*words, "--judge", "moon"]) == 1
    assert "'moon' is no world; there are street, room" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ratios_of_a_study_are_checked() -> None:
    assert check_ratios([0.5, 0.0]) == (0.0, 0.5)
    with pytest.raises(ValueError, match="twice"):
        check_ratios([0.1, 0.1])
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        check_ratios([1.0])
