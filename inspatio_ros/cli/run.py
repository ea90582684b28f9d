# SPDX-License-Identifier: Apache-2.0
"""`inspatio run`: videos, pictures or recordings, seen from another way.

The flags of the public release (run_test_pipeline.sh, inference_causal_test.py) keep their names
and meaning; those of ours come after them in the help.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inspatio_ros.captioning import CaptionError
from inspatio_ros.depth.estimator import EstimatorError
from inspatio_ros.depth.from_motion import ESTIMATE
from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.imagination.backends import AUTO, BACKENDS, PUBLIC, BackendOptions
from inspatio_ros.imagination.long_rollouts import LongRollout
from inspatio_ros.model.weights import WeightsError
from inspatio_ros.pipeline.camera_plan import MotionOptions
from inspatio_ros.pipeline.clips import Clip, ClipError, find_clips
from inspatio_ros.pipeline.depths import DEPTHS, ClipDepth, choose_depth
from inspatio_ros.pipeline.geometry import GeometryOptions
from inspatio_ros.pipeline.guides import PLY, RENDER_BACKENDS, WARPER
from inspatio_ros.pipeline.results import mean_coverage
from inspatio_ros.pipeline.run import (
    Listener,
    Pipeline,
    RunOptions,
    resolve_trajectory,
)
from inspatio_ros.pipeline.steps import read_record
from inspatio_ros.pipeline.workers import GpuLists, run_on_gpus

SOME_FAILED = 1
# Below this share of pixels a result hardly shows the recording any more.
LITTLE_COVERAGE = 0.1

CHECKPOINT = Path("checkpoints/InSpatio-World-1.3B/InSpatio-World-1.3B.safetensors")
DA3, FLORENCE = Path("checkpoints/DA3"), Path("checkpoints/Florence-2-large")
TAE = Path("checkpoints/taehv/taew2_1.pth")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("input", nargs="?", type=Path, help="video, picture, bag, or a folder of "
                        "videos, of pictures, or with frames.csv")
    release = parser.add_argument_group("flags of the public release")
    add = release.add_argument
    add("--input_dir", type=Path, help="the same as input; captions and depth are then written "
        "into it, as the release does")
    add("--json_path", type=Path, help="a new.json that lists the videos")
    add("--traj_txt_path", "--trajectory", required=True, dest="trajectory",
        help="trajectory file, or the name of a shipped motion")
    add("--output_folder", "--out", type=Path, help="default: output/INPUT/TRAJECTORY")
    add("--version", default="", help="subfolder of the output folder")
    add("--checkpoint_path", type=Path,
        help=f"generator of the public model, beside its parts (default {CHECKPOINT} if there)")
    add("--config_path", type=Path, help="YAML; denoising_step_list is read from it")
    add("--da3_model_path", type=Path, help=f"depth model (default {DA3} if there)")
    add("--florence_model_path", type=Path, help=f"caption model (default {FLORENCE} if there)")
    for step, what in ((1, "captions"), (2, "depth"), (3, "imagination")):
        add(f"--step{step}_gpus", default="",
            help=f"GPUs of {what}, like 0,1; clips are dealt out")
        add(f"--skip_step{step}", action="store_true", help={
            1: "no captions; those in new.json are used", 2: "no depth; what is there is used",
            3: "no imagination; render and mask are written"}[step])
    add("--step3_nproc", type=int, default=0, help="how many of step3_gpus to use")
    add("--master_port", type=int, default=29513, help="not needed: no process group is opened")
    add("--relative_to_source", action="store_true", help="follow the recording's own camera")
    add("--rotation_only", action="store_true", help="turn in place")
    add("--render_backend", choices=RENDER_BACKENDS, default=WARPER)
    add("--disable_adaptive_frame", action="store_true",
        help="as many frames as the recording, however fast the view turns")
    add("--freeze_repeat", type=int, default=0, help="show one frame so many times more")
    add("--freeze_frame", type=int, help="which one (default: the middle)")
    add("--use_tae", action="store_true", help="the tiny autoencoder instead of the Wan VAE")
    add("--tae_checkpoint_path", type=Path, help=f"default {TAE} if there")
    add("--compile_dit", action="store_true", help="compile the transformer")
    add("--seed", type=int, default=0)
    add("--num_samples", type=int, default=1, choices=[1])
    _add_own(parser.add_argument_group("flags of ours"))


def _add_own(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--preset", default=AUTO, choices=BACKENDS, help="what fills the holes")
    add("--weights", type=Path, help="folder of the preset's weights")
    add("--steps", type=int, nargs="+", default=[], help="listed denoising steps")
    add("--device", default="", help="torch's name, like cuda:0 or cpu")
    add("--reanchor", type=float, default=0.0, metavar="SHARE",
        help="hold the model's history to the source's statistics, 0 to 1")
    add("--keyframes", type=int, default=0, metavar="N",
        help="older blocks that a model is shown again where the camera comes back")
    add("--mode", default="auto", choices=("auto", "model", "composite"),
        help="the model's picture as it is, or only where geometry knows nothing")
    add("--parity", action="store_true", help="the release's own conventions: smoothed motion, "
        "inverse pose, displacement in metres, 832x480, 24 Hz")
    add("--prompt", help="of all clips, instead of captions")
    add("--depth", default=AUTO, choices=(*DEPTHS, "sensor", "stereo"),
        help="where depth comes from; sensor and stereo for recordings, plane for the others only")
    add("--fov", type=float, default=60.0, metavar="DEG",
        help="horizontal field of view of cameras that nothing is known of")
    add("--width", type=int, default=0, metavar="PX",
        help="of the result; its height keeps the aspect (default: as many pixels as 832x480)")
    add("--fps", type=float, metavar="HZ", help="of the result (default: the recording's)")
    add("--remember", action="store_true",
        help="fill holes from what earlier frames saw; for scenes in which little moves")
    add("--work", type=Path, help="folder of captions and depth")
    add("--min-depth", type=float, default=0.1, metavar="M", help="of recordings")
    add("--max-depth", type=float, default=80.0, metavar="M", help="of recordings")
    add("--world-frame", default="odom", help="of a bag's tf")
    add("--only_step", type=int, choices=(1, 2, 3), help=argparse.SUPPRESS)
    add("--share", default="0/1", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """0 when every clip has its result, 1 when some have none."""
    clips = _clips(args)
    options = run_options(args)
    gpus = GpuLists.of(args.step1_gpus, args.step2_gpus, args.step3_gpus, args.step3_nproc)
    if gpus.many and args.only_step is None:
        return run_on_gpus(gpus, sys.argv[1:], _skipped(args))
    shortest = 1 if any(clip.kind == "images" and len(clip.files) == 1 for clip in clips) else 2

    def make_depth() -> ClipDepth:
        return choose_depth(args.depth, _given_or_default(args.da3_model_path, DA3),
                            rotation_only=args.rotation_only, pictures=shortest)

    listener = Bars()
    try:
        result = Pipeline(clips, options, make_depth, listener).run()
    except (CaptionError, EstimatorError) as error:
        raise ValueError(str(error)) from error
    for name, folder in result.folders.items():
        print(f"{name}: {folder / 'index.html'} {_coverage_line(folder, options)}"
              f"{_drift_line(folder)}")
    if result.failures:
        print(f"{len(result.failures)} of {len(clips)} clips failed: "
              f"{', '.join(result.failures)}", file=sys.stderr)
    return SOME_FAILED if result.failures else 0


def _coverage_line(folder: Path, options: RunOptions) -> str:
    """How much of the pictures geometry backs, and what to do when it is next to nothing."""
    share = mean_coverage(folder)
    if share is None:
        return ""
    line = f"({100 * share:.0f} % of the pixels backed by what was seen)"
    if share < LITTLE_COVERAGE and not options.motion.relative_to_source:
        line += ("; the trajectory leaves what the recording shows: --relative_to_source carries "
                 "it along with the recording's camera")
    return line


def _drift_line(folder: Path) -> str:
    """That the pictures have moved away from what was seen, and what may help; else empty."""
    drift = (read_record(folder) or {}).get("drift") or {}
    if not drift.get("blocks_drifting"):
        return ""
    return (f"; colours, contrast or sharpness drift from block {drift['first_drifting']} on: "
            "--reanchor 0.5 holds them to the source")


def _clips(args: argparse.Namespace) -> list[Clip]:
    given = [p for p in (args.input, args.input_dir, args.json_path) if p is not None]
    if len(given) != 1:
        raise ClipError("name one input: a path, --input_dir or --json_path")
    clips = _listed(args.json_path) if args.json_path else find_clips(given[0])
    rank, count = map(int, args.share.split("/"))
    return clips[rank::count]


def _listed(path: Path) -> list[Clip]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        videos = [Path(entry["video_path"]) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ClipError(f"{path}: not a list of video_path: {error!r}") from error
    return [clip for video in videos for clip in find_clips(video)]


def run_options(args: argparse.Namespace) -> RunOptions:
    """What the arguments ask for. Raises FileNotFoundError for files that were named and are not
    there."""
    trajectory = resolve_trajectory(args.trajectory)
    source = args.input or args.input_dir or args.json_path
    output = args.output_folder or Path("output") / source.resolve().stem / trajectory.stem
    if args.version:
        output = output / args.version
    work = args.work or args.input_dir or (
        args.json_path.parent if args.json_path else output / "work")
    backend = _backend(args)
    florence = _given_or_default(args.florence_model_path, FLORENCE)
    if args.florence_model_path is None and backend.name not in (AUTO, PUBLIC):
        florence = None  # the small models and the filler read no text
    return RunOptions(
        trajectory=trajectory, output=output, work=work,
        release_folders=bool(args.input_dir or args.json_path),
        skip=frozenset(_skipped(args)), florence=florence,
        depth_model=_given_or_default(args.da3_model_path, DA3), prompt=args.prompt,
        motion=MotionOptions(
            relative_to_source=args.relative_to_source, rotation_only=args.rotation_only,
            adaptive=not args.disable_adaptive_frame, freeze_repeat=args.freeze_repeat,
            freeze_frame=args.freeze_frame, parity=args.parity),
        geometry=GeometryOptions(
            size=(args.width, 0) if args.width else None, field_of_view=math.radians(args.fov),
            parity=args.parity, point_clouds=args.render_backend == PLY,
            reading=BagOptions(depth=_recorded_depth(args.depth), min_depth=args.min_depth,
                               max_depth=args.max_depth, world_frame=args.world_frame,
                               depth_model=str(args.da3_model_path or ""))),
        backend=backend, render_backend=args.render_backend, remember=args.remember,
        mode=args.mode, frame_rate=args.fps, seed=args.seed, device=args.device,
        only=args.only_step)


def _recorded_depth(asked: str) -> str:
    """What `--depth` means for recordings, which have cameras and as a rule depth."""
    if asked in (AUTO, "motion", "sensor", "stereo"):
        return asked
    return AUTO if asked == "plane" else ESTIMATE


def _skipped(args: argparse.Namespace) -> list[int]:
    return [step for step in (1, 2, 3) if getattr(args, f"skip_step{step}")]


def _backend(args: argparse.Namespace) -> BackendOptions:
    name, weights, parts = args.preset, str(args.weights or ""), {}
    checkpoint = args.checkpoint_path
    if checkpoint is None and name in (AUTO, PUBLIC) and not weights and CHECKPOINT.is_file():
        checkpoint = CHECKPOINT
    elif checkpoint is not None and name == AUTO:
        name = PUBLIC
    if checkpoint is not None:
        if not checkpoint.is_file():
            raise WeightsError(
                f"{checkpoint}: no such file; the README of the GitHub repository "
                "inspatio/inspatio-world says where InSpatio-World-1.3B.safetensors is, "
                "`inspatio weights check DIR` lists what belongs beside it")
        parts["generator"] = checkpoint
        weights = weights or str(checkpoint.parent.parent)
    tae = _given_or_default(args.tae_checkpoint_path, TAE)
    if args.use_tae and tae is not None:
        if not tae.is_file():
            raise WeightsError(
                f"{tae}: no such file; taew2_1.pth is on GitHub as madebyollin/taehv")
        parts["tiny_vae"] = tae
    steps = tuple(args.steps) or _steps_of(args.config_path)
    return BackendOptions(name, weights, args.device, steps, full_vae=not args.use_tae,
                          compile=args.compile_dit, seed=args.seed, parts=parts,
                          long_rollout=LongRollout(args.reanchor, args.keyframes))


def _steps_of(config: Path | None) -> tuple[int, ...]:
    if config is None:
        return ()
    import yaml

    try:
        document: Any = yaml.safe_load(config.read_text(encoding="utf-8"))
        listed = document.get("denoising_step_list") or ()
        return tuple(int(step) for step in listed)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{config}: no configuration of the release: {error}") from error


def _given_or_default(given: Path | None, default: Path) -> Path | None:
    if given is not None:
        return given
    return default if default.exists() else None


class Bars(Listener):
    """Progress bars with the time left on a terminal, lines elsewhere."""

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of its own line."""
        from tqdm import tqdm

        with tqdm(total=total or None, desc=label, unit="frame", file=sys.stderr,
                  disable=not sys.stderr.isatty(), mininterval=0.5) as shown:
            def update(done: int) -> None:
                shown.update(done - shown.n)

            yield update

    def say(self, text: str) -> None:
        """On stdout."""
        print(text, flush=True)

    def failed(self, clip: str, reason: str) -> None:
        """On stderr; the others go on."""
        print(f"{clip}: skipped: {reason}", file=sys.stderr, flush=True)
