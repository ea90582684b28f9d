# SPDX-License-Identifier: Apache-2.0
"""`inspatio train branches`: stereo and control branches beside a small model."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path


def add_branches(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; those of the training come from `BranchTraining`."""
    from inspatio_ros.training.branch_trainer import BranchTraining

    parser.description = ("Goes on where the run in DIR stopped. Writes stereo.safetensors and "
                          "control.safetensors, to lie beside the model's weights.")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--data", type=Path, required=True, nargs="+", metavar="FILE",
                        help="latents with pairs (`inspatio data pairs`)")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR",
                        help="folder with config.json and transformer.safetensors")
    for item in fields(BranchTraining):
        flag, default = "--" + item.name.replace("_", "-"), item.default
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default,
                                metavar={int: "N", float: "X", str: "LAYOUT"}[type(default)])


def run_branches(args: argparse.Namespace) -> int:
    """Train, then write and print what the branch reads of its views on held-out clips."""
    from inspatio_ros.model.weights import (
        CONFIG_FILE,
        TRANSFORMER_FILE,
        load_generator,
        read_config,
    )
    from inspatio_ros.training.branch_trainer import (
        BranchTraining,
        branch_figures,
        train_branches,
    )
    from inspatio_ros.training.view_pairs import read_pairs

    options = BranchTraining(**{item.name: getattr(args, item.name)
                                for item in fields(BranchTraining)})
    clips = [clip for path in args.data for clip in read_pairs(path)]
    config = read_config(args.model / CONFIG_FILE)
    model = load_generator(args.model / TRANSFORMER_FILE, config)

    def said(step: int, losses: dict[str, float]) -> None:
        if step % 20 == 0 or step + 1 == options.steps:
            with (args.run / "branches_metrics.jsonl").open("a") as log:
                log.write(json.dumps({"step": step, **losses}) + "\n")
            print(f"\rstep {step} of {options.steps}, loss {losses['loss']:.4f}", end="",
                  file=sys.stderr, flush=True)

    whole = train_branches(clips, model, args.run, options, on_step=said)
    held = [clip for clip in clips if clip.info.held_out]
    if not held:
        print("\nno held-out clips: nothing to judge with")
        return 0
    figures = branch_figures(whole, held, options)
    (args.run / "branches_figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    for name, value in figures.items():
        print(f"\nloss {name.replace('_', ' ')}: {value:.4f}", end="")
    print()
    return 0
