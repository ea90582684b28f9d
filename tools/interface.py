# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - holds Markdown tables
"""Writes docs/interface.md, the README's tables and config/<node>.yaml from the code.

    .venv/bin/python tools/interface.py            writes what differs
    .venv/bin/python tools/interface.py --check    lists what differs and exits with 1
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from inspatio_ros.ros.interface import NODES, Endpoint, NodeInterface  # noqa: E402
from inspatio_ros.ros.parameters import ParameterInfo, describe  # noqa: E402

BEGIN, END = "<!-- interface: begin -->", "<!-- interface: end -->"
# Nodes whose shipped YAML is written from their dataclass.
GENERATED_CONFIG = ("imagination", "depth", "hindsight", "synthetic_robot", "bag_player",
                    "imagined_camera", "reference_planner")
# What a new user sets first; the README shows these.
README_PARAMETERS = (
    "transforms.source", "transforms.world_frame", "transforms.base_frame",
    "input.image_transport", "input.depth", "input.depth_transport", "input.rectify",
    "input.fuse_rate", "memory.capacity", "memory.max_age", "memory.max_radius",
    "imagination.frame_rate", "imagination.horizon", "output.width", "output.height",
    "output.pacing",
)

INTRODUCTION = """\
# ROS interface

Written by `tools/interface.py` from `inspatio_ros/ros/interface.py` and the parameter dataclasses;
a test keeps them equal. Names are relative or private and remappable; there are no topic-name parameters.

## Frames

| frame | is |
|---|---|
| `odom` (`transforms.world_frame`) | where memory and imagined poses live; continuous |
| `map` | plans may come in it, or any other frame that tf connects: converted once, at the plan's stamp |
| `base_link` (`transforms.base_frame`) | whose way the plan is |
| the image's `frame_id` | optical frame of the (rectified) camera; never guessed |
| `imagined_camera_optical` (`transforms.imagined_frame`) | the imagined camera; a leaf, published at each frame's stamp |

## States of `imagination` (`~/status`)

| state | meaning |
|---|---|
| IDLE | ready, nothing to imagine: no plan, or not following |
| WAITING_FOR_INPUT | nothing was seen yet; `detail` names the topic, its publishers, or why its messages are refused |
| IMAGINING | frames go out |
| DEGRADED | frames go out (or would, with a plan), but something is wrong; `detail` says what and what to change |
| FAULT | the node went through lifecycle error processing and is unconfigured; configure and activate it again |

`header.stamp` of every imagined frame is its publication time, strictly increasing; `source_stamp` in `~/frame` is the newest
observation it rests on, `time_from_start` when along the way it would be seen.
What is dropped is counted by reason in `/diagnostics` (`imagination: input`), and in all in `observations_dropped`.
"""


def code(text: object) -> str:
    """Text as Markdown code; empty stays empty."""
    return f"`{text}`" if str(text) else ""


def endpoint_table(kind: str, endpoints: Iterable[Endpoint], *, with_qos: bool = True) -> str:
    """A Markdown table of topics, services or actions."""
    head = ["name", "type"] + (["QoS"] if with_qos else []) + ["note"]
    rows = [[code(e.name), e.type.replace("/msg/", "/").replace("/srv/", "/").replace(
        "/action/", "/")] + ([e.qos] if with_qos else []) + [e.note] for e in endpoints]
    return f"### {kind}\n\n{table(head, rows)}"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def shown(value: object) -> str:
    """A default as YAML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    if isinstance(value, str):
        return f'"{value}"' if value == "" or value in ("on", "off", "yes", "no") else value
    return str(value)


def parameter_rows(infos: Iterable[ParameterInfo]) -> list[list[str]]:
    """One table row a parameter."""
    return [[code(i.name), i.type_name, code(shown(i.default)), i.unit, i.allowed,
             "yes" if i.dynamic else "", i.description] for i in infos]


PARAMETER_HEAD = ["parameter", "type", "default", "unit", "allowed", "while running", "meaning"]


def node_section(name: str, node: NodeInterface) -> str:
    """The whole of one node."""
    managed = "A lifecycle node; `autostart` configures and activates it." if node.lifecycle else ""
    parts = [f"## Node `{name}`\n\n{node.summary} {managed}".rstrip() + "\n"]
    for kind, endpoints in (("Subscribes", node.subscribes), ("Publishes", node.publishes)):
        if endpoints:
            parts.append(endpoint_table(kind, endpoints))
    for kind, endpoints in (("Services", node.services), ("Actions", node.actions)):
        if endpoints:
            parts.append(endpoint_table(kind, endpoints, with_qos=False))
    parts.append("### Parameters\n\n" + table(
        PARAMETER_HEAD, parameter_rows(describe(node.parameters_type()))))
    return "\n".join(parts)


def interface_page() -> str:
    """docs/interface.md."""
    return "\n".join([INTRODUCTION, *(node_section(n, node) for n, node in NODES.items())])


def readme_block() -> str:
    """The README's tables: topics of the main node, and what is set first."""
    node = NODES["imagination"]
    infos = {i.name: i for i in describe(node.parameters_type())}
    topics = [[way, code(e.name), e.type.replace("/msg/", "/"), e.note]
              for way, endpoints in (("in", node.subscribes), ("out", node.publishes))
              for e in endpoints if e.note and not e.note.startswith("instead")]
    rows = [row[:3] + [row[3], row[6]] for row in parameter_rows(
        infos[name] for name in README_PARAMETERS)]
    return "\n".join([
        BEGIN, "", table(["", "topic", "type", "note"], topics),
        table(["parameter", "type", "default", "unit", "meaning"], rows), END])


def readme(text: str) -> str:
    """The README with its tables renewed; unchanged when it has no place for them."""
    if BEGIN not in text:
        return text
    before, rest = text.split(BEGIN, 1)
    return before + readme_block() + rest.split(END, 1)[1]


def config_page(name: str) -> str:
    """A node's shipped YAML: every parameter with its default, and its meaning as comment."""
    lines = ["# SPDX-License-Identifier: Apache-2.0",
             f"# Every parameter of the node `{name}` with its default. Overlays hold differences "
             "only.", "# Written by tools/interface.py.", "/**:", "  ros__parameters:"]
    groups: list[str] = []
    for info in describe(NODES[name].parameters_type()):
        *parents, leaf = info.name.split(".")
        if parents != groups:
            groups = parents
            lines += [f"    {'  ' * depth}{group}:" for depth, group in enumerate(parents)]
        indent = "    " + "  " * len(parents)
        unit = f" [{info.unit}]" if info.unit else ""
        allowed = f" Allowed: {info.allowed}." if info.allowed else ""
        dynamic = " May change while running." if info.dynamic else ""
        comment = f"{info.description}{unit}.{allowed}{dynamic}"
        lines += [f"{indent}# {line}" for line in textwrap.wrap(comment, 95 - len(indent))]
        lines.append(f"{indent}{leaf}: {shown(info.default)}")
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """Every file that is written, with its text as it should be."""
    made = {ROOT / "docs/interface.md": interface_page()}
    for name in GENERATED_CONFIG:
        made[ROOT / f"config/{name}.yaml"] = config_page(name)
    path = ROOT / "README.md"
    made[path] = readme(path.read_text())
    return made


def main(arguments: list[str]) -> int:
    """Write, or with --check only tell; 1 when something differed."""
    differing = [path for path, text in pages().items()
                 if not path.exists() or path.read_text() != text]
    for path in differing:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} differs: run tools/interface.py")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages()[path])
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if differing and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
