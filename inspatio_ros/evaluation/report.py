# SPDX-License-Identifier: Apache-2.0
"""Pictures and tables that show what an evaluation found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.sensing.observation import Provenance

Image = npt.NDArray[np.uint8]

# Colour-blind safe (Okabe and Ito 2008): seen now, remembered, invented, unknown.
PROVENANCE_COLORS: dict[Provenance, tuple[int, int, int]] = {
    Provenance.OBSERVED: (0, 158, 115), Provenance.MEMORY: (86, 180, 233),
    Provenance.IMAGINED: (230, 159, 0), Provenance.UNKNOWN: (0, 0, 0)}

_MARGIN, _LABEL = 4, 22


def provenance_picture(provenance: npt.NDArray[np.uint8], image: Image | None = None) -> Image:
    """A provenance picture [H, W] in colours, RGB [H, W, 3]; over `image` where one is given."""
    palette = np.full((256, 3), 255, np.uint8)
    for label, color in PROVENANCE_COLORS.items():
        palette[label] = color
    colored = palette[provenance]
    if image is None:
        return colored
    grey = image.mean(axis=2, keepdims=True)
    return np.asarray(np.rint(0.55 * colored + 0.45 * grey), dtype=np.uint8)


def error_picture(image: Image, truth: Image) -> Image:
    """The mean absolute colour error of two pictures, RGB [H, W, 3]: black 0, white 100 of 255."""
    error = np.abs(image.astype(np.int16) - truth).mean(axis=2)
    scaled = np.clip(error * 2.55, 0, 255).astype(np.uint8)
    colored = cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(colored, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def contact_sheet(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Image]]],
                  cell_width: int = 320) -> Image:
    """One RGB picture of all: a line of names, then a row of pictures each with its label.

    Every picture keeps its aspect and becomes `cell_width` wide. Raises ValueError when there is
    nothing to show or a row has another number of pictures than there are columns.
    """
    if not rows or any(len(pictures) != len(columns) for _, pictures in rows):
        raise ValueError(f"a contact sheet needs rows of {len(columns)} pictures each")
    heights = [max(round(cell_width * p.shape[0] / p.shape[1]) for p in pictures)
               for _, pictures in rows]
    width = len(columns) * (cell_width + _MARGIN) + _MARGIN
    sheet = np.full((_LABEL + sum(h + _LABEL + _MARGIN for h in heights), width, 3), 24, np.uint8)
    for column, name in enumerate(columns):
        _write(sheet, name, _MARGIN + column * (cell_width + _MARGIN), _LABEL - 6, 0.5)
    top = _LABEL
    for (label, pictures), height in zip(rows, heights, strict=True):
        _write(sheet, label, _MARGIN, top + _LABEL - 7, 0.45)
        top += _LABEL
        for column, picture in enumerate(pictures):
            fitted = round(cell_width * picture.shape[0] / picture.shape[1])
            small = cv2.resize(picture, (cell_width, fitted), interpolation=cv2.INTER_AREA)
            left = _MARGIN + column * (cell_width + _MARGIN)
            sheet[top:top + fitted, left:left + cell_width] = small
        top += height + _MARGIN
    return sheet


def _write(sheet: Image, text: str, x: int, y: int, scale: float) -> None:
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (235, 235, 235), 1,
                cv2.LINE_AA)


def save_picture(path: str | Path, image: Image) -> None:
    """Write an RGB picture as PNG or jpeg, by the file's suffix. Raises OSError."""
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path}: cannot be written")


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        parts = [cell.ljust(w) if i == 0 else cell.rjust(w)
                 for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]
        return "  ".join(parts).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for documents."""
    return "\n".join("| " + " | ".join(cells) + " |"
                     for cells in (head, ["---"] * len(head), *rows))
