# SPDX-License-Identifier: Apache-2.0
"""What the documents name exists: files, parameters, launch arguments, drop reasons."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inspatio_ros.ros.depth_node import DepthParameters
from inspatio_ros.ros.hindsight_parameters import HindsightParameters
from inspatio_ros.ros.imagination_parameters import ImaginationNodeParameters
from inspatio_ros.ros.parameters import describe
from support.launch_evaluation import evaluate
from support.ros import ROOT
from test_layering import ALLOWED

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
GROUPS = ("transforms", "input", "memory", "guide", "model", "imagination", "output", "stereo",
          "diagnostics", "match", "calibration", "footprint", "scoring")


def names_of(documents: list[Path]) -> list[str]:
    return [path.name for path in documents]


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path) if path else document
        assert linked.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
                       for heading in headings}
            assert anchor in anchors, f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_parameters_named_in_documents_are_declared(document: Path) -> None:
    roots = (ImaginationNodeParameters, DepthParameters, HindsightParameters)
    known = {info.name for root in roots for info in describe(root)}
    named = re.findall(rf"`((?:{'|'.join(GROUPS)})\.[a-z_]+)", document.read_text())
    suffixes = ("launch", "py", "yaml", "rviz", "json", "safetensors")
    files = {name for name in named if name.rsplit(".", 1)[1] in suffixes}
    assert set(named) - files <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_launch_lines_use_arguments_that_exist(document: Path) -> None:
    text = document.read_text().replace("\\\n", " ")
    for line in re.findall(r"ros2 launch inspatio_ros [^\n`#]*", text):
        launch_file = line.split()[3]
        given = set(re.findall(r"(\w+):=", line))
        required = {"bag": "any"} if launch_file == "replay.launch.py" else {}
        assert given <= set(evaluate(launch_file, **required).arguments), line


def test_paths_named_in_documents_exist() -> None:
    folders = "inspatio_ros|config|launch|rviz|test|benchmarks|scripts|docs|samples|tools"
    for document in DOCUMENTS:
        for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", document.read_text()):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


def test_drop_reasons_explained_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    explained = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert len(explained) >= 10
    code = "".join(path.read_text() for folder in ("ros", "sensing", "messages")
                   for path in (ROOT / "inspatio_ros" / folder).rglob("*.py"))
    missing = {reason for reason in explained if f'"{reason}"' not in code}
    assert not missing


def test_the_layers_of_the_architecture_page_are_those_that_are_enforced() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([a-z]+)` \|[^|\n]*\|([^|\n]*)\|$", text, re.MULTILINE)
    described = {layer: {word.strip() for word in imports.split(",") if word.strip()}
                 for layer, imports in rows}
    folders = {path.parent.name for path in (ROOT / "inspatio_ros").glob("*/__init__.py")}
    assert set(described) == folders & set(ALLOWED)
    for layer, imports in described.items():
        if not any(word.startswith("everything") for word in imports):
            assert imports == ALLOWED[layer], layer


def test_the_benchmarks_page_lists_every_script() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for path in (ROOT / "benchmarks").glob("*.py"):
        if "__main__" in path.read_text():
            assert f"| `{path.name}` |" in text, path.name
