# SPDX-License-Identifier: Apache-2.0
"""`inspatio train finetune` and `replay-study`: one domain, others replayed, two-sided judging."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inspatio_ros.evaluation.report import markdown_table, text_table
from inspatio_ros.evaluation.trade_off import (
    Correlation,
    Panel,
    correlation,
    pareto,
    pareto_svg,
)

RATIOS = (0.0, 0.1, 0.25, 0.5)
BEFORE = "before"
RESULTS = "results.json"
# Figures of looks that are set against dynamic accuracy; -1: a smaller one is better.
LOOKS = {"psnr": 1, "ssim": 1, "sharpness": 1, "spectrum_distance": -1}


def add_finetune(parser: argparse.ArgumentParser) -> None:
    """Arguments of `finetune`, but for the options of training."""
    parser.description = ("Goes on training a small model on one domain of the data, with a share "
                          "of clips of others mixed in; then judges it on both sides.")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--ratio", type=float, default=0.25, metavar="X",
                        help="share of replayed clips, from 0 to below 1 (0.25)")
    _add_common(parser)


def add_study(parser: argparse.ArgumentParser) -> None:
    """Arguments of `replay-study`, but for the options of training."""
    parser.description = ("`finetune` at several ratios with the same steps, optimiser and seed; "
                          "writes report.md, results.json and pareto.svg. Called again it goes on "
                          "where it stopped.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of it all")
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS), metavar="X",
                        help=f"shares of replayed clips ({' '.join(map(str, RATIOS))})")
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FILE",
                        help="latents of all domains (`inspatio data encode`)")
    parser.add_argument("--start", type=Path, required=True, metavar="DIR",
                        help="small model to begin with: config, transformer, codec")
    parser.add_argument("--domain", required=True, help="domain of the data to train on")
    parser.add_argument("--replay", default="", metavar="B,C", help="domains mixed in")
    parser.add_argument("--batch-size", type=int, default=8, help="clips in a global batch")
    for task in ("v2v", "t2v"):
        parser.add_argument(f"--teacher-{task}", type=Path, metavar="PATH",
                            help=f"the teacher of {task} (stage jdmd)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    group = parser.add_argument_group("judging")
    group.add_argument("--judge", default="street,room", metavar="A,B",
                       help="worlds judged (street,room); empty: none")
    group.add_argument("--recording", action="append", default=[], metavar="NAME=PATH",
                       help="also a posed recording with depth: looks and false motion only")
    group.add_argument("--clips", type=int, default=12, help="clips of each domain")
    group.add_argument("--first-seed", type=int, metavar="N", help="seed of the first world")
    group.add_argument("--frames", type=int, default=24, help="imagined frames of a clip")
    group.add_argument("--seen", type=int, default=12, help="frames seen before a clip")
    group.add_argument("--size", default="224x128", metavar="WxH", help="of the judged pictures")
    group.add_argument("--source-mode", default="frozen", choices=("frozen", "live"),
                       help="show the model the last frame, or the last block of frames")
    group.add_argument("--inception", type=Path, metavar="FILE", help="TorchScript, for FID")
    group.add_argument("--i3d", type=Path, metavar="FILE", help="TorchScript, for FVD")


def run_finetune(args: argparse.Namespace, options: Any) -> int:
    """Trains one run, judges it, says both."""
    from inspatio_ros.training.distributed import process
    from inspatio_ros.training.finetune import finetune

    judge = _Judge(args)
    with process(args.device) as here:
        model = finetune(args.run, _mix(args, args.ratio), options, here,
                         teachers=_teachers(args))
        if not here.first:
            return 0
    results = {f"{args.ratio:g}": {"domains": judge.of(model)}}
    (args.run / "judged.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(text_table(*_rows({run: by["domains"] for run, by in results.items()})))
    print(f"\nthe model is in {model}")
    return 0


def run_study(args: argparse.Namespace, options: Any) -> int:
    """Trains and judges every ratio, and the model before; writes and prints the report."""
    from inspatio_ros.model.weights import TRANSFORMER_FILE
    from inspatio_ros.training.distributed import process
    from inspatio_ros.training.finetune import check_ratios, finetune

    ratios = check_ratios(args.ratios)
    judge, about = _Judge(args), _about(args, options)
    with process(args.device) as here:
        models = {f"{ratio:g}": finetune(args.out / f"ratio_{ratio:g}", _mix(args, ratio),
                                         options, here, teachers=_teachers(args))
                  for ratio in ratios}
        if not here.first:
            return 0
    known = _judged_before(args.out, about)
    results: dict[str, Any] = {}
    for name, model in {BEFORE: args.start, **models}.items():
        digest = hashlib.sha256((model / TRANSFORMER_FILE).read_bytes()).hexdigest()
        if known.get(name, {}).get("digest") == digest:
            results[name] = known[name]
            continue
        print(f"judging {name}", file=sys.stderr, flush=True)
        results[name] = {"digest": digest, "domains": judge.of(model)}
    write_study(args.out, about, results)
    print((args.out / "report.md").read_text(encoding="utf-8"))
    return 0


def _judged_before(out: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Results by run that lie there of the same study."""
    path = out / RESULTS
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return dict(content["results"]) if content["about"] == about else {}


