# SPDX-License-Identifier: Apache-2.0
"""`inspatio scene`: a whole scene from a picture, a panorama, a video or a recording."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from inspatio_ros.depth.estimator import EstimatorError
from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.imagination.backends import AUTO, BACKENDS, BackendOptions
from inspatio_ros.imagination.long_rollouts import LongRollout
from inspatio_ros.imagination.request import OUTPUT_MODES
from inspatio_ros.pipeline.depths import DEPTHS
from inspatio_ros.pipeline.geometry import GeometryOptions
from inspatio_ros.scene.inputs import InputOptions
from inspatio_ros.scene.reconstruct import ReconstructionError, open3d
from inspatio_ros.scene.run import CARRIED, ESTIMATED, SceneOptions, make_scene
from inspatio_ros.scene.schedule import KINDS
from inspatio_ros.scene.splats import require_gsplat

RECORDED = ("sensor", "stereo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("input", type=Path, help="picture, panorama, video, bag, or folder with frames.csv")
    add("--out", type=Path, required=True, metavar="DIR",
        help="result; an interrupted one goes on")
    add("--panorama", action="store_true", help="the picture is a full equirectangular panorama")
    add("--ranges", type=Path, metavar="FILE.npy",
        help="distances along the rays of the panorama, m")
    add("--clips", nargs="+", default=[], choices=KINDS,
        help="instead of the schedule of the input's kind")
    add("--wander", type=int, default=4, metavar="N",
        help="ways to the least known sector, after the others")
    add("--frames", type=int, default=40, metavar="N",
        help="of a video or recording that are used, evenly spread; 0 for all")
    add("--depth", default=AUTO, choices=(*DEPTHS, *RECORDED), help="where depth comes from; "
        "plane: unknown, so the camera only turns in place")
    add("--depth-model", type=Path, metavar="DIR", help="folder of a depth model")
    add("--imagined-depth", default=CARRIED, choices=(CARRIED, ESTIMATED),
        help="of imagined pixels: carried on from what is known, or estimated by a depth model")
    add("--preset", default=AUTO, choices=BACKENDS, help="what fills the holes")
    add("--weights", type=Path, help="folder of the preset's weights")
    add("--device", default="", help="torch's name, like cuda:0 or cpu")
    add("--reanchor", type=float, default=0.0, metavar="SHARE",
        help="hold the model's history to the source's statistics, 0 to 1")
    add("--keyframes", type=int, default=0, metavar="N",
        help="older blocks that a model is shown again where the camera comes back")
    add("--mode", default="composite", choices=OUTPUT_MODES)
    add("--prompt", default="")
    add("--seed", type=int, default=0)
    add("--width", type=int, default=416, metavar="PX", help="of the views")
    add("--fov", type=float, default=60.0, metavar="DEG",
        help="horizontal field of view of cameras that nothing is known of")
    add("--voxel", type=float, default=0.03, metavar="M", help="of memory and mesh")
    add("--min-depth", type=float, default=0.1, metavar="M")
    add("--max-depth", type=float, default=20.0, metavar="M")
    add("--clearance", type=float, default=0.25, metavar="M",
        help="kept from every surface by the camera")
    add("--world-frame", default="odom", help="of a bag's tf")
    add("--splats", action="store_true",
        help="also Gaussian splats, through gsplat on a CUDA device")


def run(args: argparse.Namespace) -> int:
    """0 when the scene is there."""
    try:
        open3d()  # before minutes of imagination
        if args.splats:
            require_gsplat()
        result = make_scene(args.input, args.out, scene_options(args),
                            lambda text: print(text, flush=True))
    except (EstimatorError, ReconstructionError) as error:
        raise ValueError(str(error)) from error
    sphere = result.coverage["sphere"]
    print(f"{result.folder / 'index.html'} (all round: {100 * sphere['seen']:.0f} % seen, "
          f"{100 * sphere['imagined']:.0f} % imagined)")
    return 0


def scene_options(args: argparse.Namespace) -> SceneOptions:
    """What the arguments ask for."""
    depth = args.depth if args.depth in DEPTHS else AUTO
    recorded = args.depth if args.depth in (AUTO, "motion", *RECORDED) else "estimate"
    reading = BagOptions(
        depth=AUTO if args.depth == "plane" else recorded, min_depth=args.min_depth,
        max_depth=args.max_depth, world_frame=args.world_frame,
        depth_model=str(args.depth_model or ""))
    return SceneOptions(
        reading=InputOptions(
            width=args.width, frames=args.frames, panorama=args.panorama, ranges=args.ranges,
            depth=depth, model=args.depth_model,
            geometry=GeometryOptions(size=(args.width, 0), field_of_view=math.radians(args.fov),
                                     reading=reading)),
        backend=BackendOptions(args.preset, str(args.weights or ""), args.device,
                               seed=args.seed,
                               long_rollout=LongRollout(args.reanchor, args.keyframes)),
        clips=tuple(args.clips), wander=args.wander, voxel_size=args.voxel,
        max_depth=args.max_depth, clearance=args.clearance, seed=args.seed, prompt=args.prompt,
        mode=args.mode, imagined_depth=args.imagined_depth, splats=args.splats)
