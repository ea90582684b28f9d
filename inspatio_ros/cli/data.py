# SPDX-License-Identifier: Apache-2.0
"""`inspatio data`: pack clips for training into shards, look at them, turn them into latents."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.training.clips import SUFFIX, Clip, ClipError, shards_of, write_shard
from inspatio_ros.training.sources import (
    WORLDS,
    ClipMaker,
    ClipSize,
    cropped,
    photograph_clip,
    picture_clip,
    recording_clips,
    video_clips,
    world_clip,
)

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_LARGEST_PHOTOGRAPH = ClipSize(1280, 800, 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="WHAT")
    pack = commands.add_parser("pack", help=f"write one shard (OUT ends in {SUFFIX})")
    pack.add_argument("out", type=Path, metavar="OUT")
    pack.add_argument("kind", choices=("world", "photographs", "pictures", "recording", "video"),
                      help="world: an analytic world. photographs: guides among photographs. "
                      "pictures: the same without a guide (t2v). recording: bag or frames.csv "
                      "folder with depth and poses. video: files without poses (t2v)")
    pack.add_argument("source", nargs="+",
                      help=f"world: {', '.join(WORLDS)}; else files or folders")
    pack.add_argument("--seeds", default="0:100", metavar="A:B", help="one clip a seed")
    pack.add_argument("--size", default="224x128", metavar="WxH")
    pack.add_argument("--frames", type=int, default=24)
    pack.add_argument("--licence", help="of the source; needed unless it is a world")
    pack.add_argument("--domain", default="", help="name of this kind of data")
    pack.add_argument("--held-out", action="store_true", help="only to judge, never to train on")
    pack.add_argument("--no-faults", action="store_true", help="a perfect sensor")
    pack.add_argument("--stereo", action="store_true",
                      help="worlds: depth from matching a pair, domain 'NAME stereo'")
    pack.add_argument("--skip", type=int, default=0, help="frames of a recording left out")
    pack.add_argument("--limit", type=int, default=0, help="frames of a recording used, 0: all")
    pack.add_argument("--stride", type=int, default=3, help="frames from clip to clip")
    pack.add_argument("--quality", type=int, default=18, help="H.264 rate factor, 0: lossless")
    show = commands.add_parser("show", help="what a folder of shards holds")
    show.add_argument("folder", type=Path)
    show.add_argument("--picture", type=Path, help="also write a contact sheet (PNG)")
    encode = commands.add_parser("encode", help="latents of all clips, for the trainer")
    encode.add_argument("folder", type=Path)
    encode.add_argument("out", type=Path, help="a .safetensors file")
    encode.add_argument("--codec", type=Path, required=True,
                        help="folder with the codec's weights")
    pairs = commands.add_parser(
        "pairs", help="latents of clips whose frames have a retrieved view each, for branches")
    pairs.add_argument("out", type=Path, help="a .safetensors file")
    pairs.add_argument("kind", choices=("world", "recording"))
    pairs.add_argument("source", nargs="+", help=f"world: {', '.join(WORLDS)}; else recordings")
    pairs.add_argument("--codec", type=Path, required=True,
                       help="folder with the codec's weights")
    pairs.add_argument("--seeds", default="0:100", metavar="A:B", help="one clip a seed")
    pairs.add_argument("--size", default="224x128", metavar="WxH")
    pairs.add_argument("--frames", type=int, default=24)
    pairs.add_argument("--licence", help="of recordings")
    pairs.add_argument("--held-out", action="store_true", help="only to judge, never to train on")
    pairs.add_argument("--no-faults", action="store_true", help="a perfect sensor")
    pairs.add_argument("--skip", type=int, default=0, help="frames of a recording left out")
    pairs.add_argument("--limit", type=int, default=0, help="frames of a recording used, 0: all")
    pairs.add_argument("--stride", type=int, default=3, help="frames from clip to clip")
    imagine = commands.add_parser(
        "imagine", help="what a model makes of all clips, for the training of its finisher")
    imagine.add_argument("folder", type=Path)
    imagine.add_argument("out", type=Path, help="a .safetensors file")
    imagine.add_argument("--model", type=Path, required=True,
                         help="folder with config.json and transformer.safetensors")
    imagine.add_argument("--codec", type=Path, required=True,
                         help="folder with the codec's weights")
    imagine.add_argument("--without", nargs="+", default=[], metavar="DOMAIN",
                         help="domains left out, such as what the model has learnt from")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    if args.data_command == "pack":
        return _pack(args)
    if args.data_command == "show":
        return _show(args)
    if args.data_command == "imagine":
        return _imagine(args)
    if args.data_command == "pairs":
        return _pairs(args)
    from inspatio_ros.training.latents import encode_folder

    count = encode_folder(args.folder, args.codec, args.out, on_clip=_tick)
    print(f"\n{args.out}: {count} clips")
    return 0


def _pairs(args: argparse.Namespace) -> int:
    from inspatio_ros.files.recordings import open_recording, recording_name
    from inspatio_ros.model.presets import TINY
    from inspatio_ros.training.latents import load_codec
    from inspatio_ros.training.view_pairs import PairedClip, PairMaker, write_pairs

    maker = PairMaker(load_codec(args.codec), TINY, _size(args))

    def clips() -> Iterator[PairedClip]:
        number = 0
        made: Iterator[PairedClip]
        for source in args.source:
            if args.kind == "world":
                if source not in WORLDS:
                    raise ClipError(f"no world '{source}'; there are {', '.join(WORLDS)}")
                made = (maker.world(source, seed, faults=not args.no_faults)
                        for seed in _seeds(args.seeds))
            else:
                if not args.licence:
                    raise ClipError(f"--licence: say under what licence {source} may be used")
                end = args.skip + args.limit if args.limit else None
                with open_recording(Path(source)) as observations:
                    held = list(islice(observations, args.skip, end))
                name = recording_name(Path(source))
                made = maker.recording(held, name, args.licence, name, stride=args.stride,
                                       held_out=args.held_out)
            for clip in made:
                number += 1
                print(f"\r{number} clips", end="", file=sys.stderr, flush=True)
                yield clip

    print(f"\n{args.out}: {write_pairs(args.out, clips())} clips with pairs")
    return 0


def _imagine(args: argparse.Namespace) -> int:
    from inspatio_ros.imagination.backends import compute_dtype
    from inspatio_ros.model.weights import (
        CONFIG_FILE,
        TRANSFORMER_FILE,
        load_generator,
        read_config,
    )
    from inspatio_ros.training.clips import read_clips
    from inspatio_ros.training.imagined_clips import imagine_clips
    from inspatio_ros.training.latents import load_codec

    config = read_config(args.model / CONFIG_FILE)
    codec = load_codec(args.codec)
    codec = codec.to(codec.device, compute_dtype(codec.device))
    model = load_generator(args.model / TRANSFORMER_FILE, config)
    total = sum(len(shard) for shard in shards_of(args.folder))
    count = imagine_clips(read_clips(args.folder), model, codec, args.out, without=args.without,
                          on_clip=lambda done: _tick(done, total))
    print(f"\n{args.out}: {count} clips imagined")
    return 0


def _tick(done: int, total: int) -> None:
    print(f"\r{done} of {total} clips", end="", file=sys.stderr, flush=True)


def _pack(args: argparse.Namespace) -> int:
    if not args.out.name.endswith(SUFFIX):
        raise ClipError(f"{args.out}: the name of a shard ends in {SUFFIX}")
    count = write_shard(args.out, _counted(_clips(args)), args.quality)
    print(f"\n{args.out}: {count} clips, {args.out.stat().st_size / 2**20:.1f} MiB")
    return 0


def _counted(clips: Iterator[Clip]) -> Iterator[Clip]:
    for number, clip in enumerate(clips, 1):
        print(f"\r{number} clips", end="", file=sys.stderr, flush=True)
        yield clip


def _clips(args: argparse.Namespace) -> Iterator[Clip]:
    size = _size(args)
    faults = not args.no_faults
    if args.stereo and args.kind != "world":
        raise ClipError(f"--stereo renders the pairs of a world; {args.kind} has none to render")
    if args.kind == "world":
        maker = ClipMaker(size)
        for name in args.source:
            if name not in WORLDS:
                raise ClipError(f"no world '{name}'; there are {', '.join(WORLDS)}")
            for seed in _seeds(args.seeds):
                yield world_clip(maker, name, seed, faults=faults, stereo=args.stereo)
        return
    if not args.licence:
        raise ClipError(f"--licence: say under what licence {', '.join(args.source)} may be used")
    if args.kind in ("photographs", "pictures"):
        photographs = [photograph for source in args.source
                       for photograph in read_photographs(Path(source))]
        maker = ClipMaker(size)
        for seed in _seeds(args.seeds):
            if args.kind == "pictures":
                yield picture_clip(size, photographs, seed, args.licence)
            else:
                yield photograph_clip(maker, photographs, seed, args.licence, faults=faults)
        return
    for source in args.source:
        yield from _recorded(args, Path(source), size)


def _recorded(args: argparse.Namespace, path: Path, size: ClipSize) -> Iterator[Clip]:
    from inspatio_ros.files.recordings import open_recording, recording_name
    from inspatio_ros.files.videos import read_video

    end = args.skip + args.limit if args.limit else None
    domain = args.domain or recording_name(path)
    if args.kind == "video":
        pictures = (frame.image for frame in islice(read_video(path), args.skip, end))
        yield from video_clips(size, pictures, recording_name(path), args.licence, domain,
                               args.held_out)
        return
    with open_recording(path) as observations:
        held = list(islice(observations, args.skip, end))
    yield from recording_clips(ClipMaker(size), held, recording_name(path), args.licence, domain,
                               stride=args.stride, held_out=args.held_out)


def read_photographs(path: Path) -> list[npt.NDArray[np.uint8]]:
    """The photographs of a folder or the one file, uint8 RGB, cut and brought to a size at most.

    Smaller ones than 300 pixels a side are left out. Raises ClipError when none is left.
    """
    files = [path] if path.is_file() else sorted(
        p for p in path.rglob("*") if p.suffix.lower() in PICTURES)
    found = []
    for file in files:
        picture = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if picture is None or min(picture.shape[:2]) < 300:
            continue
        rgb = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
        found.append(cropped(rgb, _LARGEST_PHOTOGRAPH))
    if not found:
        raise ClipError(f"{path}: no photograph of at least 300 pixels a side there")
    return found


def _size(args: argparse.Namespace) -> ClipSize:
    try:
        width, height = (int(word) for word in args.size.split("x"))
        size = ClipSize(width, height, args.frames)
    except ValueError:
        raise ClipError(f"--size {args.size}: expected WIDTHxHEIGHT, as 224x128") from None
    if min(width, height, args.frames) < 1:
        raise ClipError("size and frames must be positive")
    return size


def _seeds(text: str) -> range:
    try:
        first, last = (int(word) for word in text.split(":"))
    except ValueError:
        raise ClipError(f"--seeds {text}: expected FIRST:END, as 0:100") from None
    return range(first, last)


def _show(args: argparse.Namespace) -> int:
    shards = shards_of(args.folder)
    counts: Counter[tuple[str, str, str, bool]] = Counter()
    for shard in shards:
        for index in range(len(shard)):
            info = shard.info(index)
            counts[info.domain, info.task, info.licence, info.held_out] += 1
    size = sum(shard.path.stat().st_size for shard in shards)
    print(f"{args.folder}: {sum(counts.values())} clips in {len(shards)} shards, "
          f"{size / 2**20:.1f} MiB")
    for (domain, task, licence, held_out), count in sorted(counts.items()):
        print(f"  {count:5d}  {domain} ({task}), {licence}{', held out' if held_out else ''}")
    if args.picture:
        _draw(args.picture, [shard.clip(i) for shard in shards for i in range(min(2, len(shard)))])
    return 0


def _draw(path: Path, clips: list[Clip]) -> None:
    """A row a clip: source, then first, middle and last of guide over truth."""
    rows = []
    for clip in clips:
        picked = [0, clip.frames // 2, clip.frames - 1]
        blank = np.zeros_like(clip.truth[0])
        source = blank if clip.source is None else clip.source[-1]
        guides = [blank if clip.render is None else clip.render[i] for i in picked]
        rows.append(np.vstack([np.hstack([source, *guides]),
                               np.hstack([blank, *(clip.truth[i] for i in picked)])]))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    if not cv2.imwrite(str(path), cv2.cvtColor(np.vstack(padded), cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path}: the picture cannot be written")
