# SPDX-License-Identifier: Apache-2.0
"""Training of the finisher: what decoded pictures lack, in the holes above all.

The error is squared (which PSNR asks for) and absolute, on the pictures and on their gradients.
These reward blur, where nobody can know what is there. The strength of the gradients, octave by
octave and place by place, can be compared as well, whatever their phase (off by default: without
noise to make texture of, what satisfied it were stripes), and so can the features that a network
trained for something else finds in the pictures (Johnson et al. 2016, Zhang et al. 2018).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from inspatio_ros.evaluation.perceptual import FeatureNetwork
from inspatio_ros.model.finisher import Finisher, FinisherConfig
from inspatio_ros.model.weights import FINISHER_FILE, save_finisher
from inspatio_ros.training.clips import Clip, ClipError
from inspatio_ros.training.codec_trainer import gradient_difference, rate_at
from inspatio_ros.training.saving import load_state, save_state

Image = npt.NDArray[np.uint8]

# Grey levels of [-1, 1] added to strengths of gradients before their logarithm: what 8 bits hide.
_STRENGTH_FLOOR = 0.006
_OCTAVES = 3
_WINDOW = 8  # pixels of each octave over which strengths are averaged


@dataclass(frozen=True)
class FinisherTraining:
    """Everything that decides the outcome besides the data.

    steps and batch (frames); learning_rate falls by a cosine to a twentieth after `warm_up` steps.
    known_weight: of pixels that geometry backs, beside 1 in holes. absolute_weight,
    gradient_weight, strength_weight, feature_weight: of the losses beside the squared error.
    blind_share: samples whose decoded picture is withheld. grey_share: samples in grey. grain,
    hints: what a new finisher takes, see FinisherConfig. minutes: the learning rate falls and
    training ends by then, if not by `steps` before; 0: by steps alone. ema: of the weights kept.
    """

    steps: int = 4000
    batch: int = 24
    learning_rate: float = 1e-3
    warm_up: int = 100
    known_weight: float = 0.05
    absolute_weight: float = 0.3
    gradient_weight: float = 0.5
    strength_weight: float = 0.0
    feature_weight: float = 0.0
    grain: bool = False
    hints: bool = False
    minutes: float = 0.0
    blind_share: float = 0.1
    grey_share: float = 0.2
    ema: float = 0.998
    seed: int = 0
    bfloat16: bool = True

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise ValueError("steps and batch must be positive")


@dataclass(frozen=True)
class FinisherBatch:
    """Frames `[B, 3, H, W]` in [-1, 1]: decoded, filled, seen, truth; known `[B, 1, H, W]`.

    known is 1 where geometry backs a pixel and -1 in holes, 0 where these show a hint.
    """

    decoded: Tensor
    filled: Tensor
    known: Tensor
    seen: Tensor
    truth: Tensor

    @property
    def hole(self) -> Tensor:
        """1 where geometry does not back a pixel, else 0, `[B, 1, H, W]`."""
        return (self.known < 0.5).float()


class FrameSampler:
    """Random frames of v2v clips, a function of seed and step alone; domains are equally likely.

    imagined: the model's pictures `[T, H, W, 3]` of a clip by its number in `clips`; where there
    are none the filled picture stands in. device: where clips are held and batches are made.
    Raises ClipError without a v2v clip.
    """

    def __init__(self, clips: Sequence[Clip], imagined: Mapping[int, Image],
                 options: FinisherTraining, device: torch.device | str = "cpu") -> None:
        self._options = options
        self._device = torch.device(device)
        self._clips: dict[int, dict[str, Tensor]] = {}
        self._domains: dict[str, list[int]] = {}
        for index, clip in enumerate(clips):
            self.add(index, clip, imagined.get(index))
        if not self._clips:
            raise ClipError("no clip has a guide: the finisher learns from v2v clips")

    def add(self, index: int, clip: Clip, imagined: Image | None = None) -> None:
        """Take in a clip, or another picture that was imagined of it; t2v clips are left out."""
        if clip.render is None or clip.known is None or clip.source is None:
            return
        if index not in self._clips:
            self._domains.setdefault(clip.info.domain, []).append(index)
            self._clips[index] = {name: self._put(part) for name, part in (
                ("truth", clip.truth), ("render", clip.render), ("known", clip.told),
                ("seen", clip.source[-1]))}
        if imagined is not None:
            self._clips[index]["imagined"] = self._put(imagined)

    def _put(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def batch(self, step: int) -> FinisherBatch:
        """The frames of step `step`."""
        o, rng = self._options, np.random.default_rng([self._options.seed, step])
        domains = [self._domains[name] for name in sorted(self._domains)]
        picked: dict[str, list[Tensor]] = {
            name: [] for name in ("decoded", "render", "seen", "truth", "known")}
        changes = np.empty((4, o.batch), np.float32)
        for sample in range(o.batch):
            domain = domains[int(rng.integers(len(domains)))]
            clip = self._clips[domain[int(rng.integers(len(domain)))]]
            frame = int(rng.integers(len(clip["truth"])))
            made = clip.get("imagined")
            blind = rng.uniform() < o.blind_share or made is None or frame >= len(made)
            picked["decoded"].append(
                clip["render"][frame] if blind or made is None else made[frame])
            for name in ("render", "truth", "known"):
                picked[name].append(clip[name][frame])
            picked["seen"].append(clip["seen"])
            changes[:, sample] = (rng.uniform(0.75, 1.25), rng.uniform(-0.15, 0.15),
                                  rng.uniform() < 0.5, rng.uniform() < o.grey_share)
        gain, shift, mirrored, grey = torch.from_numpy(changes).to(self._device)[
            ..., None, None, None]
        known = torch.stack(picked["known"])[:, None].float()
        pictures = []
        for name in ("decoded", "render", "seen", "truth"):
            x = torch.stack(picked[name]).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
            x = torch.where(grey > 0, x.mean(dim=1, keepdim=True), x)
            x = (x * gain + shift).clamp(-1, 1)
            pictures.append(torch.where(mirrored > 0, x.flip(-1), x))
        decoded, filled, seen, truth = pictures
        return FinisherBatch(decoded, filled, torch.where(mirrored > 0, known.flip(-1), known),
                             seen, truth)


def finisher_losses(made: Tensor, batch: FinisherBatch,
                    options: FinisherTraining) -> dict[str, Tensor]:
    """The losses of finished frames `[B, 3, H, W]`; 'total' is their weighted sum."""
    hole = batch.hole
    weight = hole + options.known_weight * (1.0 - hole)
    error = made - batch.truth
    mass = weight.sum() * 3
    losses = {
        "squared": (weight * error.square()).sum() / mass,
        "absolute": (weight * error.abs()).sum() / mass,
        "gradient": gradient_difference(
            weight * made, weight * batch.truth) / weight.mean().clamp_min(1e-3),
    }
    if options.strength_weight > 0:
        losses["strength"] = strength_difference(made, batch.truth, hole)
    losses["total"] = (losses["squared"] + options.absolute_weight * losses["absolute"]
                       + options.gradient_weight * losses["gradient"])
    if "strength" in losses:
        losses["total"] = losses["total"] + options.strength_weight * losses["strength"]
    return losses


class FeatureLoss:
    """How differently a network sees two pictures.

    path: EfficientNet-Lite0's weights, see evaluation.perceptual.FeatureNetwork; WeightsMissing.
    """

    def __init__(self, path: str | Path) -> None:
        self._network = FeatureNetwork(path)

    def __call__(self, made: Tensor, batch: FinisherBatch) -> Tensor:
        """Mean over layers of the squared distance of their unit features, place by place, plus
        the cosine distance of the picture's. Known pixels are taken as they are in both pictures
        `[B, 3, H, W]`, so that holes alone differ."""
        hole = batch.hole
        first = batch.filled * (1 - hole) + made * hole
        with torch.autocast(made.device.type, torch.bfloat16):
            layers = self._network.layers(first)
            with torch.no_grad():
                wanted = self._network.layers(batch.filled * (1 - hole) + batch.truth * hole)
        total = made.new_zeros(())
        for x, y in zip(layers, wanted, strict=True):
            difference = F.normalize(x.float(), dim=1) - F.normalize(y.float(), dim=1)
            total = total + difference.square().sum(dim=1).mean() / len(layers)
        whole = F.cosine_similarity(layers[-1].float().mean(dim=(2, 3)),
                                    wanted[-1].float().mean(dim=(2, 3)))
        return total + 1.0 - whole.mean()


def strength_difference(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference, in octaves, of the local strength of gradients within `mask`.

    a, b `[N, 3, H, W]` in [-1, 1]; mask `[N, 1, H, W]`, 1 where it counts. At each scale the root
    mean square of the gradients of what a blur takes away, over windows that lie mostly inside.
    """
    grey = torch.stack([a.mean(dim=1, keepdim=True), b.mean(dim=1, keepdim=True)])
    x = grey.flatten(0, 1)
    total, count = a.new_zeros(()), 0
    for _ in range(_OCTAVES):
        band = x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        power = band[..., :-1, 1:].sub(band[..., :-1, :-1]).square() + band[..., 1:, :-1].sub(
            band[..., :-1, :-1]).square()
        inside = mask[..., :-1, :-1]
        inside = 1.0 - F.max_pool2d(1.0 - inside, 5, 1, 2)
        share = F.avg_pool2d(inside, _WINDOW)
        first, second = F.avg_pool2d(
            power * inside.repeat(2, 1, 1, 1), _WINDOW).chunk(2)
        chosen = share > 0.5
        if bool(chosen.any()):
            levels = [torch.log2((p[chosen] / share[chosen] + 1e-8).sqrt() + _STRENGTH_FLOOR)
                      for p in (first, second)]
            total, count = total + (levels[0] - levels[1]).abs().mean(), count + 1
        x, mask = F.avg_pool2d(x, 2), F.avg_pool2d(mask, 2).floor()
        if min(x.shape[-2:]) < 2 * _WINDOW:
            break
    return total / max(count, 1)


