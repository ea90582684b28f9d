# SPDX-License-Identifier: Apache-2.0
"""Prompts: cleaning, tokens, stored embeddings, the constant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from inspatio_ros.model.text_encoder import (
    CachedText,
    ConstantText,
    EmbeddingStore,
    PromptTokenizer,
    TextEncoder,
    TextError,
    UMT5Encoder,
    UMT5Sizes,
    clean_prompt,
)

SIZES = UMT5Sizes(vocabulary=40, width=16, attention_width=16, feed_forward=24, heads=2, layers=1)


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  a  hall \n with\tchairs ", "a hall with chairs"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("a &lt;b&gt; c", "a <b> c"),
        ("", ""),
    ],
)
def test_prompts_are_cleaned(prompt: str, cleaned: str) -> None:
    assert clean_prompt(prompt) == cleaned


def test_broken_unicode_is_mended() -> None:
    pytest.importorskip("ftfy")
    assert clean_prompt("cafÃ© noir") == "café noir"


def test_a_prompt_must_be_text() -> None:
    with pytest.raises(TextError, match="must be text"):
        clean_prompt(b"bytes")  # type: ignore[arg-type]


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A word-level tokenizer in the files that a checkpoint folder has."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = ["<pad>", "</s>", "<unk>", "a", "hall", "with", "chairs"]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    core = tokenizers.Tokenizer(model)
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path / "umt5")
    return tmp_path / "umt5"


def test_tokens_are_padded_and_truncated(tokenizer_folder: Path) -> None:
    tokenizer = PromptTokenizer(tokenizer_folder, length=6)
    ids, mask = tokenizer("  a hall\n")
    assert ids.tolist() == [[3, 4, 1, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0]]
    ids, mask = tokenizer("a hall with chairs with chairs a hall")
    assert ids.shape == (1, 6)
    assert mask.tolist() == [[1] * 6]


def test_prompt_to_embedding(tokenizer_folder: Path) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(UMT5Encoder(SIZES), PromptTokenizer(tokenizer_folder, length=8))
    one, other = encoder.embed("a hall"), encoder.embed("a hall with chairs")
    assert one.shape == (1, 8, 16)
    assert torch.count_nonzero(one[:, 3:]) == 0
    assert not torch.equal(one[:, :3], other[:, :3])
    assert torch.equal(encoder.embed(" a   hall "), one)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="umt5-xxl"):
        PromptTokenizer(tmp_path)


def test_tokens_of_another_vocabulary_are_refused() -> None:
    pytest.importorskip("transformers")
    encoder = TextEncoder(UMT5Encoder(SIZES), lambda prompt: (torch.ones(1, 4), torch.ones(1, 4)))
    with pytest.raises(TextError, match="do not belong together"):
        encoder.embed_tokens(torch.full((1, 4), 40), torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(TextError, match=r"\[B, L\]"):
        encoder.embed_tokens(torch.ones(1, 4, dtype=torch.long), torch.ones(4))


def test_the_constant_ignores_the_prompt() -> None:
    text = ConstantText(4, 8)
    assert torch.equal(text.embed("a"), torch.zeros(1, 4, 8))
    assert text.embed("b") is text.embed("a")
    with pytest.raises(TextError, match="positive"):
        ConstantText(0, 8)
    with pytest.raises(TextError, match="finite"):
        ConstantText(1, 2, torch.full((1, 1, 2), float("nan")))
    with pytest.raises(TextError, match=r"\[1, 4, 8\]"):
        ConstantText(4, 8, torch.zeros(1, 4, 7))


def test_embeddings_are_stored_by_prompt_and_encoder(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "embeddings")
    embedding = torch.randn(1, 4, 8).to(torch.bfloat16)
    assert store.load("a hall", "digest") is None
    store.save("a hall", "digest", embedding)
    stored = store.load("  a  hall ", "digest")
    assert stored is not None
    assert stored.dtype == torch.bfloat16
    assert torch.equal(stored, embedding)
    assert store.load("a hall", "another encoder") is None
    assert store.load("another prompt", "digest") is None


def test_the_store_is_bounded_and_drops_the_least_used(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, capacity=2)
    for age, prompt in enumerate(("oldest", "newer")):
        path = store.save(prompt, "digest", torch.zeros(1, 1, 1))
        os.utime(path, (age + 1, age + 1))
    assert store.load("oldest", "digest") is not None  # used, hence no longer the first to go
    store.save("newest", "digest", torch.zeros(1, 1, 1))
    assert store.evicted == 1
    assert store.load("newer", "digest") is None
    assert store.load("oldest", "digest") is not None


def test_a_damaged_embedding_counts_as_absent(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path)
    path = store.save("a hall", "digest", torch.zeros(1, 4, 8))
    path.write_bytes(path.read_bytes()[:-5])
    assert store.load("a hall", "digest") is None
    assert store.unreadable == 1
    assert not path.exists()


def test_an_embedding_under_a_wrong_name_is_refused(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path)
    store.save("a hall", "digest", torch.zeros(1, 4, 8)).replace(store.path("a yard", "digest"))
    with pytest.raises(TextError, match="another prompt"):
        store.load("a yard", "digest")


def test_bad_embeddings_are_not_stored(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path)
    with pytest.raises(TextError, match="not finite"):
        store.save("a", "digest", torch.full((1, 1, 1), float("inf")))
    with pytest.raises(TextError, match=r"\[1, L, D\]"):
        store.save("a", "digest", torch.zeros(4, 8))
    with pytest.raises(TextError, match="capacity"):
        EmbeddingStore(tmp_path, capacity=0)


def test_the_encoder_is_loaded_for_a_new_prompt_only(tmp_path: Path) -> None:
    loaded = []

    def load() -> ConstantText:
        loaded.append(1)
        return ConstantText(2, 3, torch.ones(1, 2, 3))

    text = CachedText(EmbeddingStore(tmp_path), "digest", load)
    first = text.embed("a hall")
    assert torch.equal(text.embed("a hall"), first)
    assert len(loaded) == 1
    without = CachedText(EmbeddingStore(tmp_path), "digest", None)
    assert torch.equal(without.embed("a hall"), first)
    with pytest.raises(TextError, match="no stored embedding"):
        without.embed("a yard")
    any_encoder = CachedText(EmbeddingStore(tmp_path), None, None)
    assert torch.equal(any_encoder.embed("a hall"), first)
    with pytest.raises(TextError, match="no stored embedding"):
        any_encoder.embed("a yard")
    with pytest.raises(TextError, match="needs a digest"):
        CachedText(EmbeddingStore(tmp_path), None, load)
