#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The table of docs/evaluation.md: every recording replayed, the figures in Markdown.

    tools/evaluation_table.py --out DIR [--preset tiny] [--write]

Recordings are looked for in $INSPATIO_DATA; one that is not there is named and left out. A
recording whose report stands in DIR already is not replayed again, so that a run that was cut off
goes on. Without --write the table is printed; with it, it replaces the one in docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DOCUMENT = ROOT / "docs/evaluation.md"
BEGIN, END = "<!-- replay table: begin -->", "<!-- replay table: end -->"


class Entry(NamedTuple):
    """A row of the table: the recording below $INSPATIO_DATA, its experiment, frames left out."""

    name: str
    path: str
    experiment: str
    skip: int = 0


ENTRIES = (
    Entry("holo_office_bag", "holo_office_bag/bag", "indoor"),
    Entry("holo_office", "holo_office", "indoor"),
    Entry("holo_office, last 80", "holo_office", "indoor", 200),
    Entry("kitti_stereo_06", "kitti_stereo_06", "street"),
    Entry("kitti_stereo_ramp", "kitti_stereo_ramp", "street"),
    Entry("kitti_city_lidar", "kitti_city_lidar", "street"),
    Entry("kitti_residential_bag", "kitti_residential_bag/bag", "street"),
    Entry("fox_handheld", "fox_handheld", "indoor"),
)


def main(arguments: list[str] | None = None) -> int:
    """Replay what is missing, then print or write the table; 1 when a recording failed."""
    from inspatio_ros.evaluation.experiment import load_experiment
    from inspatio_ros.evaluation.replay import replay, results_table

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the reports")
    parser.add_argument("--data", type=Path, default=os.environ.get("INSPATIO_DATA"),
                        help="folder of the recordings (default: $INSPATIO_DATA)")
    parser.add_argument("--preset", nargs="+", default=["geometric"])
    parser.add_argument("--only", nargs="+", help="names of the rows to make")
    parser.add_argument("--limit", type=int, default=0, help="frames read at most, for a try")
    parser.add_argument("--write", action="store_true", help="into docs/evaluation.md")
    args = parser.parse_args(arguments)
    if args.data is None:
        parser.error("name the folder of the recordings with --data or in INSPATIO_DATA")
    reports, failed = [], 0
    for entry in ENTRIES:
        source, out = args.data / entry.path, args.out / entry.name.replace(", ", "_")
        if args.only and entry.name not in args.only:
            continue
        if not source.exists():
            print(f"{entry.name}: not there: {source}", file=sys.stderr)
            continue
        if not (out / "report.json").is_file():
            experiment = load_experiment(ROOT / f"samples/experiments/{entry.experiment}.yaml")
            experiment = replace(experiment, preset=tuple(args.preset), skip=entry.skip,
                                 limit=args.limit, frames_in_bag="none")
            try:
                replay(source, experiment, out)
            except (ValueError, OSError) as error:
                print(f"{entry.name}: {error}", file=sys.stderr)
                failed += 1
                continue
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        reports.append({**report, "recording": entry.name})
        print(f"{entry.name}: done", file=sys.stderr)
    table = results_table(reports)
    if args.write:
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(encoding="utf-8"), table),
                            encoding="utf-8")
    else:
        print(table)
    return 1 if failed else 0


def replaced(document: str, table: str) -> str:
    """The document with `table` between its two marks. Raises ValueError without them."""
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ValueError(f"{DOCUMENT}: needs '{BEGIN}' and '{END}' once each")
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    sys.exit(main())