def _mix(args: argparse.Namespace, ratio: float) -> Any:
    from inspatio_ros.training.finetune import Mix

    return Mix(args.data, args.start, args.domain, _names(args.replay), ratio, args.batch_size)


def _teachers(args: argparse.Namespace) -> Any:
    given = {"v2v": args.teacher_v2v, "t2v": args.teacher_t2v}
    return {task: path for task, path in given.items() if path is not None}


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _about(args: argparse.Namespace, options: Any) -> dict[str, Any]:
    """What the study is, for its report."""
    return {"domain": args.domain, "replay": list(_names(args.replay)), "steps": options.steps,
            "seed": options.seed, "stage": options.stage, "batch_size": args.batch_size,
            "accumulate": options.accumulate, "learning_rate": options.learning_rate,
            "judge": args.judge, "recordings": args.recording, "clips": args.clips,
            "first_seed": args.first_seed, "frames": args.frames, "seen": args.seen,
            "size": args.size, "source_mode": args.source_mode}


class _Judge:
    """Judges models on clips that are made once, when the first model comes.

    Raises ValueError when there is nothing to judge or a clip's numbers cannot be.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        from inspatio_ros.evaluation.two_sided import (
            FIRST_SEED,
            WORLD_DOMAINS,
            SceneOptions,
        )

        self._args = args
        unknown = [name for name in _names(args.judge) if name not in WORLD_DOMAINS]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is no world; there are {', '.join(WORLD_DOMAINS)}")
        try:
            width, height = (int(part) for part in args.size.split("x"))
        except ValueError:
            raise ValueError(f"--size {args.size} is not WxH, such as 224x128") from None
        if args.clips < 1 or not (_names(args.judge) or args.recording):
            raise ValueError("nothing to judge: give --judge or --recording, and --clips above 0")
        self._options = SceneOptions(width=width, height=height, frames=args.frames,
                                     seen=args.seen)
        self._first = FIRST_SEED if args.first_seed is None else args.first_seed
        self._scenes: dict[str, list[Any]] = {}
        self._floors: dict[str, Any] = {}

    def _make_scenes(self) -> dict[str, list[Any]]:
        from inspatio_ros.evaluation.two_sided import world_scene

        args = self._args
        scenes = {name: [world_scene(name, self._first + n, self._options)
                         for n in range(args.clips)] for name in _names(args.judge)}
        for text in args.recording:
            name, _, path = text.partition("=")
            scenes[name] = _recorded(name, path, self._options, args.clips)
        return scenes

    def of(self, folder: Path) -> dict[str, Any]:
        """Both sides of the small model in a folder, by domain."""
        from inspatio_ros.evaluation.two_sided import judge
        from inspatio_ros.imagination.backends import TINY, BackendOptions, make_backend
        from inspatio_ros.imagination.engine import ImaginationEngine

        args = self._args
        self._scenes = self._scenes or self._make_scenes()
        engine = ImaginationEngine(make_backend(BackendOptions(
            TINY, str(folder), device=args.device or "")))
        try:
            return {name: judge(engine, scenes, floors=self._floors,
                                source_mode=args.source_mode, inception=args.inception,
                                i3d=args.i3d).as_json()
                    for name, scenes in self._scenes.items()}
        finally:
            engine.close()


def _recorded(name: str, path: str, options: Any, clips: int) -> list[Any]:
    from inspatio_ros.evaluation.two_sided import recorded_scenes
    from inspatio_ros.files.recordings import open_recording

    if not name or not path:
        raise ValueError(f"--recording '{name}': write NAME=PATH")
    with open_recording(Path(path)) as frames:
        return list(recorded_scenes(name, frames, options, clips))


# --- the report ----------------------------------------------------------------------------------


def write_study(out: Path, about: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """results.json, report.md and pareto.svg.

    results: by run; `domains` of each holds `TwoSided.as_json` by domain.
    """
    out.mkdir(parents=True, exist_ok=True)
    sides = {run: result["domains"] for run, result in results.items()}
    domains = list(next(iter(sides.values())))
    correlations = {name: correlations_of(sides, name) for name in domains}
    content = {"about": about, "results": results, "correlations": {
        name: {key: {level: _plain(found) for level, found in levels.items()}
               for key, levels in by.items()} for name, by in correlations.items()}}
    (out / RESULTS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    panels = [Panel(name, {run: _point(by[name]) for run, by in sides.items()},
                    _number(next(iter(sides.values()))[name]["floor"]["score"]))
              for name in domains]
    (out / "pareto.svg").write_text(pareto_svg(
        panels, "PSNR, dB (looks)", "IoU of moving things, lost = 0",
        "Points: share of replayed clips. Line: what no other point beats in both."),
        encoding="utf-8")
    (out / "report.md").write_text(_report(about, sides, correlations), encoding="utf-8")


def correlations_of(results: Mapping[str, Any], domain: str
                    ) -> dict[str, dict[str, Correlation]]:
    """Looks against dynamic accuracy of one domain, by figure of looks.

    runs: one pair for each run (a ratio, or the model before). clips: what every run changed on
    every clip, against the clip's mean over the runs, so that hard clips do not count as a
    correlation. Signs are such that more is better for both.
    """
    found = {}
    for key, sign in LOOKS.items():
        x = [sign * _number(by[domain]["appearance"][key]) for by in results.values()]
        y = [_number(by[domain]["dynamics"]["score"]) for by in results.values()]
        changes = [_changes([(sign * _number(clip["appearance"][key]), _number(clip["dynamics"]))
                             for clip in clips])
                   for clips in zip(*(by[domain]["clips"] for by in results.values()),
                                    strict=True)]
        pairs = [pair for clip in changes for pair in clip]
        found[key] = {"runs": correlation(x, y),
                      "clips": correlation([a for a, _ in pairs], [b for _, b in pairs])}
    return found


def _changes(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Pairs less their mean; NaN stays."""
    mean_x, mean_y = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return [(x - mean_x, y - mean_y) for x, y in pairs]


