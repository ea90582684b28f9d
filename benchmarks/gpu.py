#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed and numerics of the model on one GPU, stage by stage, at the true size.

    python benchmarks/gpu.py                          everything, 1.3B at 480x832, bf16
    python benchmarks/gpu.py --reference DIR          against a checkout of the public reference
    python benchmarks/gpu.py --device cpu --tiny      a dry run of the same code on a CPU

Weights are random (compute does not depend on them): speed and numerics only. Every stage looks
at the time that is left before it starts and writes its part of the JSON (--out) at once, so that
an interrupted run keeps what it has. Variants of one table are timed in turns in one process, and
one of them twice, which gives the noise floor. Times are those of whole blocks: context pass,
steps and sampler. Compile times are listed and never part of a frame rate.

docs/benchmarks.md says what has been run where.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.imagination.generator import GeneratorBackend
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.guide import Guide
from inspatio_ros.model import cost
from inspatio_ros.model.attention import CUDNN_ORDER, Attention, available
from inspatio_ros.model.codec import VideoCodec
from inspatio_ros.model.presets import preset
from inspatio_ros.model.small_codec import SmallCodec
from inspatio_ros.model.text_encoder import ConstantText
from inspatio_ros.model.tiny_vae import TinyVAE
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.sensing.observation import Observation, Provenance

log = logging.getLogger("gpu benchmark")

# Stage -> seconds that must be left for it to begin (CUDA at the true size).
STAGES = {
    "ceilings": 20.0,
    "dit": 120.0,
    "first_block": 20.0,
    "codec": 20.0,
    "render": 15.0,
    "batch": 60.0,
    "pipeline": 45.0,
}
NO_GPU = 3
REFERENCE_MODEL = "wan/modules/causal_model.py"
NOTE = "random weights: speed and numerics only"

Work = Callable[[], object]


# --- measuring -------------------------------------------------------------------------------


class Budget:
    """Seconds that are left of those given."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        return self._end - self._clock()


class Report:
    """The JSON: rewritten after every stage, with what was left out and why."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.content: dict[str, Any] = {"note": NOTE, "skipped": []}

    def put(self, **parts: object) -> None:
        self.content.update(parts)
        if self.path is not None:
            partial = self.path.with_suffix(".partial")
            partial.write_text(self.text())
            partial.replace(self.path)

    def skip(self, what: str, reason: str) -> None:
        log.warning("skipped %s: %s", what, reason)
        self.put(skipped=[*self.content["skipped"], {"what": what, "reason": reason}])

    def text(self) -> str:
        return json.dumps(self.content, indent=2)