def train_finisher(
    clips: Sequence[Clip],
    folder: Path,
    options: FinisherTraining | None = None,
    *,
    imagined: Mapping[int, Image] | None = None,
    finisher: Finisher | None = None,
    features: Path | None = None,
    save_every: int = 250,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    device: torch.device | str = "cpu",
    sampler: FrameSampler | None = None,
) -> Finisher:
    """Train the finisher and write it to `folder`; goes on where a run there stopped.

    imagined: see FrameSampler. sampler: takes the place of `clips` and `imagined`; `on_step`, told
    every step on a CPU and every tenth on a GPU, may add clips to it. finisher: weights to begin
    with. features: weights of the network
    of FeatureLoss, wanted when `feature_weight` is not 0. Returns the averaged weights, also in
    `folder/finisher.safetensors`. Raises ClipError for unusable clips, ValueError for options that
    do not fit, WeightsMissing for features that are not there, FloatingPointError when the loss is
    no longer finite (the last saved state stays).
    """
    o = options or FinisherTraining()
    if (o.feature_weight > 0) != (features is not None):
        raise ValueError(f"feature_weight {o.feature_weight:g} and the network's weights "
                         f"({features}) only go together")
    seen_by = None if features is None else FeatureLoss(features)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "finisher_options.json").write_text(json.dumps(asdict(o), indent=2) + "\n")
    sampler = sampler or FrameSampler(clips, imagined or {}, o, device)
    device = torch.device(device)
    told_every = 1 if device.type == "cpu" else 10  # each look at a loss waits for the device
    torch.manual_seed(o.seed)
    # loaded weights do not ask for it
    model = _begun(finisher, o).to(device).requires_grad_(True)
    averaged = {k: v.clone().float() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad],
                                  lr=o.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    state_file = folder / "finisher_state.pt"
    first = load_state(state_file, model, optimizer, averaged) if state_file.is_file() else 0
    began = time.monotonic()
    for step in range(first, o.steps):
        steps = o.steps
        if o.minutes > 0:  # as many as there will be time for, as it seems now
            share = (time.monotonic() - began) / (60.0 * o.minutes)
            steps = min(steps, max(step + 1, round((step - first) / max(share, 1e-6)) + first))
            if step - first < 2 * told_every:
                steps = o.steps
        for group in optimizer.param_groups:
            group["lr"] = o.learning_rate * rate_at(step, steps, o.warm_up)
        batch = sampler.batch(step)
        noise = _noise(model, batch.known, o.seed + step)
        with torch.autocast(device.type, torch.bfloat16, enabled=o.bfloat16):
            made = model(batch.decoded, batch.filled, batch.known, batch.seen, noise)
        losses = finisher_losses(made, batch, o)
        if seen_by is not None:
            losses["features"] = seen_by(made, batch)
            losses["total"] = losses["total"] + o.feature_weight * losses["features"]
        last = step + 1 == steps
        saving = last or (step + 1) % save_every == 0
        looked = saving or step % told_every == 0
        if looked and not bool(losses["total"].isfinite()):
            raise FloatingPointError(
                f"finisher training: the loss is not finite at step {step}; {state_file} holds "
                "the last good state, start again from it with a lower learning_rate")
        optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(o.ema, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            averaged[name].lerp_(value.float(), 1 - decay)
        if on_step is not None and looked:
            said = {name: float(value.detach()) for name, value in losses.items()}
            on_step(step, {**said, "seconds": time.monotonic() - began})
        if saving:
            save_state(state_file, step + 1, model, optimizer, averaged)
        if last:
            break
    model.cpu().load_state_dict(averaged)
    model.use_channels_last()
    save_finisher(model, folder / FINISHER_FILE)
    return model.eval()


def _begun(start: Finisher | None, options: FinisherTraining) -> Finisher:
    """A finisher to train: new, or from `start`, which may get grain or hints."""
    asked = {name: getattr(options, name) for name in ("grain", "hints")}
    if start is None:
        return Finisher(FinisherConfig(**asked))
    for name, wanted in asked.items():
        if getattr(start.config, name) and not wanted:
            raise ValueError(f"the finisher to begin with has {name}: begin with another, or "
                             "keep it")
    if all(getattr(start.config, name) == wanted for name, wanted in asked.items()):
        return start
    model = Finisher(replace(start.config, **asked))
    model.load_state_dict(start.state_dict(), strict=False)
    return model


def _noise(model: Finisher, like: Tensor, seed: int) -> Tensor | None:
    """The noise `[B, 1, H, W]` of a step for a finisher with grain, else None."""
    if not model.config.grain:
        return None
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    return noise.to(like.device)


@torch.no_grad()
def finisher_figures(finisher: Finisher, clips: Sequence[Clip], imagined: Mapping[int, Image],
                     every: int = 4) -> dict[str, dict[str, float]]:
    """By domain: PSNR in holes (dB, pooled) of the filled, the decoded and the finished pictures,
    and their mean distance of gradient strength to the truth in octaves."""
    sums: dict[str, dict[str, float]] = {}
    for index, clip in enumerate(clips):
        if clip.render is None or clip.known is None or clip.source is None:
            continue
        made = imagined.get(index, clip.render)
        frames = range(0, min(clip.frames, len(made)), every)

        def tensor(pictures: Sequence[Image]) -> Tensor:
            return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1.0

        filled, truth = (tensor([p[t] for t in frames]) for p in (clip.render, clip.truth))
        decoded = tensor([made[t] for t in frames])
        seen = tensor([clip.source[-1]]).expand_as(filled)
        known = torch.from_numpy(clip.told[list(frames), None].astype(np.float32))
        hole = (known < 0.5).float()
        if float(hole.sum()) == 0:
            continue
        height, width = known.shape[-2:]
        finished = finisher(decoded, filled, known, seen,
                            finisher.grain_noise(height, width, 0)).clamp(-1, 1)
        held = sums.setdefault(clip.info.domain, {})
        for name, picture in (("filled", filled), ("decoded", decoded), ("finished", finished)):
            error = float((hole * (picture - truth).square()).sum()) / 4
            held[name] = held.get(name, 0.0) + error
            strength = float(strength_difference(picture, truth, hole))
            held[f"{name}_strength"] = held.get(f"{name}_strength", 0.0) + strength
        held["pixels"] = held.get("pixels", 0.0) + 3 * float(hole.sum())
        held["clips"] = held.get("clips", 0.0) + 1
    figures = {}
    for domain, held in sorted(sums.items()):
        row = {}
        for name in ("filled", "decoded", "finished"):
            row[f"psnr_{name}"] = float(-10 * np.log10(held[name] / held["pixels"] + 1e-12))
            row[f"strength_{name}"] = held[f"{name}_strength"] / held["clips"]
        figures[domain] = row
    return figures
