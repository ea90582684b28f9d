# SPDX-License-Identifier: Apache-2.0
"""`inspatio train codec`: the small model's codec, from packed clips."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path


def add_codec(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; those of the training come from `CodecTraining`."""
    from inspatio_ros.training.codec_trainer import CodecTraining

    parser.description = "Goes on where the run in DIR stopped."
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="packed clips")
    for item in fields(CodecTraining):
        flag, default = "--" + item.name.replace("_", "-"), item.default
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default,
                                metavar="N" if isinstance(default, int) else "X")


def run_codec(args: argparse.Namespace) -> int:
    """Train, then write and print the figures of the held-out clips by domain."""
    from inspatio_ros.training.clips import read_clips
    from inspatio_ros.training.codec_trainer import CodecTraining, codec_figures, train_codec

    options = CodecTraining(**{item.name: getattr(args, item.name)
                               for item in fields(CodecTraining)})
    clips = list(read_clips(args.data))
    learnt = [clip for clip in clips if not clip.info.held_out]
    held = [clip for clip in clips if clip.info.held_out]

    def said(step: int, losses: dict[str, float]) -> None:
        if step % 50 == 0 or step + 1 == options.steps:
            with (args.run / "codec_metrics.jsonl").open("a") as log:
                log.write(json.dumps({"step": step, **losses}) + "\n")
            print(f"\rstep {step} of {options.steps}, loss {losses['total']:.4f}", end="",
                  file=sys.stderr, flush=True)

    codec = train_codec(learnt, args.run, options, on_step=said)
    figures = codec_figures(codec, held)
    (args.run / "codec_figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\n{'held-out domain':20} {'clips':>5} {'PSNR, dB':>9} {'of differences, dB':>18}")
    for domain, row in figures.items():
        print(f"{domain:20} {row['clips']:5.0f} {row['psnr']:9.2f} "
              f"{row['psnr_of_differences']:18.2f}")
    return 0
