#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time, operations and memory of the codecs on one block of 12 frames.

    python benchmarks/codecs.py [--codec small_codec] [--height 128] [--width 224] [--threads 2]

Prints one JSON object. Weights are random. A block is what the engine does per 12 frames: encode
the guide and the source frames (two streams as one batch) and decode 3 latents, all streamed over
states that are already warm. Times are in ms over the repeats. `state_bytes` is what the streams
hold between blocks.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from inspatio_ros.model.codec import TiledCodec, TileOptions, VideoCodec
from inspatio_ros.model.small_codec import SmallCodec
from inspatio_ros.model.tiny_vae import TinyVAE
from inspatio_ros.model.wan_vae import WanVAE

CODECS: dict[str, Callable[[], VideoCodec]] = {
    "small_codec": SmallCodec,
    "tiny_vae": TinyVAE,
    "wan_vae": WanVAE,
    "wan_vae_tiled": lambda: TiledCodec(WanVAE(), TileOptions(size=32, overlap=8)),
}
LATENTS = 3


def timed(work: Callable[[], torch.Tensor], repeats: int, device: str) -> dict[str, float]:
    """Milliseconds of one call: least and median, after one call that does not count."""
    work()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return {"min_ms": round(min(times), 1), "median_ms": round(statistics.median(times), 1)}


def gigaflops(work: Callable[[], torch.Tensor]) -> float:
    """Floating-point operations of one call, multiply and add counted as two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return round(counter.get_total_flops() / 1e9, 2)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """The figures of one codec."""
    torch.manual_seed(0)
    codec = CODECS[options.codec]().to(options.device, getattr(torch, options.dtype)).eval()
    h, w = codec.latent_size(options.height, options.width)
    frames = torch.rand(2, 12, 3, options.height, options.width, device=options.device) * 2 - 1
    latents = torch.randn(1, LATENTS, codec.latent_channels, h, w, device=options.device)
    encoder, decoder = codec.encoder_state(), codec.decoder_state()
    codec.encode_stream(encoder, frames[:, : codec.first_group])
    codec.decode_stream(decoder, latents[:, :1])

    def encode() -> torch.Tensor:
        return codec.encode_stream(encoder, frames)

    def decode() -> torch.Tensor:
        return codec.decode_stream(decoder, latents)

    figures: dict[str, object] = {
        "codec": options.codec,
        "parameters": sum(p.numel() for p in codec.parameters()),
        "size": [options.width, options.height],
        "dtype": options.dtype,
        "encode_2x12_frames": timed(encode, options.repeats, options.device),
        "decode_12_frames": timed(decode, options.repeats, options.device),
        "encode_gflop": gigaflops(encode),
        "decode_gflop": gigaflops(decode),
        "state_bytes": {"encoder": encoder.nbytes, "decoder": decoder.nbytes},
    }
    if options.device == "cuda":
        figures["peak_bytes"] = torch.cuda.max_memory_allocated()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codec", choices=CODECS, default="small_codec")
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        figures = measure(options)
    machine = (
        torch.cuda.get_device_name(0)
        if options.device == "cuda"
        else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    )
    threads = {"threads": options.threads, "torch": torch.__version__}
    print(json.dumps({"machine": machine, **threads, **figures}, indent=2))


if __name__ == "__main__":
    main()
