# SPDX-License-Identifier: Apache-2.0
"""`inspatio weights check`: what is there, what is missing, what fits."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inspatio_ros.cli import weights as command
from inspatio_ros.model import checkpoints, weights
from inspatio_ros.model.checkpoints import GIB, PARTS, Machine, inspect_folder, judge
from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.small_codec import SmallCodec
from inspatio_ros.model.text_encoder import TextError
from inspatio_ros.model.tiny_vae import TinyVAE
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.weights import WeightsError

EXPECTED = {part.name: part.expected for part in PARTS if part.expected is not None}
WAN_CONFIG = {
    "dim": 1536,
    "eps": 1e-06,
    "ffn_dim": 8960,
    "freq_dim": 256,
    "in_dim": 16,
    "num_heads": 12,
    "num_layers": 30,
    "out_dim": 16,
    "text_len": 512,
}
LARGE = Machine("H200", 139 * GIB, 100 * GIB)


def write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> None:
    """A safetensors file of bf16 zeros that takes no room on disk, whatever its size."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[prefix + name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def place(folder: Path, name: str, suffix: str = ".safetensors") -> Path:
    part = next(part for part in PARTS if part.name == name)
    return folder / next(place for place in part.places if place.endswith(suffix))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete checkpoint folder of full-size files without values."""
    write_sparse(place(tmp_path, "generator"), EXPECTED["generator"](), prefix="model.")
    for name in ("tiny_vae", "wan_vae", "text_encoder", "base"):
        write_sparse(place(tmp_path, name), EXPECTED[name]())
    config = place(tmp_path, "generator_config", ".json")
    config.write_text(json.dumps(WAN_CONFIG))
    tokenizer = place(tmp_path, "tokenizer", "umt5-xxl")
    tokenizer.mkdir(parents=True)
    (tokenizer / "tokenizer.json").write_text("{}")
    return tmp_path


def states(report: checkpoints.FolderReport) -> dict[str, str]:
    return {part.name: part.state for part in report.parts}


def test_a_complete_folder_is_allowed(folder: Path) -> None:
    report = inspect_folder(folder, LARGE, digest=False)
    assert set(states(report).values()) == {"ok"}
    counts = {part.name: (part.tensors, part.parameters) for part in report.parts if part.tensors}
    assert counts == {
        "generator": (825, 1_419_119_680),
        "base": (825, 1_419_119_680 - 122_880),
        "wan_vae": (194, 126_892_531),
        "text_encoder": (242, 5_680_910_336),
        "tiny_vae": (128, 11_315_539),
    }
    assert report.verdict.decision == "allow"
    assert report.verdict.needed == sum(report.verdict.terms.values())
    assert report.verdict.terms["key-value cache"] == 2_587_852_800


def test_the_folder_above_checkpoints_will_do(folder: Path, tmp_path: Path) -> None:
    above = tmp_path.parent / f"{tmp_path.name}_above"
    above.mkdir()
    folder.rename(above / "checkpoints")
    assert "ok" in states(inspect_folder(above, LARGE, digest=False)).values()


def test_the_newer_generator_is_found_too(folder: Path) -> None:
    old = place(folder, "generator")
    old.rename(old.with_name("InSpatio-World-1.5-1.3B.safetensors"))
    report = inspect_folder(folder, LARGE, digest=False)
    assert states(report)["generator"] == "ok"
    assert report.parts[0].path.endswith("1.5-1.3B.safetensors")


def test_missing_and_wrong_files_are_told_apart(folder: Path) -> None:
    place(folder, "text_encoder").unlink()
    shapes = dict(EXPECTED["wan_vae"]())
    removed = next(iter(shapes))
    del shapes[removed]
    write_sparse(place(folder, "wan_vae"), shapes)
    cut = place(folder, "base")
    with cut.open("r+b") as file:
        file.truncate(cut.stat().st_size - 1)
    (place(folder, "tokenizer", "umt5-xxl") / "tokenizer.json").unlink()
    place(folder, "generator_config", ".json").write_text("{}")
    report = inspect_folder(folder, LARGE, digest=False)
    parts = {part.name: part for part in report.parts}
    assert parts["generator_config"].state == "wrong"
    assert "no description of a Wan model" in parts["generator_config"].detail
    assert parts["text_encoder"].state == "missing"
    assert "models_t5_umt5-xxl-enc-bf16" in parts["text_encoder"].detail
    assert parts["wan_vae"].state == "wrong"
    assert parts["wan_vae"].detail == f"1 missing: {removed}"
    assert parts["base"].state == "wrong"
    assert "not a complete safetensors" in parts["base"].detail
    assert parts["tokenizer"].state == "wrong"
    assert report.wrong
    assert report.verdict.decision == "degrade"  # the generator and one codec are whole


def test_a_generator_of_another_width_is_wrong(folder: Path) -> None:
    shapes = dict(EXPECTED["generator"]())
    shapes["patch_embedding.weight"] = (1536, 16, 1, 2, 2)
    write_sparse(place(folder, "generator"), shapes)
    report = inspect_folder(folder, LARGE, digest=False)
    assert "[1536, 16, 1, 2, 2] instead of [1536, 36, 1, 2, 2]" in report.parts[0].detail
    assert report.verdict.decision == "deny"
    assert "generator" in report.verdict.reason


def test_a_published_tiny_autoencoder_with_512_rows_is_right(folder: Path) -> None:
    shapes = dict(EXPECTED["tiny_vae"]())
    shapes["decoder.7.conv.weight"] = (512, 256, 1, 1)
    write_sparse(place(folder, "tiny_vae"), shapes)
    assert states(inspect_folder(folder, LARGE, digest=False))["tiny_vae"] == "ok"


def test_digest_of_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = place(tmp_path, "tiny_vae", ".pth")
    path.parent.mkdir(parents=True)
    torch.save({n: t.half() for n, t in TinyVAE().state_dict().items()}, path)
    report = inspect_folder(tmp_path, LARGE)
    (tiny,) = (part for part in report.parts if part.name == "tiny_vae")
    assert (tiny.state, len(tiny.sha256), tiny.tensors) == ("ok", 64, 128)


def test_a_tokenizer_has_a_digest_of_all_its_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (part,) = (part for part in PARTS if part.name == "tokenizer")
    path = folder / part.places[0]
    before = checkpoints.inspect_part(part, path).sha256
    (path / "special_tokens_map.json").write_text("{}")
    assert len(before) == 64
    assert checkpoints.inspect_part(part, path).sha256 != before


def test_a_small_model_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "small"
    config = ModelConfig(
        dim=32, ffn_dim=48, num_heads=2, num_layers=1, freq_dim=16, text_dim=8, text_len=4,
        height=32, width=32, codec="small_codec", first_frames=4,
    )  # fmt: skip
    weights.save_small_model(folder, CausalTransformer(config), SmallCodec())
    report = inspect_folder(folder, LARGE)
    assert states(report) == {"config": "ok", "transformer": "ok", "codec": "ok"}
    assert all(len(part.sha256) == 64 for part in report.parts)
    assert report.verdict.decision == "allow"
    assert inspect_folder(folder, Machine("cpu", GIB // 8, GIB)).verdict.decision == "deny"
    (folder / "codec.safetensors").unlink()
    (folder / "config.json").write_text(config.to_json().replace('"dim": 32', '"dim": 64'))
    report = inspect_folder(folder, LARGE)
    assert states(report) == {"config": "ok", "transformer": "wrong", "codec": "missing"}
    assert report.verdict.decision == "deny"


ALL = {"generator": 1_419_119_680, "tiny_vae": 11_315_539, "wan_vae": 126_892_531}
TEXT = {"text_encoder": 5_680_910_336, "tokenizer": 0}


@pytest.mark.parametrize(
    ("parameters", "machine", "decision"),
    [
        (ALL | TEXT, LARGE, "allow"),
        (ALL | TEXT, Machine("RTX 4080", 15 * GIB, 64 * GIB), "degrade"),
        (ALL, LARGE, "degrade"),
        (ALL | {"text_encoder": 5_680_910_336}, LARGE, "degrade"),
        (ALL | TEXT, Machine("small", 9 * GIB, 64 * GIB), "degrade"),
        (ALL | TEXT, Machine("smaller", 6 * GIB, 64 * GIB), "deny"),
        (ALL | TEXT, Machine("cpu", 64 * GIB, 64 * GIB), "degrade"),
        (ALL | TEXT, Machine("cpu", 4 * GIB, 4 * GIB), "deny"),
        (TEXT, LARGE, "deny"),
        ({"generator": 1_419_119_680}, LARGE, "deny"),
        ({}, LARGE, "deny"),
    ],
)
def test_verdicts(parameters: dict[str, int], machine: Machine, decision: str) -> None:
    verdict = judge(parameters, machine)
    assert verdict.decision == decision
    assert verdict.reason
    if decision == "degrade":
        assert verdict.given_up
    if decision != "deny":
        assert verdict.needed <= machine.free


def test_a_text_encoder_too_large_for_the_host_is_named() -> None:
    verdict = judge(ALL | TEXT, Machine("RTX 4090", 12 * GIB, 8 * GIB))
    assert verdict.decision == "degrade"
    assert any("stored embeddings" in cut for cut in verdict.given_up)


def test_without_a_text_encoder_stored_prompts_remain() -> None:
    verdict = judge(ALL, LARGE)
    assert verdict.given_up == (
        "new prompts: no text encoder with its tokenizer, only stored embeddings",
    )


def test_what_is_missing_is_counted_at_its_published_size() -> None:
    verdict = judge({}, LARGE)
    assert verdict.terms["generator"] == 2 * 1_419_119_680
    assert verdict.needed == sum(verdict.terms.values()) > 7e9


def test_this_machine_has_free_memory() -> None:
    machine = Machine.here()
    assert machine.free > 0
    assert checkpoints.free_host_memory() > 0


def test_a_folder_is_loaded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    sizes = {"dim": 32, "ffn_dim": 48, "num_heads": 2, "num_layers": 1, "freq_dim": 16}
    others = {"text_len": 4, "eps": 1e-6, "in_dim": 16, "out_dim": 16, "text_dim": 8}
    config = place(tmp_path, "generator_config", ".json")
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({**sizes, **others}))
    generator = CausalTransformer(ModelConfig.from_reference({**sizes, **others, "in_dim": 36}))
    for name, module in (("generator", generator), ("tiny_vae", TinyVAE())):
        path = place(tmp_path, name)
        path.parent.mkdir(parents=True)
        save_file(dict(module.state_dict()), path)
    loaded = checkpoints.load_checkpoint(tmp_path, dtype=torch.float32)
    assert (loaded.config.dim, loaded.config.in_dim, loaded.config.codec) == (32, 36, "tiny_vae")
    assert loaded.codec.name == "tiny_vae"
    assert set(loaded.digests) == {"generator", "tiny_vae"}
    with pytest.raises(TextError, match="no stored embedding"):
        loaded.text.embed("a hall")
    with pytest.raises(WeightsError, match="missing wan_vae"):
        checkpoints.load_checkpoint(tmp_path, codec="wan_vae")


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_the_command_prints_text_and_json(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "here", staticmethod(lambda: LARGE))
    assert run("check", str(folder), "--no-digest") == command.OK
    text = capsys.readouterr().out
    assert "allow" in text
    assert "825 tensors, 1,419,119,680 parameters" in text
    assert "GiB  needed" in text
    assert run("check", str(folder), "--json", "--no-digest") == command.OK
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"]["decision"] == "allow"
    assert document["parts"][0]["name"] == "generator"


def test_the_exit_status_tells_broken_from_lacking(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place(folder, "generator").unlink()
    assert run("check", str(folder), "--no-digest") == command.DENIED
    assert "deny: missing: generator" in capsys.readouterr().out
    place(folder, "wan_vae").write_bytes(b"no weights")
    assert run("check", str(folder), "--no-digest") == command.BAD_FILES
    with pytest.raises(WeightsError, match="no such folder"):
        run("check", str(tmp_path / "absent"))
