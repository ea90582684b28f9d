# SPDX-License-Identifier: Apache-2.0
"""Reading weights files: formats, prefixes, strictness, damaged and hostile files, digests."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from inspatio_ros.model import weights
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.tiny_vae import TinyVAE
from inspatio_ros.model.weights import WeightsError


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_formats_give_the_same_tensors(tmp_path: Path, suffix: str) -> None:
    tensors = dict(layer().state_dict())
    path = write(tmp_path / f"layer{suffix}", tensors)
    read = weights.read_tensors(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert weights.read_shapes(path) == {"weight": (2, 3), "bias": (2,)}


def test_torch_files_of_the_old_format_and_wrapped_ones(tmp_path: Path) -> None:
    tensors = OrderedDict(layer().state_dict())
    old = tmp_path / "old.pth"
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    assert torch.equal(weights.read_tensors(old)["weight"], tensors["weight"])
    for key in ("state_dict", "model"):
        wrapped = tmp_path / f"{key}.pth"
        torch.save({key: tensors, "step": 3}, wrapped)
        assert weights.read_shapes(wrapped) == {"weight": (2, 3), "bias": (2,)}


class Hostile:
    """Would create a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.target)!r}, 'w').close()",))


def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    path = tmp_path / "hostile.pth"
    torch.save({"weight": torch.zeros(2), "extra": Hostile(target)}, path)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Hostile(target)))
    for file in (path, plain):
        with pytest.raises(WeightsError, match="refused|not a complete"):
            weights.read_tensors(file)
        with pytest.raises(WeightsError, match="refused|not a complete"):
            weights.read_shapes(file)
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 5, 40, -10])
def test_a_cut_file_is_refused(tmp_path: Path, suffix: str, kept: int) -> None:
    path = write(tmp_path / f"layer{suffix}", dict(layer().state_dict()))
    path.write_bytes(path.read_bytes()[:kept])
    for read in (weights.read_tensors, weights.read_shapes):
        with pytest.raises(WeightsError, match=str(path)):
            read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_other_content_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_text("<html>403 Forbidden</html>" * 10)
    with pytest.raises(WeightsError, match=str(path)):
        weights.read_tensors(path)
    with pytest.raises(WeightsError, match="no such file"):
        weights.read_tensors(tmp_path / f"absent{suffix}")


def test_files_without_named_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(1)], path)
    with pytest.raises(WeightsError, match="holds a list"):
        weights.read_tensors(path)
    torch.save({"weight": torch.zeros(1), "step": 4}, path)
    with pytest.raises(WeightsError, match="1 entries are no tensors: step"):
        weights.read_tensors(path)


def test_prefixes_of_training_go() -> None:
    names = [
        "model._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.q.weight",
        "model.head.bias",
    ]
    assert list(weights.plain_names(names).values()) == ["blocks.0.q.weight", "head.bias"]
    assert list(weights.plain_names(["head.bias", "model.q"]).values()) == ["head.bias", "model.q"]
    assert weights.plain_names([]) == {}
    with pytest.raises(WeightsError, match="twice under different prefixes: q"):
        weights.plain_names(["model.q", "model._fsdp_wrapped_module.q"])


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn],
)
def test_any_float_format_is_cast(dtype: torch.dtype) -> None:
    source = layer()
    tensors = {name: value.to(dtype) for name, value in source.state_dict().items()}
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    loaded = weights.load_strict(module, tensors, "source", dtype=torch.float32)
    assert loaded.weight.dtype == torch.float32
    assert not loaded.weight.requires_grad
    assert not loaded.training
    torch.testing.assert_close(loaded.weight, source.weight, atol=0.05, rtol=0)
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    assert weights.load_strict(module, tensors, "source", dtype=None).weight.dtype == dtype


def test_every_difference_is_in_one_error() -> None:
    tensors = {"weight": torch.zeros(3, 2), "gain": torch.zeros(1)}
    with pytest.raises(WeightsError) as caught:
        weights.load_strict(layer(), tensors, "file.pth")
    text = str(caught.value)
    assert text.startswith("file.pth: does not fit Linear")
    assert "1 missing: bias" in text
    assert "1 not expected: gain" in text
    assert "1 of another shape: weight is [3, 2] instead of [2, 3]" in text


