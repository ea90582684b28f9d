# SPDX-License-Identifier: Apache-2.0
"""`inspatio train stage`: one stage of training, of any model, on packed clips."""

from __future__ import annotations

import argparse
import logging
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from inspatio_ros.cli import finetune, train_branches, train_codec, train_finisher
from inspatio_ros.model.presets import PRESETS, preset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the actions; the options of training come from their one description."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_stage(actions.add_parser("stage", help="run one stage, or go on with it"))
    add_budget(actions.add_parser("budget", help="time and memory of a plan on a cluster"))
    train_codec.add_codec(actions.add_parser("codec", help="the small model's codec"))
    train_finisher.add_finisher(actions.add_parser(
        "finisher", help="what joins the small model's pictures to what geometry knows"))
    train_branches.add_branches(actions.add_parser(
        "branches", help="stereo and control branches beside a small model"))
    tune = actions.add_parser("finetune", help="one domain with others replayed, judged both ways")
    study = actions.add_parser("replay-study", help="the same at several ratios, with a report")
    for parser_of, declare in ((tune, finetune.add_finetune), (study, finetune.add_study)):
        declare(parser_of)
        add_options(parser_of)


def add_stage(parser: argparse.ArgumentParser) -> None:
    """Arguments of `stage`: places, then every training option."""
    parser.description = (
        "Goes on where the run in DIR stopped. With several processes: torchrun "
        "--nproc-per-node N -m inspatio_ros.cli.main train stage ..."
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE",
                        help="latents of `inspatio data encode`")
    parser.add_argument("--preset", default="tiny", choices=sorted(PRESETS), help="which model")
    parser.add_argument("--batch-size", type=int, default=8, help="clips in a global batch")
    parser.add_argument("--start", type=Path, metavar="PATH",
                        help="weights to begin with: a file, or a folder such as RUN/model")
    parser.add_argument("--teacher-v2v", type=Path, metavar="PATH",
                        help="the teacher of video to video (jdmd)")
    parser.add_argument("--teacher-t2v", type=Path, metavar="PATH",
                        help="the teacher of text to video (jdmd); may be the same")
    parser.add_argument("--codec", type=Path, metavar="PATH",
                        help="the latents' codec: for pictures of validations, for article")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    add_options(parser)


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Arguments of `budget`."""
    parser.add_argument("--preset", default="inspatio_world_1_3b", choices=sorted(PRESETS))
    parser.add_argument("--processes", type=int, default=64, help="GPUs")
    parser.add_argument("--clips", type=int, default=64, help="clips in a global batch")
    parser.add_argument("--rate", type=float, default=320.0, metavar="TFLOPS",
                        help="what one GPU keeps up, in 1e12 operations a second (320)")


def add_options(parser: argparse.ArgumentParser) -> None:
    """One argument for each of TrainingOptions' fields; what is not given stays the default."""
    from inspatio_ros.training.options import TrainingOptions

    kinds = get_type_hints(TrainingOptions)
    group = parser.add_argument_group("options of training")
    for item in fields(TrainingOptions):
        group.add_argument("--" + item.name.replace("_", "-"), default=argparse.SUPPRESS,
                           **_argument(item, kinds[item.name]))


def _argument(item: Field[Any], kind: Any) -> dict[str, Any]:
    shown = "" if item.default is MISSING else f" ({item.default})"
    text = {"help": item.metadata["help"] + shown}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction, **text}
    if get_args(kind):
        return {"choices": get_args(kind), **text}
    return {"type": kind, "metavar": "N" if kind is int else "X", **text}


def options_of(args: argparse.Namespace) -> Any:
    """The TrainingOptions that were given. TrainingError for values that cannot be."""
    from inspatio_ros.training.options import TrainingOptions

    names = {item.name for item in fields(TrainingOptions)}
    return TrainingOptions(**{n: v for n, v in vars(args).items() if n in names})


def run(args: argparse.Namespace) -> int:
    """Runs the action; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.action == "budget":
        from inspatio_ros.training.budget import table

        print(table(preset(args.preset), processes=args.processes, clips=args.clips,
                    rate=args.rate * 1e12))
        return 0
    if args.action == "codec":
        return train_codec.run_codec(args)
    if args.action == "finisher":
        return train_finisher.run_finisher(args)
    if args.action == "branches":
        return train_branches.run_branches(args)
    if args.action == "finetune":
        return finetune.run_finetune(args, options_of(args))
    if args.action == "replay-study":
        return finetune.run_study(args, options_of(args))
    return run_stage(args)


def run_stage(args: argparse.Namespace) -> int:
    """Trains one stage to its last step and says where the result is."""
    from inspatio_ros.training.batches import Task
    from inspatio_ros.training.distributed import process
    from inspatio_ros.training.latents import load_codec, open_latents
    from inspatio_ros.training.stages import make_stage
    from inspatio_ros.training.trainer import Trainer

    options, config = options_of(args), preset(args.preset)
    with process(args.device) as here:
        source = open_latents(args.data, config, args.batch_size, options.seed)
        teachers: dict[Task, Path] = {}
        if args.teacher_v2v is not None:
            teachers["v2v"] = args.teacher_v2v
        if args.teacher_t2v is not None:
            teachers["t2v"] = args.teacher_t2v
        codec = None if args.codec is None else load_codec(args.codec)
        objective = make_stage(
            config, options, here, start=args.start, teachers=teachers, codec=codec)
        trainer = Trainer(args.run, objective, source, options, here, codec)
        trainer.train()
        if here.first:
            print(f"the model is in {args.run / 'model'}")
    return 0
