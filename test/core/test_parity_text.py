# SPDX-License-Identifier: Apache-2.0
"""The text encoder against tensors that the reference's own module made."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from inspatio_ros.model.text_encoder import TextEncoder, UMT5Encoder, UMT5Sizes
from inspatio_ros.model.weights import load_strict
from support.fixtures import ParityFixture, parity_fixture


def tensor(fixture: ParityFixture, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(fixture[name]))


@pytest.fixture(scope="module")
def encoder() -> UMT5Encoder:
    fixture = parity_fixture()
    stored = json.loads(fixture.metadata["t5"])["config"]
    sizes = UMT5Sizes(
        vocabulary=stored["vocab"],
        width=stored["dim"],
        attention_width=stored["dim_attn"],
        feed_forward=stored["dim_ffn"],
        heads=stored["num_heads"],
        layers=stored["num_layers"],
        buckets=stored["num_buckets"],
    )
    with torch.device("meta"):
        module = UMT5Encoder(sizes)
    prefix = "t5/state/"
    published = {n.removeprefix(prefix): tensor(fixture, n) for n in fixture.names(prefix)}
    return load_strict(module, module.from_published(published), "the fixture")


def test_text_encoder_parity(encoder: UMT5Encoder) -> None:
    fixture = parity_fixture()
    ids, mask = tensor(fixture, "t5/in/ids"), tensor(fixture, "t5/in/mask")
    hidden = encoder(ids, mask)
    torch.testing.assert_close(hidden, tensor(fixture, "t5/out/hidden"), rtol=0, atol=1e-5)


def test_positions_past_the_prompt_are_zero_parity(encoder: UMT5Encoder) -> None:
    fixture = parity_fixture()
    ids, mask = tensor(fixture, "t5/in/ids"), tensor(fixture, "t5/in/mask")
    embedding = TextEncoder(encoder, lambda prompt: (ids, mask)).embed("any")
    expected = tensor(fixture, "t5/out/hidden") * mask.unsqueeze(-1)
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-5)
    assert int(mask.sum()) < mask.numel()
    assert torch.count_nonzero(embedding[mask == 0]) == 0