class Stopwatch:
    """Milliseconds of one call: by CUDA events, or by the clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, work: Work) -> float:
        if self.device.type != "cuda":
            start = time.perf_counter()
            work()
            return (time.perf_counter() - start) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))


def in_turns(
    works: dict[str, Work], watch: Callable[[Work], float], repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of every work, `repeats` times each, A B C A B C ..."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(watch(work))
    return times


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median and the 10th and 90th percentile."""
    if len(times) == 1:
        return {"median_ms": round(times[0], 3), "runs": 1}
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return {
        "median_ms": round(statistics.median(times), 3),
        "p10_ms": round(tenths[0], 3),
        "p90_ms": round(tenths[-1], 3),
        "runs": len(times),
    }


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs|, of all values together."""
    difference = (ours.double() - theirs.double()).norm()
    return float(difference / theirs.double().norm())


# --- what is measured ------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    device: torch.device
    dtype: torch.dtype
    tiny: bool
    reference: Path | None
    stages: tuple[str, ...]
    budget_s: float
    warm_ups: int
    repeats: int
    compile: bool
    candidates: tuple[int, ...]
    out: Path | None


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options; exits with a message when they make no sense."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N or cpu")
    parser.add_argument("--dtype", default="", choices=("", "bfloat16", "float16", "float32"))
    parser.add_argument("--tiny", action="store_true", help="the small model's sizes")
    parser.add_argument("--reference", type=Path, help="checkout of the public reference")
    parser.add_argument("--stages", default=",".join(STAGES), help="some of the stages, by comma")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--warm-ups", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--candidates", default="1,2,4,8")
    parser.add_argument("--out", type=Path, help="JSON file, rewritten after every stage")
    given = parser.parse_args(arguments)
    stages = tuple(part for part in given.stages.split(",") if part)
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        parser.error(f"unknown stages {unknown}; there are {', '.join(STAGES)}")
    if given.warm_ups < 1 or given.repeats < 1 or given.budget <= 0:
        parser.error("--warm-ups, --repeats and --budget must be positive")
    try:
        device = torch.device(given.device)
        candidates = tuple(int(part) for part in given.candidates.split(","))
    except (RuntimeError, ValueError) as error:
        parser.error(str(error))
    if min(candidates) < 1:
        parser.error("--candidates must be positive")
    if given.reference is not None and not (given.reference / REFERENCE_MODEL).is_file():
        parser.error(f"--reference: {given.reference} has no {REFERENCE_MODEL}")
    default = "bfloat16" if device.type == "cuda" else "float32"
    return Options(
        device, getattr(torch, given.dtype or default), given.tiny, given.reference, stages,
        given.budget, given.warm_ups, given.repeats,
        not given.no_compile and device.type == "cuda", candidates, given.out,
    )


class Bench:
    """The model with random weights, its inputs, and the stages."""

    def __init__(self, options: Options, report: Report, budget: Budget) -> None:
        self.options, self.report, self.budget = options, report, budget
        self.watch = Stopwatch(options.device)
        self.config = preset("tiny" if options.tiny else "inspatio_world_1_3b")
        # The dry run exercises the text path too, which the small model would cut short.
        if options.tiny:
            self.config = replace(self.config, text_len=4)
        torch.manual_seed(0)
        with torch.device(options.device):
            model = CausalTransformer(self.config).to(options.dtype)
        self.weights = model.state_dict()
        self.text = self.random(1, self.config.text_len, self.config.text_dim)
        self.reference_latents, self.history, self.render_latents = (
            self.latents(1) for _ in range(3)
        )
        self.mask = self.latents(1, self.config.mask_channels).sign()
        self.noise = self.random(
            len(self.config.denoising_steps), *self.latents(1).shape
        )

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.options.device, dtype=self.options.dtype)

    def latents(self, batch: int, channels: int | None = None) -> Tensor:
        config = self.config
        channels = config.latent_channels if channels is None else channels
        return self.random(batch, config.frames_per_block, channels, *config.latent_grid)

    def denoiser(
        self, attention: str = "auto", *, compile: bool = False, graph: bool = False
    ) -> BlockDenoiser:
        """A denoiser over the same weights (not copied, but for the joint projections)."""
        with torch.device("meta"):
            model = CausalTransformer(self.config, attention=attention)
        model.load_state_dict(self.weights, assign=True)
        model.prepare_for_inference()
        made = BlockDenoiser(model, compile=compile, cuda_graph=graph, check_finite=False)
        made.set_prompt(self.text)
        made.begin()
        return made

    def block(self, denoiser: BlockDenoiser, first: bool = False) -> Tensor:
        return denoiser.block(
            self.reference_latents, None if first else self.history, self.render_latents,
            self.mask, noise=self.noise,
        )

    def warmed(self, name: str, make: Callable[[], Work]) -> Work | None:
        """A work that ran `warm_ups` times, or None with the reason among the skipped."""
        start = time.perf_counter()
        try:
            work = make()
            for _ in range(self.options.warm_ups):
                work()
            if self.options.device.type == "cuda":
                torch.cuda.synchronize()
        except Exception as error:
            log.exception("variant %s failed", name)
            self.report.skip(name, f"{type(error).__name__}: {error}".splitlines()[0])
            return None
        log.info("%s: ready after %.1f s", name, time.perf_counter() - start)
        return work

    # --- stages ------------------------------------------------------------------------------

    def ceilings(self) -> None:
        """Rates that this very device reaches: copies, matrix products, attention."""
        big = 256 if self.options.device.type == "cpu" else 8192
        a, b = self.random(big, big), self.random(big, big)
        tokens, dim, ffn = self.config.block_tokens(), self.config.dim, self.config.ffn_dim
        x, w = self.random(tokens, dim), self.random(dim, ffn)
        source = self.random(big * big * 2)
        target = torch.empty_like(source)
        works: dict[str, tuple[Work, float]] = {
            "gemm_square": (lambda: a @ b, 2.0 * big**3),
            "gemm_feed_forward": (lambda: x @ w, 2.0 * tokens * dim * ffn),
            "copy": (lambda: target.copy_(source), 2.0 * source.numel() * source.element_size()),
        }
        found: dict[str, object] = {}
        for name, (work, amount) in works.items():
            self.warmed(name, lambda work=work: work)
            ms = statistics.median(in_turns({name: work}, self.watch, self.options.repeats)[name])
            unit = "gb_per_s" if name == "copy" else "tflop_per_s"
            rate = amount / ms / (1e6 if name == "copy" else 1e9)
            found[name] = {"ms": round(ms, 4), unit: round(rate, 2)}
        self.report.put(ceilings=found, attn=self._attention_rates())

    def _attention_rates(self) -> list[dict[str, object]]:
        config = self.config
        queries, keys = config.block_tokens(), config.cache_tokens()
        heads = (config.num_heads, config.head_dim)
        q = self.random(1, queries, *heads)
        k, v = (self.random(1, keys, *heads) for _ in range(2))
        flops = 4.0 * queries * keys * config.dim
        rows: list[dict[str, object]] = []
        for name in available(self.options.device, self.options.dtype):
            if name == "math" and self.options.device.type == "cuda":
                continue  # 3 GiB of scores, and nobody's choice
            kernel = Attention(name, self.options.device, self.options.dtype)
            work = self.warmed(f"attention {name}", lambda kernel=kernel: lambda: kernel(q, k, v))
            if work is not None:
                times = in_turns({name: work}, self.watch, self.options.repeats)[name]
                rate = flops / statistics.median(times) / 1e9
                rows.append({"kernel": name, "queries": queries, "keys": keys,
                             **summary(times), "tflop_per_s": round(rate, 4)})
        return rows

    def dit(self) -> None:
        """A steady block in every variant of ours, and of the reference where there is one."""
        kernel = Attention("auto", self.options.device, self.options.dtype).name
        cuda = self.options.device.type == "cuda"
        makers: dict[str, Callable[[], Work]] = {
            f"ours eager {kernel}": lambda: self._ours(kernel),
            f"ours eager {kernel} again": lambda: self._ours(kernel),
        }
        if kernel != "sdpa":
            makers["ours eager sdpa"] = lambda: self._ours("sdpa")
        if cuda:
            makers[f"ours graph {kernel}"] = lambda: self._ours(kernel, graph=True)
        if self.options.compile:
            makers[f"ours compiled {kernel}"] = lambda: self._ours(kernel, compile=True)
            makers[f"ours compiled graph {kernel}"] = lambda: self._ours(
                kernel, compile=True, graph=True
            )
        if self.options.reference is not None:
            makers["reference eager default"] = lambda: self._theirs(False, False)
            if cuda:
                makers["reference eager cudnn"] = lambda: self._theirs(True, False)
        works: dict[str, Work] = {}
        self._add_variants(works, makers)
        times = self._time_variants(works)
        if any(name.startswith("reference") for name in times):
            self.report.put(parity=self._parity(kernel))
        # Tuned for minutes, so what has been measured is written before.
        if self.options.reference is not None and self.options.compile:
            before = len(works)
            self._add_variants(
                works, {"reference compiled cudnn": lambda: self._theirs(True, True)})
            if len(works) > before:
                self._time_variants(works)

    def _add_variants(self, works: dict[str, Work], makers: dict[str, Callable[[], Work]]) -> None:
        """Prepare variants of a block while there is time."""
        for name, make in makers.items():
            if self.budget.left < STAGES["dit"] / 4 and self.options.device.type == "cuda":
                self.report.skip(name, f"{self.budget.left:.0f} s left")
                continue
            work = self.warmed(name, make)
            if work is not None:
                works[name] = work

    def _time_variants(self, works: dict[str, Work]) -> dict[str, list[float]]:
        """Time variants of a block in turns and report them; milliseconds of each."""
        times = in_turns(works, self.watch, self.options.repeats)
        flops = cost.block_flops(self.config).total
        rows = []
        for name, runs in times.items():
            found = summary(runs)
            seconds = found["median_ms"] / 1e3
            fps = cost.frames_per_second(self.config, seconds)
            rows.append({"variant": name, **found, "fps": round(fps, 2),
                         "tflop_per_s": round(flops / seconds / 1e12, 4)})
        self.report.put(
            dit=rows, noise_floor=noise_floor(times), ratios=ratios(times),
            block_tflop={"ours": round(flops / 1e12, 3), "as_published": round(
                cost.block_flops(self.config, as_published=True).total / 1e12, 3)},
        )
        return times

    def _ours(self, kernel: str, *, compile: bool = False, graph: bool = False) -> Work:
        denoiser = self.denoiser(kernel, compile=compile, graph=graph)
        return lambda: self.block(denoiser)

    def _public(self) -> Any:
        sys.path.insert(0, str(Path(__file__).resolve().parent))
        from public_reference import PublicReference

        assert self.options.reference is not None
        return PublicReference(
            self.options.reference, self.config, self.weights, self.options.device,
            self.options.dtype,
        )

    def _their_block(self, public: Any, trace: Any = None) -> Tensor:
        made: Tensor = public.block(
            self.text, self.reference_latents, self.history, self.render_latents, self.mask,
            self.noise, trace,
        )
        return made

    def _theirs(self, cudnn: bool, compile: bool) -> Work:
        public = self._public()
        if compile:
            public.compile()

        def work() -> Tensor:
            if not cudnn:
                return self._their_block(public)
            with sdpa_kernel(CUDNN_ORDER, set_priority=True):
                return self._their_block(public)

        return work

    @torch.inference_mode()
    def _parity(self, kernel: str) -> dict[str, object]:
        """Relative errors of context keys and values, of every flow, and of the block."""
        public, ours = self._public(), self.denoiser(kernel)
        from public_reference import Trace

        trace = Trace()
        theirs = self._their_block(public, trace)
        mine = self.block(ours)
        assert ours.cache is not None
        context = max(
            relative_error(part, public.cache[layer][name])
            for layer in range(self.config.num_layers)
            for name, part in zip("kv", ours.cache.context(layer), strict=True)
        )
        rope, cache, text = ours._ready()
        condition = torch.cat([self.mask, self.render_latents], dim=2)
        flows = []
        for noisy, flow, step in zip(trace.noisy, trace.flow, ours.timesteps, strict=True):
            modulation = ours.model.modulation([step])
            found = ours.model.predict_flow(noisy, condition, rope.block, modulation, text, cache)
            flows.append(relative_error(found, flow))
        return {
            "context_keys_values": context, "flow": flows, "block": relative_error(mine, theirs),
            "dtype": str(self.options.dtype),
        }

    def first_block(self) -> None:
        """The block without history: what stands between a question and its first image."""
        denoiser = self.denoiser()
        work = self.warmed("first block", lambda: lambda: self.block(denoiser, first=True))
        if work is not None:
            times = in_turns({"first": work}, self.watch, self.options.repeats)["first"]
            self.report.put(first_block_ms=summary(times))

    def codec(self) -> None:
        """Encoding 12 frames; decoding the first latent and a whole block."""
        codec = self._codec()
        frames = self.random(1, self.config.block_frames, 3, self.config.height, self.config.width)
        latents = self.latents(1)
        encoder, decoder = codec.encoder_state(), codec.decoder_state()
        makers: dict[str, Work] = {
            "encode_12_frames": lambda: codec.encode_stream(encoder, frames),
            "decode_1_latent": lambda: codec.decode_stream(decoder, latents[:, :1]),
            "decode_block": lambda: codec.decode_stream(decoder, latents),
        }
        works = {name: work for name, work in makers.items()
                 if self.warmed(name, lambda work=work: work) is not None}
        times = in_turns(works, self.watch, self.options.repeats)
        found = {name: summary(runs) for name, runs in times.items()}
        self.report.put(codec={"name": codec.name, **found})

    def _codec(self) -> VideoCodec:
        codec = SmallCodec() if self.config.codec == SmallCodec.name else TinyVAE()
        made = codec.to(self.options.device, self.options.dtype).eval().requires_grad_(False)
        made.check_finite = False
        return made

    def render(self) -> None:
        """12 views of a cloud by the device's own splatter, results on the host included."""
        from inspatio_ros.memory.splatting import make_splatter, pack_colors

        cuda = self.options.device.type == "cuda"
        backend = "triton" if cuda else "numba"
        size = (self.config.width, self.config.height)
        camera = PinholeCamera(*size, size[0] * 0.8, size[0] * 0.8, size[0] / 2, size[1] / 2)
        rng = np.random.default_rng(0)
        rows = []
        for points in (400_000, 2_000_000) if cuda else (50_000,):
            xyz = rng.uniform((-4, -3, 1), (4, 3, 9), (points, 3)).T
            xyz = np.ascontiguousarray(xyz, dtype=np.float32)
            codes = pack_colors(rng.integers(0, 255, (points, 3)).astype(np.uint8))

            def make(xyz: Any = xyz, codes: Any = codes) -> Work:
                splatter = make_splatter(backend, str(self.options.device) if cuda else None)
                return lambda: [splatter.render(xyz, codes, camera, np.eye(4)) for _ in range(12)]

            work = self.warmed(f"render {points} points by {backend}", make)
            if work is not None:
                times = in_turns({"r": work}, self.watch, self.options.repeats)["r"]
                rows.append({"points": points, "frames": 12, "backend": backend, **summary(times)})
        self.report.put(render=rows)

    def batch(self) -> None:
        """K candidates over one context, against K blocks one after the other."""
        denoiser = self.denoiser()
        rows = []
        for count in self.options.candidates:
            if self.budget.left < STAGES["batch"] / 6 and self.options.device.type == "cuda":
                self.report.skip(f"{count} candidates", f"{self.budget.left:.0f} s left")
                continue
            render, mask = (part.expand(count, -1, -1, -1, -1)
                            for part in (self.render_latents, self.mask))
            noise = self.noise.expand(-1, count, -1, -1, -1, -1)

            def together(render: Any = render, mask: Any = mask, noise: Any = noise) -> Tensor:
                return denoiser.block(
                    self.reference_latents, self.history, render, mask, noise=noise
                )

            def alone(count: int = count) -> None:
                for _ in range(count):
                    self.block(denoiser)

            if self.options.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            if self.warmed(f"{count} candidates", lambda together=together: together) is None:
                continue
            works: dict[str, Work] = {"together": together, "alone": alone}
            repeats = max(3, self.options.repeats // count)
            times = in_turns(works, self.watch, repeats)
            one, many = (statistics.median(times[name]) for name in ("alone", "together"))
            rows.append({
                "candidates": count, **summary(times["together"]),
                "candidates_per_s": round(count / many * 1e3, 3),
                "times_sequential": round(one / many, 3), "peak_gib": self._peak_gib(),
            })
        self.report.put(batch=rows)

    def _peak_gib(self) -> float | None:
        if self.options.device.type != "cuda":
            return None
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)

    def pipeline(self) -> None:
        """Pictures in, pictures out, through the engine's own backend: one context held still."""
        cuda = self.options.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        config = self.config
        denoiser = self.denoiser(graph=cuda)
        text = ConstantText(config.text_len, config.text_dim)
        backend = GeneratorBackend(config.name, denoiser, self._codec(), text, fixed_size=True)
        size = (config.width, config.height)
        camera = PinholeCamera(*size, size[0] * 0.8, size[0] * 0.8, size[0] / 2, size[1] / 2)
        image = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
        depth = np.ones(size[::-1], np.float32)
        guide = Guide(image, depth, np.full(depth.shape, Provenance.OBSERVED, np.uint8))
        seen = (Observation(0, image, depth, camera, np.eye(4)),)
        request = ImaginationRequest(
            camera, CameraTrajectory(np.eye(4)[None], np.zeros(1)), seen
        )
        if self.warmed("pipeline", lambda: lambda: backend.warm_up(camera)) is None:
            return
        first, steady = [], []
        for _ in range(self.options.repeats):
            session = backend.begin(request)
            for times, count in ((first, backend.first_block_frames),
                                 (steady, backend.block_frames)):
                guides = [guide] * (count + backend.lookahead)
                # by the clock: pictures are on the host when fill() returns
                start = time.perf_counter()
                session.fill(guides, seen)
                times.append((time.perf_counter() - start) * 1e3)
            session.close()
        found = summary(steady)
        self.report.put(pipeline={
            **found, "first_images_ms": summary(first), "peak_gib": self._peak_gib(),
            "fps": round(cost.frames_per_second(config, found["median_ms"] / 1e3), 2),
            "stages_of_the_last_block_ms": {
                name: round(seconds * 1e3, 2) for name, seconds in session.stage_times.items()
            },
        })


