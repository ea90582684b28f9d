# SPDX-License-Identifier: Apache-2.0
"""Writing a player page into a folder of videos."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ASSETS = ("player.css", "player.js")


@dataclass(frozen=True)
class PageVideo:
    """One video of a page. file: relative to the page. note: a few words after the label."""

    name: str
    label: str
    file: str
    note: str = ""


@dataclass(frozen=True)
class PageOverlay:
    """A video shown half transparent over the video named `on`; `key` switches it.

    colors: of a grey video: 'labels' for the four labels of provenance, 'heat' for 0 (clear) to
    100 of 255 (white); empty: as it is.
    """

    name: str
    label: str
    file: str
    on: str
    key: str
    colors: str = ""


@dataclass(frozen=True)
class PageSeries:
    """A number per frame, plotted under the timeline; None or NaN where there is none."""

    label: str
    values: Sequence[float | None]
    unit: str = ""


def write_page(
    folder: str | Path,
    videos: Sequence[PageVideo],
    *,
    fps: float,
    frames: int,
    title: str,
    subtitle: str = "",
    overlays: Sequence[PageOverlay] = (),
    series: Sequence[PageSeries] = (),
    name: str = "index.html",
) -> Path:
    """Write `name` and what it needs into `folder`; the page's path.

    The page plays from the folder itself (file://) and through `inspatio view`. All videos have
    `fps` and about `frames` frames. Raises ValueError when no video is given.
    """
    if not videos or not fps > 0 or frames < 1:
        raise ValueError("a page needs at least one video, a positive fps and a frame")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    for asset in ASSETS:
        shutil.copyfile(here / asset, target / asset)
    page = target / name
    shutil.copyfile(here / "player.html", page)
    description = {
        "title": title,
        "subtitle": subtitle,
        "fps": fps,
        "frames": frames,
        "videos": [asdict(video) for video in videos],
        "overlays": [asdict(overlay) for overlay in overlays],
        "series": [
            {"label": s.label, "unit": s.unit, "values": [_number(v) for v in s.values]}
            for s in series
        ],
    }
    # "</" would end a script element should somebody paste the data into a page.
    text = json.dumps(description, indent=1, allow_nan=False).replace("</", "<\\/")
    (target / "player_data.js").write_text(f"window.INSPATIO_PLAYER = {text};\n", encoding="utf-8")
    return page


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
