# SPDX-License-Identifier: Apache-2.0
"""Two goals at once: which results no other beats in both, and whether the goals go together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

# Fewer pairs say nothing about a correlation.
LEAST_PAIRS = 3


@dataclass(frozen=True)
class Correlation:
    """Of `pairs` pairs: Pearson's r, and Spearman's of the ranks; NaN where there is none."""

    pairs: int
    pearson: float
    spearman: float


def correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """How x and y go together, over the pairs in which both are finite.

    NaN with fewer than LEAST_PAIRS, or where one does not vary. Raises ValueError for unequal
    lengths.
    """
    from scipy.stats import rankdata

    if len(x) != len(y):
        raise ValueError(f"{len(x)} values against {len(y)}")
    pairs = np.array([x, y], np.float64).reshape(2, -1)
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    count = pairs.shape[1]
    if count < LEAST_PAIRS:
        return Correlation(count, math.nan, math.nan)
    return Correlation(count, _pearson(*pairs), _pearson(*(rankdata(part) for part in pairs)))


def _pearson(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    a, b = x - x.mean(), y - y.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return math.nan if size < 1e-12 else max(-1.0, min(1.0, float(a @ b) / size))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other beats: places in `points`, by rising x; larger is better in both.

    A point is beaten by one that is at least as good in both and better in one. Points that are
    not finite are left out.
    """
    finite = [i for i, point in enumerate(points) if all(math.isfinite(v) for v in point)]

    def is_beaten(i: int) -> bool:
        return any(points[j][0] >= points[i][0] and points[j][1] >= points[i][1]
                   and points[j] != points[i] for j in finite)

    return sorted((i for i in finite if not is_beaten(i)), key=lambda i: points[i])


@dataclass(frozen=True)
class Panel:
    """One plot: named points (x, y), larger is better in both; limit: y that can be reached."""

    title: str
    points: dict[str, tuple[float, float]]
    limit: float = math.nan


_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 380, 320, 58, 46, 36, 24
# Okabe and Ito 2008: points of the front, the others, the limit.
_FRONT, _BEATEN, _LIMIT = "#0072b2", "#999999", "#d55e00"


def pareto_svg(panels: Sequence[Panel], x_name: str, y_name: str, note: str = "") -> str:
    """A picture of the panels side by side, as SVG; points of each front are joined by a line.

    Panels without a finite point say so. Raises ValueError without a panel.
    """
    if not panels:
        raise ValueError("there is no panel to draw")
    width, height = _WIDTH * len(panels), _HEIGHT + (22 if note else 0)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
             f'<rect width="{width}" height="{height}" fill="white"/>']
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * _WIDTH} 0)">',
                  *_panel(panel, x_name, y_name), "</g>"]
    if note:
        parts.append(_text(10, height - 8, note))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, x_name: str, y_name: str) -> list[str]:
    names = [n for n, point in panel.points.items() if all(math.isfinite(v) for v in point)]
    right, low = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [_text(_LEFT, _TOP - 14, panel.title, weight="bold"),
             f'<path d="M{_LEFT} {_TOP}V{low}H{right}" fill="none" stroke="black"/>',
             _text((_LEFT + right) / 2, low + 34, x_name, anchor="middle"),
             f'<g transform="rotate(-90)">'
             f'{_text(-(_TOP + low) / 2, 14, y_name, anchor="middle")}</g>']
    if not names:
        return [*parts, _text((_LEFT + right) / 2, (_TOP + low) / 2, "nothing to compare",
                              anchor="middle")]
    points = [panel.points[name] for name in names]
    x_range = _range([x for x, _ in points])
    y_range = _range([y for _, y in points] + [v for v in [panel.limit] if math.isfinite(v)])

    def place(x: float, y: float) -> tuple[float, float]:
        return (_LEFT + (x - x_range[0]) / (x_range[1] - x_range[0]) * (right - _LEFT),
                low - (y - y_range[0]) / (y_range[1] - y_range[0]) * (low - _TOP))

    for share in (0.0, 0.5, 1.0):
        x, y = (r[0] + share * (r[1] - r[0]) for r in (x_range, y_range))
        parts += [_text(place(x, 0)[0], low + 15, f"{x:.4g}", anchor="middle"),
                  _text(_LEFT - 5, place(0, y)[1] + 4, f"{y:.3g}", anchor="end")]
    if math.isfinite(panel.limit):
        level = place(0, panel.limit)[1]
        parts += [f'<path d="M{_LEFT} {level:.1f}H{right}" stroke="{_LIMIT}" '
                  'stroke-dasharray="5 4"/>',
                  _text(right, level - 4, "true frames", anchor="end", color=_LIMIT)]
    front = pareto(points)
    line = " ".join("{:.1f},{:.1f}".format(*place(*points[i])) for i in front)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_FRONT}"/>')
    for i, (name, point) in enumerate(zip(names, points, strict=True)):
        x, y = place(*point)
        color = _FRONT if i in front else _BEATEN
        end = x > (_LEFT + right) / 2
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>',
                  _text(x - 7 if end else x + 7, y - 6, name, anchor="end" if end else "start")]
    return parts


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal",
          color: str = "black") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
            f'fill="{color}">{escape(text)}</text>')
