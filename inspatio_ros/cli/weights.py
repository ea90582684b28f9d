# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""`inspatio weights check DIR`: what a checkpoint folder holds, and if it can run here."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from inspatio_ros.model.checkpoints import GIB, FolderReport, Machine, inspect_folder

OK, BAD_FILES, DENIED = 0, 1, 3  # 2 is a wrong command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `check DIR` and its options."""
    parser.epilog = (
        "Exit status of check: 0 the model can run (allow or degrade), 1 a file is broken or "
        "not the expected one, 3 a needed file is missing or the memory does not suffice."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="look at a checkpoint folder without loading it")
    check.add_argument(
        "folder", type=Path, metavar="DIR", help="the reference's checkpoints folder"
    )
    check.add_argument("--json", action="store_true", help="print one JSON document")
    check.add_argument(
        "--no-digest", action="store_true", help="skip SHA-256 (reads every file once otherwise)"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the report; returns the exit status."""
    report = inspect_folder(args.folder, Machine.here(), digest=not args.no_digest)
    print(as_json(report) if args.json else as_text(report))
    if report.wrong:
        return BAD_FILES
    return DENIED if report.verdict.decision == "deny" else OK


def as_json(report: FolderReport) -> str:
    """The report as one JSON document; sizes in bytes."""
    return json.dumps(asdict(report), indent=2)


def as_text(report: FolderReport) -> str:
    """The report for people."""
    lines = [f"{report.folder}"]
    for part in report.parts:
        lines.append(f"  {part.state:8}{part.title}")
        if part.path:
            size = f"{part.nbytes / GIB:.2f} GiB"
            count = f", {part.tensors} tensors, {part.parameters:,} parameters"
            lines.append(f"          {part.path} ({size}{count if part.tensors else ''})")
        if part.sha256:
            lines.append(f"          sha256 {part.sha256}")
        if part.detail:
            lines.append(f"          {part.detail}")
    verdict = report.verdict
    lines.append(f"{verdict.decision}: {verdict.reason}")
    for name, nbytes in verdict.terms.items():
        lines.append(f"  {nbytes / GIB:8.2f} GiB  {name}")
    if verdict.terms:
        lines.append(f"  {verdict.needed / GIB:8.2f} GiB  needed")
    lines.append(f"  {verdict.free / GIB:8.2f} GiB  free on {verdict.device}")
    lines.extend(f"  without {cut}" for cut in verdict.given_up)
    return "\n".join(lines)
