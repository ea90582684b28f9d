# SPDX-License-Identifier: Apache-2.0
"""Captions of pictures by Florence-2, through transformers' own classes (no remote code)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

# The task whose answers the public InSpatio-World release prompts its model with.
TASK = "<MORE_DETAILED_CAPTION>"
MAX_NEW_TOKENS = 1024


class CaptionError(RuntimeError):
    """The captioner cannot be loaded or run; names the folder and the fix."""


class Captioner:
    """Describes pictures in words; greedy, one beam, as the reference does.

    folder: a local Florence-2 checkpoint in transformers' layout (config.json, safetensors,
    tokenizer and preprocessor files). device, dtype: torch's, by default the GPU in half
    precision where there is one. Raises CaptionError when the folder is not complete or
    transformers is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int = 8,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        import torch

        try:
            from transformers import AutoProcessor, Florence2ForConditionalGeneration
        except ImportError as error:
            raise CaptionError(
                "captions need transformers with Florence-2 (4.56 or newer): "
                f"pip install 'inspatio_ros[text]' ({error})") from error
        root = Path(folder)
        if not (root / "config.json").is_file():
            raise CaptionError(
                f"{root}: no config.json; put a Florence-2 checkpoint there "
                "(florence-community/Florence-2-large), or give a prompt instead")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        half = torch.float16 if self.device.type == "cuda" else torch.float32
        chosen: Any = getattr(torch, dtype) if dtype else half
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens
        try:
            load_processor: Any = AutoProcessor.from_pretrained
            self._processor = load_processor(
                root, local_files_only=True, trust_remote_code=False)
            model: Any = Florence2ForConditionalGeneration.from_pretrained(
                root, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                dtype=chosen)
        except (OSError, ValueError, KeyError) as error:
            raise CaptionError(f"{root}: not a Florence-2 checkpoint: {error}") from error
        self._model = model.to(self.device).eval()
        self.dtype = chosen

    def caption(self, images: Sequence[Image]) -> list[str]:
        """One caption for each picture uint8 RGB [H, W, 3], in order."""
        captions: list[str] = []
        for start in range(0, len(images), self._batch_size):
            captions += self._caption_batch(images[start:start + self._batch_size])
        return captions

    def _caption_batch(self, images: Sequence[Image]) -> list[str]:
        import torch

        inputs = self._processor(text=[TASK] * len(images), images=list(images),
                                 return_tensors="pt", padding=True).to(self.device, self.dtype)
        with torch.inference_mode():
            tokens = self._model.generate(
                **inputs, max_new_tokens=self._max_new_tokens, do_sample=False, num_beams=1)
        texts = self._processor.batch_decode(tokens, skip_special_tokens=False)
        return [self._clean(text, image) for text, image in zip(texts, images, strict=True)]

    def _clean(self, text: str, image: Image) -> str:
        size = (image.shape[1], image.shape[0])
        answer = self._processor.post_process_generation(
            text.replace("<pad>", ""), task=TASK, image_size=size)
        return str(answer[TASK]).strip()


class CaptionCache:
    """Captions by picture content in one JSON file, so that no picture is described twice.

    path: the file; made when first written. model: what the captions come from; captions of
    another model are not used. Holds at most `capacity` entries, oldest out first.
    """

    def __init__(self, path: str | Path, model: str, capacity: int = 10_000) -> None:
        self._path = Path(path)
        self._model = model
        self._capacity = capacity
        self._captions: dict[str, str] = {}
        if self._path.is_file():
            try:
                held = json.loads(self._path.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise CaptionError(
                    f"{self._path}: not JSON ({error}); delete it to start anew") from error
            if not isinstance(held, dict):
                raise CaptionError(f"{self._path}: not an object of captions; delete it to start "
                                   "anew")
            self._captions = {str(k): str(v) for k, v in held.items()}

    def _key(self, image: Image) -> str:
        digest = hashlib.sha256(f"{self._model}|{TASK}|{image.shape}".encode())
        digest.update(image.tobytes())
        return digest.hexdigest()

    def get(self, image: Image) -> str | None:
        """The caption of this very picture, or None."""
        return self._captions.get(self._key(image))

    def put(self, image: Image, caption: str) -> None:
        """Keep a caption and write the file."""
        self._captions[self._key(image)] = caption
        while len(self._captions) > self._capacity:
            del self._captions[next(iter(self._captions))]
        partial = self._path.with_suffix(self._path.suffix + ".part")
        partial.write_text(json.dumps(self._captions, indent=1, ensure_ascii=False),
                           encoding="utf-8")
        os.replace(partial, self._path)