def noise_floor(times: dict[str, list[float]]) -> float | None:
    """How much two timings of the same variant differ, as a share."""
    for name, runs in times.items():
        twin = times.get(f"{name} again")
        if twin:
            return round(abs(statistics.median(twin) / statistics.median(runs) - 1), 4)
    return None


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Our fastest block against the reference's variants: how many times as fast."""
    medians = {name: statistics.median(runs) for name, runs in times.items() if runs}
    ours = [ms for name, ms in medians.items() if name.startswith("ours")]
    theirs = {name: ms for name, ms in medians.items() if name.startswith("reference")}
    if not ours or not theirs:
        return {}
    best = min(ours)
    found = {f"against {name}": round(ms / best, 3) for name, ms in theirs.items()}
    found["against the fastest reference"] = round(min(theirs.values()) / best, 3)
    eager = [ms for name, ms in medians.items() if name.startswith("ours eager")]
    reference_eager = [ms for name, ms in theirs.items() if "eager" in name]
    if eager and reference_eager:
        found["eager against eager"] = round(min(reference_eager) / min(eager), 3)
    return found


def machine(options: Options) -> dict[str, object]:
    """What this runs on."""
    found: dict[str, object] = {
        "torch": torch.__version__, "python": platform.python_version(),
        "dtype": str(options.dtype), "tiny": options.tiny,
    }
    if options.device.type != "cuda":
        capability = torch.backends.cpu.get_cpu_capability()
        threads = torch.get_num_threads()
        return {**found, "device": f"{platform.machine()} {capability}", "threads": threads}
    about = torch.cuda.get_device_properties(options.device)
    return {**found, "device": about.name, "memory_gib": round(about.total_memory / 2**30, 1),
            "capability": list(torch.cuda.get_device_capability(options.device)),
            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def run(options: Options) -> Report:
    """All the stages that the budget allows."""
    report, budget = Report(options.out), Budget(options.budget_s)
    report.put(machine=machine(options))
    with torch.inference_mode():
        bench = Bench(options, report, budget)
        for stage in options.stages:
            needed = STAGES[stage] if options.device.type == "cuda" and not options.tiny else 0.0
            if budget.left < needed or budget.left <= 0.0:
                report.skip(stage, f"{budget.left:.0f} s left, {needed:.0f} s needed")
                continue
            log.info("stage %s, %.0f s left", stage, budget.left)
            getattr(bench, stage)()
            gc.collect()
            if options.device.type == "cuda":
                torch.cuda.empty_cache()
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 3 without the device."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    options = parse(arguments)
    if options.device.type == "cuda" and not torch.cuda.is_available():
        print(
            "gpu.py: PyTorch sees no CUDA device, nothing was measured. "
            "--device cpu --tiny tries the script out on a CPU.",
            file=sys.stderr,
        )
        return NO_GPU
    print(run(options).text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
