# SPDX-License-Identifier: Apache-2.0
"""`inspatio train finisher`: the last step of the small model, from packed and imagined clips."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path


def add_finisher(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; those of the training come from `FinisherTraining`."""
    from inspatio_ros.training.finisher_trainer import FinisherTraining

    parser.description = "Goes on where the run in DIR stopped."
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="packed clips")
    parser.add_argument("--imagined", type=Path, metavar="FILE",
                        help="what the model makes of them (`inspatio data imagine`); without it "
                             "the finisher learns to work alone")
    parser.add_argument("--features", type=Path, metavar="FILE",
                        help="EfficientNet-Lite0's weights, for --feature-weight")
    parser.add_argument("--start", type=Path, metavar="FILE", help="a finisher to begin with")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    for item in fields(FinisherTraining):
        flag, default = "--" + item.name.replace("_", "-"), item.default
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default,
                                metavar="N" if isinstance(default, int) else "X")


def run_finisher(args: argparse.Namespace) -> int:
    """Train, then write and print the figures of the held-out clips by domain."""
    import torch

    from inspatio_ros.model.weights import load_finisher
    from inspatio_ros.training.clips import Clip, read_clips
    from inspatio_ros.training.finisher_trainer import (
        FinisherTraining,
        finisher_figures,
        train_finisher,
    )
    from inspatio_ros.training.imagined_clips import read_imagined

    options = FinisherTraining(**{item.name: getattr(args, item.name)
                                  for item in fields(FinisherTraining)})
    clips = list(read_clips(args.data))
    imagined = {} if args.imagined is None else read_imagined(args.imagined)
    sides: tuple[list[Clip], list[Clip]] = ([], [])
    made: tuple[dict[int, object], dict[int, object]] = ({}, {})
    for number, clip in enumerate(clips):
        side = int(clip.info.held_out)
        if number in imagined:
            made[side][len(sides[side])] = imagined[number]
        sides[side].append(clip)

    def said(step: int, losses: dict[str, float]) -> None:
        if step % 50 == 0 or step + 1 == options.steps:
            with (args.run / "finisher_metrics.jsonl").open("a") as log:
                log.write(json.dumps({"step": step, **losses}) + "\n")
            print(f"\rstep {step} of {options.steps}, loss {losses['total']:.4f}", end="",
                  file=sys.stderr, flush=True)

    finisher = train_finisher(
        sides[0], args.run, options, imagined=made[0],  # type: ignore[arg-type]
        finisher=None if args.start is None else load_finisher(args.start),
        features=args.features, on_step=said,
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    figures = finisher_figures(finisher, sides[1], made[1])  # type: ignore[arg-type]
    (args.run / "finisher_figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\n{'held-out domain':20} {'holes filled':>13} {'decoded':>8} {'finished':>9}   dB; "
          "distance of gradients, octaves")
    for domain, row in figures.items():
        print(f"{domain:20} {row['psnr_filled']:13.2f} {row['psnr_decoded']:8.2f} "
              f"{row['psnr_finished']:9.2f}   {row['strength_filled']:.2f} "
              f"{row['strength_decoded']:.2f} {row['strength_finished']:.2f}")
    return 0
