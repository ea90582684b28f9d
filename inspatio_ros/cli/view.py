# SPDX-License-Identifier: Apache-2.0
"""`inspatio view FOLDER`: the player page of a result, served on this machine only."""

from __future__ import annotations

import argparse
from pathlib import Path

from inspatio_ros.viewer.serve import LOOPBACK, make_server

PAGE = "index.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=Path, help="a result of `inspatio run`, or several of them")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")


def pages(folder: Path) -> list[str]:
    """The pages in `folder` and one level below, as paths to ask the server for.

    Raises FileNotFoundError when there is none.
    """
    found = [p.relative_to(folder).as_posix()
             for p in (folder / PAGE, *sorted(folder.glob(f"*/{PAGE}"))) if p.is_file()]
    if not found:
        raise FileNotFoundError(f"{folder}: no {PAGE} in it or one level below")
    return found


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    server = make_server(args.folder, args.port)
    try:
        for page in pages(args.folder):
            print(f"http://{LOOPBACK}:{server.server_port}/{page}", flush=True)
        server.serve_forever()
    finally:
        server.server_close()
    return 0
