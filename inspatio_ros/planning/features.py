# SPDX-License-Identifier: Apache-2.0
"""What a learned scorer reads of candidates: their terms and an embedding of their imagined views.

After DrivoR (arXiv 2601.05083), whose scorer reads the proposals together with tokens of the
cameras; here each proposal has tokens of the views that would be seen along it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inspatio_ros.imagination.request import ImaginedFrame
from inspatio_ros.planning.candidates import Candidate
from inspatio_ros.planning.scores import Ranking
from inspatio_ros.planning.terms import TERMS

if TYPE_CHECKING:
    from inspatio_ros.model.codec import VideoCodec

Float = npt.NDArray[np.float32]

# Rows and columns of the picture that are pooled apart: left and right matter to a driver.
POOL = (2, 4)
VERSION = 1


@dataclass(frozen=True, eq=False)
class CandidateFeatures:
    """Arrays of K candidates.

    ids [K]; poses float32 [K, 8, 3]: NAVSIM's x, y, heading; terms float32 [K, T] in the order of
    `TERMS`, NaN where not evaluated; uncertainty, unknown_ratio, score float32 [K]; embedding
    float32 [K, D]: the codec's latents of the imagined views, NaN without views. Raises ValueError
    when their lengths differ.
    """

    ids: tuple[str, ...]
    poses: Float
    terms: Float
    uncertainty: Float
    unknown_ratio: Float
    score: Float
    embedding: Float

    def __post_init__(self) -> None:
        count = len(self.ids)
        for name, shape in (("poses", (count, 8, 3)), ("terms", (count, len(TERMS))),
                            ("uncertainty", (count,)), ("unknown_ratio", (count,)),
                            ("score", (count,))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"features: {name} has shape {getattr(self, name).shape}, "
                                 f"expected {shape}")
        if self.embedding.ndim != 2 or len(self.embedding) != count:
            raise ValueError(f"features: embedding has shape {self.embedding.shape}")

    def write(self, path: Path) -> None:
        """As one npz: these arrays by name, `term_names` and `version`."""
        np.savez(path, version=np.int64(VERSION), ids=np.array(self.ids, np.str_),
                 term_names=np.array(TERMS, np.str_), poses=self.poses, terms=self.terms,
                 uncertainty=self.uncertainty, unknown_ratio=self.unknown_ratio, score=self.score,
                 embedding=self.embedding)

    @staticmethod
    def read(path: Path) -> CandidateFeatures:
        """Features that `write` wrote. Raises ValueError naming the file when it is none, or when
        its terms are others."""
        try:
            with np.load(path, allow_pickle=False) as held:
                names = tuple(map(str, held["term_names"]))
                if int(held["version"]) != VERSION or names != TERMS:
                    raise ValueError(f"version {int(held['version'])} with terms {names}, not "
                                     f"version {VERSION} with {TERMS}")
                return CandidateFeatures(
                    tuple(map(str, held["ids"])), held["poses"], held["terms"],
                    held["uncertainty"], held["unknown_ratio"], held["score"], held["embedding"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: no candidate features: {error}") from error


def candidate_features(
    candidates: Sequence[Candidate], ranking: Ranking,
    views: Mapping[str, Sequence[ImaginedFrame]], codec: VideoCodec,
) -> CandidateFeatures:
    """Features of candidates from their scores and from the views along them, by id.

    The views are what `CandidateScorer.on_views` gets, all of one size.
    """
    width = codec.latent_channels * POOL[0] * POOL[1]
    scores = [ranking.of(candidate.id) for candidate in candidates]
    embedding = np.full((len(candidates), width), np.nan, np.float32)
    for row, candidate in enumerate(candidates):
        frames = views.get(candidate.id, ())
        if frames:
            embedding[row] = view_embedding(frames, codec)

    def column(values: list[float]) -> Float:
        return np.array(values, np.float32)

    return CandidateFeatures(
        tuple(c.id for c in candidates),
        np.stack([c.to_navsim() for c in candidates]) if candidates else np.zeros(
            (0, 8, 3), np.float32),
        np.array([[s.terms[name] for name in TERMS] for s in scores], np.float32).reshape(
            -1, len(TERMS)),
        column([s.uncertainty for s in scores]), column([s.unknown_ratio for s in scores]),
        column([s.score for s in scores]), embedding)


def view_embedding(frames: Sequence[ImaginedFrame], codec: VideoCodec) -> Float:
    """float32 [C · 8]: the codec's latents of a clip, mean over time and over 2 x 4 parts.

    Channel by channel; of each the parts row by row. Pictures are brought to whole latents.
    """
    import torch
    import torch.nn.functional as functional

    from inspatio_ros.imagination.generator import resized_picture
    from inspatio_ros.model.codec import frames_from_uint8

    stride = codec.spatial_stride * 4
    height, width = frames[0].image.shape[:2]
    size = (max(1, round(width / stride)) * stride, max(1, round(height / stride)) * stride)
    modules: Any = codec
    parameter = next(iter(modules.parameters()))
    with torch.inference_mode():
        pictures = frames_from_uint8([resized_picture(f.image, size) for f in frames],
                                     parameter.device).to(parameter.dtype)
        latents = codec.encode(pictures)[0].float().mean(0, keepdim=True)
        pooled = functional.adaptive_avg_pool2d(latents, POOL)
    return np.asarray(pooled.reshape(-1).cpu().numpy(), np.float32)
