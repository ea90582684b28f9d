# SPDX-License-Identifier: Apache-2.0
"""Captions with a tiny randomly initialised Florence-2: real classes, made-up weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inspatio_ros.captioning import TASK, CaptionCache, Captioner, CaptionError

DARK = np.zeros((30, 40, 3), np.uint8)
BRIGHT = np.full((30, 40, 3), 200, np.uint8)


def _tokenizer() -> Any:
    """One token a printable character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*special, *(chr(code) for code in range(33, 127)), "\u0120"]
    core = Tokenizer(models.BPE(
        vocab={word: i for i, word in enumerate(words)}, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", extra_special_tokens={"image_token": "<image>"})


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Florence-2."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="4.56")
    tokenizer = _tokenizer()
    vision = {"embed_dim": [8, 8, 8, 16], "num_heads": [1, 1, 1, 2], "num_groups": [1, 1, 1, 2],
              "depths": [1, 1, 1, 1], "window_size": 4, "projection_dim": 16,
              "max_temporal_embeddings": 4, "max_position_embeddings": 50}
    text = {"model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16,
            "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
            "max_position_embeddings": 600, "pad_token_id": 1, "bos_token_id": 0,
            "eos_token_id": 2, "decoder_start_token_id": 2}
    torch.manual_seed(0)
    model = transformers.Florence2ForConditionalGeneration(transformers.Florence2Config(
        vision_config=vision, text_config=text, image_token_id=tokenizer.image_token_id))
    pictures = transformers.CLIPImageProcessor(
        size={"height": 64, "width": 64}, crop_size={"height": 64, "width": 64},
        do_center_crop=False, resample=3)
    pictures.image_seq_length = 5
    processor = transformers.Florence2Processor(
        image_processor=pictures, tokenizer=tokenizer, post_processor_config={"pure_text": {}})
    folder = tmp_path_factory.mktemp("florence")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def captioner(florence: Path) -> Captioner:
    """A captioner that stops after 12 tokens."""
    return Captioner(florence, device="cpu", max_new_tokens=12, batch_size=2)


def test_a_caption_for_each_picture_in_order(captioner: Captioner) -> None:
    captions = captioner.caption([DARK, BRIGHT, DARK])
    assert len(captions) == 3
    assert all(isinstance(text, str) for text in captions)
    # Batches of two and of one: the same picture gives the same words.
    assert captions[0] == captions[2]
    assert not any(mark in text for text in captions for mark in ("<s>", "</s>", "<pad>"))
    assert captioner.caption([]) == []


def test_the_task_is_the_reference_s(captioner: Captioner,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    processor = captioner._processor

    class Recorder:
        def __call__(self, **inputs: Any) -> Any:
            asked.append(inputs["text"])
            return processor(**inputs)

        def __getattr__(self, name: str) -> Any:
            return getattr(processor, name)

    monkeypatch.setattr(captioner, "_processor", Recorder())
    captioner.caption([DARK])
    assert asked == [["<MORE_DETAILED_CAPTION>"]]
    assert TASK == "<MORE_DETAILED_CAPTION>"


def test_missing_or_foreign_folders_are_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(CaptionError, match=r"no config\.json.*Florence-2"):
        Captioner(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CaptionError, match="not a Florence-2 checkpoint"):
        Captioner(tmp_path, device="cpu")


def test_remote_code_is_never_run(florence: Path, tmp_path: Path) -> None:
    for file in florence.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoProcessor": "evil.Processor", "AutoModel": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()")
    Captioner(tmp_path, device="cpu", max_new_tokens=2).caption([DARK])
    assert not mark.exists()


def test_the_cache_knows_pictures_by_content_and_models_apart(tmp_path: Path) -> None:
    file = tmp_path / "captions.json"
    cache = CaptionCache(file, "one")
    assert cache.get(DARK) is None
    cache.put(DARK, "a dark room")
    assert cache.get(DARK.copy()) == "a dark room"
    assert cache.get(BRIGHT) is None
    assert cache.get(DARK.reshape(40, 30, 3)) is None
    assert CaptionCache(file, "one").get(DARK) == "a dark room"
    assert CaptionCache(file, "two").get(DARK) is None
    assert not list(tmp_path.glob("*.part"))


def test_the_cache_is_bounded_oldest_out_first(tmp_path: Path) -> None:
    cache = CaptionCache(tmp_path / "captions.json", "one", capacity=2)
    pictures = [np.full((2, 2, 3), value, np.uint8) for value in range(3)]
    for value, picture in enumerate(pictures):
        cache.put(picture, str(value))
    assert [cache.get(picture) for picture in pictures] == [None, "1", "2"]


@pytest.mark.parametrize("content", ["{broken", "[1, 2]"])
def test_a_broken_cache_says_what_to_do(tmp_path: Path, content: str) -> None:
    file = tmp_path / "captions.json"
    file.write_text(content)
    with pytest.raises(CaptionError, match="delete it"):
        CaptionCache(file, "one")
