# SPDX-License-Identifier: Apache-2.0
"""The program `inspatio`: one table of subcommands, each imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from inspatio_ros import __version__


class Command(NamedTuple):
    """One subcommand: the module below inspatio_ros.cli and its line in the help.

    The module defines `add_arguments(parser: argparse.ArgumentParser) -> None` and
    `run(args: argparse.Namespace) -> int`, which returns the exit status.
    """

    module: str
    help: str


COMMANDS: dict[str, Command] = {
    "counterfactual": Command(
        "counterfactual", "a recording as if the robot had driven or looked otherwise"),
    "data": Command("data", "clips for training: pack, show, encode"),
    "demo": Command("demo", "play the sample recording through the imagination node"),
    "evaluate": Command("evaluate", "score imagined views of recordings in hindsight"),
    "loop": Command("loop", "a planner drives in closed loop through imagined views"),
    "replay": Command("replay", "a replay experiment: imagine, compare, report as JSON and HTML"),
    "run": Command("run", "videos, pictures or recordings, imagined from another way"),
    "score": Command("score", "judge candidate paths at a moment of a recording"),
    "scene": Command("scene", "a whole scene: many clips, then cloud, mesh and cameras"),
    "train": Command("train", "train models, stage by stage"),
    "view": Command("view", "serve a result folder on this machine and say where"),
    "weights": Command("weights", "look at a folder of published weights"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status of the subcommand that `arguments` (default: the command line) name.

    Errors a user can mend end as one line on stderr and status 1; so subcommands raise ValueError
    or OSError with a sentence. Anything else is a defect and keeps its traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(words)
    args = parser.parse_args(words)
    module = importlib.import_module(f"inspatio_ros.cli.{COMMANDS[args.command].module}")
    try:
        return int(module.run(args))
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        print(f"inspatio {args.command}: {error}", file=sys.stderr)
        return 1


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the called subcommand's module is imported, for its arguments."""
    parser = argparse.ArgumentParser(
        prog="inspatio",
        description="Imagines what a camera would see along paths not driven yet.",
    )
    parser.add_argument("--version", action="version", version=f"inspatio {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    called = next((word for word in words if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        if name == called:
            module = importlib.import_module(f"inspatio_ros.cli.{command.module}")
            module.add_arguments(subparser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