def _plain(found: Correlation) -> dict[str, float | None]:
    """For JSON, which has no NaN."""
    return {key: value if value == value else None for key, value in vars(found).items()}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _point(side: Mapping[str, Any]) -> tuple[float, float]:
    return _number(side["appearance"]["psnr"]), _number(side["dynamics"]["score"])


def _show(value: Any, digits: int = 3) -> str:
    number = _number(value)
    return f"{number:.{digits}f}" if number == number else "-"


_HEAD = ("domain", "replay", "PSNR", "PSNR moving", "SSIM", "sharpness", "spectrum",
         "moving IoU", "survival", "centre px", "centre m", "ATE m", "motion ratio", "heading rad",
         "static IoU", "false motion px", "objects")


def _rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: every domain's runs, then its floor."""
    rows = []
    for domain in next(iter(results.values())):
        for run, by in results.items():
            rows.append([domain, run, *_looks(by[domain]["appearance"]),
                         *_motion(by[domain]["dynamics"])])
        floor = next(iter(results.values()))[domain]["floor"]
        rows.append([domain, "true frames", "-", "-", "-", "-", "-", *_motion(floor)])
    return list(_HEAD), rows


def _looks(figures: Mapping[str, Any]) -> list[str]:
    return [_show(figures["psnr"], 2), _show(figures["psnr_moving"], 2), _show(figures["ssim"]),
            _show(figures["sharpness"]), _show(figures["spectrum_distance"])]


def _motion(found: Mapping[str, Any]) -> list[str]:
    moving, static = found["moving"], found["static"]
    return [_show(moving["iou"]), _show(moving["survival"]), _show(moving["center_error_px"], 1),
            _show(moving["center_error_m"], 2), _show(moving["track_ate_m"], 2),
            _show(moving["motion_ratio"], 2), _show(moving["heading_error"], 2),
            _show(static["iou"]), _show(found["background"]["false_motion_px"], 2),
            f"{_number(moving['objects']):.0f}"]


def _report(about: Mapping[str, Any], results: Mapping[str, Any],
            correlations: Mapping[str, Mapping[str, Mapping[str, Correlation]]]) -> str:
    told = ", ".join(f"{key} {value}" for key, value in about.items())
    first = next(iter(results.values()))
    lines = ["# Replay study", "", told, "", "![looks against motion](pareto.svg)", "",
             markdown_table(*_rows(results)), "", "## Do looks and motion go together?", ""]
    rows = [[domain, key, *(cell for level in ("runs", "clips") for cell in (
        str(by[level].pairs), _show(by[level].pearson, 2), _show(by[level].spearman, 2)))]
        for domain, figures in correlations.items() for key, by in figures.items()]
    lines += [markdown_table(["domain", "looks", "runs", "Pearson", "Spearman", "pairs of clips",
                              "Pearson", "Spearman"], rows), ""]
    for domain in first:
        points = {run: _point(by[domain]) for run, by in results.items()}
        front = [list(points)[i] for i in pareto(list(points.values()))]
        lines.append(f"- {domain}: beaten by none in both PSNR and moving IoU: "
                     + (", ".join(front) if front else "nothing to compare, no moving thing "
                        "was judged"))
    missing = {figure: reason for by in first.values() for figure, reason in by["missing"].items()}
    lines += [f"- no {figure.upper()}: {reason}" for figure, reason in missing.items()]
    return "\n".join(lines) + "\n"
