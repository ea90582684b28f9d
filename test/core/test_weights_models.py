# SPDX-License-Identifier: Apache-2.0
"""Loading whole models: published key tables, the generator's files, the small model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inspatio_ros.model import weights
from inspatio_ros.model.checkpoints import PARTS
from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.presets import INSPATIO_WORLD_1_3B
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.text_encoder import UMT5Encoder, UMT5Sizes
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.wan_vae import WanVAE
from inspatio_ros.model.weights import WeightsError
from support.fixtures import DEFAULT_FIXTURE

CONFIG = ModelConfig(
    name="test",
    dim=32,
    ffn_dim=48,
    num_heads=2,
    num_layers=2,
    freq_dim=16,
    text_dim=8,
    text_len=4,
    height=32,
    width=32,
    first_frames=4,
    codec="small_codec",
)
TABLES = {
    "generator": "InSpatio-World-1.3B",
    "wan_vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16",
    "tiny_vae": "taew2_1.pth",
}


@pytest.mark.parametrize("name", TABLES)
def test_published_keys_and_shapes_parity(name: str) -> None:
    path = DEFAULT_FIXTURE.with_name("reference_state_dict_keys.json")
    if not path.is_file():
        pytest.skip(f"no key tables at {path}")
    tables = json.loads(path.read_text())
    (stored,) = (table for title, table in tables.items() if title.startswith(TABLES[name]))
    (part,) = (part for part in PARTS if part.name == name)
    assert part.expected is not None
    ours = {key: list(shape) for key, shape in part.expected().items()}
    assert ours == stored["shapes"]
    assert len(ours) == stored["tensors"]


def model(config: ModelConfig = CONFIG) -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(config).eval().requires_grad_(False)


def plain(name: str) -> str:
    return name


def wrapped(name: str) -> str:
    return f"model.{name}"


def sharded(name: str) -> str:
    return f"model._fsdp_wrapped_module.{name}".replace("blocks.0.", f"blocks.0.{weights.FSDP}")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", [plain, wrapped, sharded])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_generator_loads_with_and_without_prefixes(
    tmp_path: Path, suffix: str, prefix: Callable[[str], str], dtype: torch.dtype
) -> None:
    source = model()
    tensors = {prefix(name): t.to(dtype) for name, t in source.state_dict().items()}
    path = tmp_path / f"generator{suffix}"
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    loaded = weights.load_generator(path, CONFIG, dtype=torch.float32)
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(dtype).float()), name


def test_a_generator_of_another_width_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "generator.safetensors"
    save_file(dict(model(replace(CONFIG, dim=64)).state_dict()), path)
    with pytest.raises(WeightsError, match="of another shape: patch_embedding.weight") as caught:
        weights.load_generator(path, CONFIG)
    assert "more" in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_a_part_of_the_prefixes_is_refused(tmp_path: Path) -> None:
    tensors = dict(model().state_dict())
    tensors["model.head.modulation"] = tensors.pop("head.modulation")
    path = tmp_path / "generator.safetensors"
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="1 missing: head.modulation; 1 not expected: model.he"):
        weights.load_generator(path, CONFIG)


def test_the_base_gets_empty_condition_channels(tmp_path: Path) -> None:
    base = model(replace(CONFIG, conditioned=False))
    path = tmp_path / "base.safetensors"
    save_file(dict(base.state_dict()), path)
    same = weights.load_base(path, base.config, dtype=torch.float32)
    wide = weights.load_base(path, CONFIG, dtype=torch.float32)
    narrow = base.state_dict()["patch_embedding.weight"]
    assert torch.equal(same.state_dict()["patch_embedding.weight"], narrow)
    weight = wide.state_dict()["patch_embedding.weight"]
    assert weight.shape[1] == CONFIG.in_dim
    assert torch.equal(weight[:, : CONFIG.latent_channels], narrow)
    assert torch.count_nonzero(weight[:, CONFIG.latent_channels :]) == 0
    save_file(dict(model().state_dict()), path)
    with pytest.raises(WeightsError, match="patch_embedding.weight"):
        weights.load_base(path, CONFIG)


WAN_CONFIG = {
    "_class_name": "WanModel",
    "dim": 1536,
    "eps": 1e-06,
    "ffn_dim": 8960,
    "freq_dim": 256,
    "in_dim": 16,
    "model_type": "t2v",
    "num_heads": 12,
    "num_layers": 30,
    "out_dim": 16,
    "text_len": 512,
}


def test_sizes_come_from_the_wan_folder(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(WAN_CONFIG))
    assert weights.generator_config(path) == INSPATIO_WORLD_1_3B
    assert weights.generator_config(path, conditioned=False).in_dim == 16
    for content in ("{", "[]", "{}", json.dumps({**WAN_CONFIG, "num_heads": 7})):
        path.write_text(content)
        with pytest.raises(WeightsError, match="no description of a Wan model"):
            weights.generator_config(path)
    with pytest.raises(WeightsError, match="no such file"):
        weights.generator_config(tmp_path / "absent.json")


def small_codec() -> SmallCodec:
    return SmallCodec(SmallCodecConfig(frame_width=8, group_width=16)).eval()


def test_the_small_model_survives_a_round_trip(tmp_path: Path) -> None:
    source, codec = model(), small_codec()
    weights.save_small_model(tmp_path / "tiny", source, codec)
    loaded, loaded_codec = weights.load_small_model(tmp_path / "tiny")
    assert loaded.config == CONFIG
    assert loaded_codec.config == codec.config
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_half_precision_halves_the_small_model(tmp_path: Path) -> None:
    codec = small_codec()
    codec.set_latent_statistics(torch.full((16,), 1 / 3), torch.full((16,), 1.7))
    sizes = []
    for dtype in (torch.float32, torch.float16):
        folder = tmp_path / str(dtype)
        weights.save_small_model(folder, model(), codec, dtype)
        loaded, loaded_codec = weights.load_small_model(folder)
        assert loaded.dtype == loaded_codec.dtype == torch.float32
        assert torch.equal(loaded_codec.latent_mean, codec.latent_mean)
        sizes.append(sum(file.stat().st_size for file in folder.glob("*.safetensors")))
    assert sizes[1] < 0.6 * sizes[0]


def test_a_damaged_small_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="made for"):
        weights.save_small_model(tmp_path, model(replace(CONFIG, codec="wan_vae")), small_codec())
    weights.save_small_model(tmp_path, model(), small_codec())
    description = tmp_path / weights.CONFIG_FILE
    good = description.read_text()
    description.write_text(good.replace('"dim": 32', '"dim": 64'))
    with pytest.raises(WeightsError, match="another shape"):
        weights.load_small_model(tmp_path)
    description.write_text("nonsense")
    with pytest.raises(WeightsError, match="no description of a model"):
        weights.load_small_model(tmp_path)
    description.unlink()
    with pytest.raises(WeightsError, match="no such file"):
        weights.load_small_model(tmp_path)


def test_the_wan_vae_loads_from_a_torch_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = weights.shapes_of(WanVAE())
    tensors = {n: torch.zeros(()).expand(shape).to(torch.bfloat16) for n, shape in shapes.items()}
    path = tmp_path / "Wan2.1_VAE.pth"
    torch.save(tensors, path)
    loaded = weights.load_wan_vae(path, reference_cache=True, dtype=torch.bfloat16)
    assert loaded.config.reference_cache
    assert loaded.dtype == torch.bfloat16
    latents = loaded.encode(torch.zeros(1, 1, 3, 16, 16))
    assert latents.dtype == torch.bfloat16
    assert loaded.decode(latents).shape == (1, 1, 3, 16, 16)


def test_the_text_encoder_names_what_is_missing(tmp_path: Path) -> None:
    sizes = UMT5Sizes(40, 16, 16, 24, 2, 1)
    encoder = UMT5Encoder(sizes)
    names = encoder.names_in_file()
    state = encoder.state_dict()
    tensors = {published: state[name].contiguous() for published, name in names.items()}
    del tensors["blocks.0.attn.q.weight"]
    path = tmp_path / "umt5.safetensors"
    save_file(tensors, path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="1 missing: .*SelfAttention.q.weight"):
        weights.load_strict(encoder, encoder.from_published(weights.read_tensors(path)), path)