def test_the_list_of_differences_is_bounded() -> None:
    found = {f"extra{i}": (1,) for i in range(500)}
    (sentence,) = weights.differences(found, {})
    assert sentence.startswith("500 not expected: extra0, ")
    assert sentence.endswith(f"and {500 - weights.LISTED} more")
    assert len(sentence) < 200
    assert weights.differences({"a": (1, 2)}, {"a": (1, 2)}) == []


def test_integers_and_nan_are_refused() -> None:
    tensors = dict(layer().state_dict())
    with pytest.raises(WeightsError, match=r"1 not floating point: bias \(torch.int32\)"):
        weights.load_strict(layer(), {**tensors, "bias": torch.zeros(2, dtype=torch.int32)}, "x")
    with pytest.raises(WeightsError, match="1 tensors hold NaN or infinity: weight"):
        weights.load_strict(layer(), {**tensors, "weight": torch.full((2, 3), torch.nan)}, "x")
    large = {**tensors, "weight": torch.full((2, 3), 1e30)}
    with pytest.raises(WeightsError, match="NaN or infinity"):
        weights.load_strict(layer(), large, "x", dtype=torch.float16)


def test_a_refused_file_leaves_the_module_as_it_was() -> None:
    module = layer()
    before = module.weight.detach().clone()
    with pytest.raises(WeightsError):
        weights.load_strict(module, {"weight": torch.zeros(2, 3)}, "x")
    assert torch.equal(module.weight, before)


def test_the_small_codec_survives_a_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = SmallCodec(SmallCodecConfig(frame_width=8, group_width=16)).eval()
    codec.set_latent_statistics(torch.full((16,), 0.25), torch.full((16,), 2.0))
    path = tmp_path / "codec.safetensors"
    weights.save_small_codec(codec, path)
    loaded = weights.load_small_codec(path)
    assert loaded.config == codec.config
    frames = torch.rand(1, 5, 3, 16, 16) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(loaded.encode(frames), codec.encode(frames))


def test_another_file_is_no_small_codec(tmp_path: Path) -> None:
    path = write(tmp_path / "layer.safetensors", dict(layer().state_dict()))
    with pytest.raises(WeightsError, match="expected 'inspatio_ros small_codec'"):
        weights.load_small_codec(path)
    tensors = {"a": torch.zeros(1)}
    kind = {"kind": weights.SMALL_CODEC_KIND}
    save_file(tensors, path, metadata={**kind, "config": '{"depth": 3}'})
    with pytest.raises(WeightsError, match="sizes"):
        weights.load_small_codec(path)
    save_file(tensors, path, metadata={**kind, "config": "{}"})
    with pytest.raises(WeightsError, match="missing"):
        weights.load_small_codec(path)


@pytest.mark.parametrize("rows", [256, 512])
def test_the_tiny_autoencoder_loads_from_its_published_layout(tmp_path: Path, rows: int) -> None:
    torch.manual_seed(0)
    codec = TinyVAE().eval()
    tensors = dict(codec.state_dict())
    key = "decoder.7.conv.weight"
    if rows == 512:
        tensors[key] = torch.cat([torch.zeros_like(tensors[key]), tensors[key]])
    path = write(tmp_path / "taew2_1.pth", {n: t.half() for n, t in tensors.items()})
    loaded = weights.load_tiny_vae(path, chunk_latents=3)
    assert loaded.chunk_latents == 3
    torch.testing.assert_close(
        loaded.state_dict()[key], codec.state_dict()[key], atol=1e-3, rtol=0
    )


def test_digests_are_right_and_follow_the_file(tmp_path: Path) -> None:
    path, cache = tmp_path / "file", tmp_path / "cache" / "digests.json"
    path.write_bytes(b"one")
    assert weights.file_digest(path, cache) == hashlib.sha256(b"one").hexdigest()
    assert cache.is_file()
    assert weights.file_digest(path, cache) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"three")
    assert weights.file_digest(path, cache) == hashlib.sha256(b"three").hexdigest()
    cache.write_text("not json")
    assert weights.file_digest(path, cache) == hashlib.sha256(b"three").hexdigest()
    with pytest.raises(WeightsError, match="no such file"):
        weights.file_digest(tmp_path / "absent", cache)
