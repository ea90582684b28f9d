# SPDX-License-Identifier: Apache-2.0
"""The report of a replay experiment as one HTML file: plots as SVG, pictures within it."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Colour-blind safe (Okabe and Ito 2008), and grey for more.
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a000", "#888888")
_CAUSES = (("observed", "#009e73"), ("memory", "#56b4e9"), ("disoccluded", "#d55e00"),
           ("out_of_view", "#e69f00"), ("no_depth", "#cc79a7"), ("other", "#888888"))
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 440, 250, 52, 40, 14, 12

_STYLE = """
:root{--ink:#1b1f24;--soft:#5b6570;--line:#d8dde3;--back:#fff;--panel:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa4ae;--line:#39424c;
--back:#14181c;--panel:#1c2228}}
body{margin:0 auto;max-width:1500px;padding:24px;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:24px;margin:0}h2{font-size:18px;margin:32px 0 8px}p{margin:4px 0;color:var(--soft)}
.plots{display:flex;flex-wrap:wrap;gap:16px}
figure{margin:0;background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:8px}
figcaption{font-size:13px;color:var(--soft);max-width:440px}
svg{display:block;max-width:100%}svg text{fill:var(--soft);font:11px system-ui,sans-serif}
.grid{stroke:var(--line)}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:3px 9px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{color:var(--soft);font-weight:600}th:first-child,td:first-child{text-align:left}
td.best{font-weight:700}tr.first td{border-top:2px solid var(--line)}
.legend span{display:inline-block;margin-right:14px;font-size:13px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:5px}
.row{display:flex;gap:6px;overflow-x:auto}.row div{flex:1 0 180px;font-size:12px;
color:var(--soft)}.row img{width:100%;border-radius:3px;display:block}
pre{background:var(--panel);padding:12px;overflow-x:auto;font-size:12px}
"""


@dataclass(frozen=True)
class Example:
    """A view to show: a line of text, and JPEG pictures by name."""

    title: str
    pictures: Mapping[str, bytes]


@dataclass(frozen=True)
class Line:
    """A line of a plot; points (x, y) in order. dashed: for what is only a comparison."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str
    dashed: bool = False


def page(content: Mapping[str, Any], best: Sequence[Example], worst: Sequence[Example]) -> str:
    """The page of a report.json; needs no other file and no network."""
    title = f"Replay of {content['recording']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>", _summary(content), _legend(_methods(content)),
        '<h2>Quality by horizon</h2><div class="plots">', *_quality_plots(content), "</div>",
        "<h2>Where pixels come from, and why holes are holes</h2>", _shares(content),
        "<h2>All figures</h2>", _results(content),
        '<h2>Along the way, and what expected error is worth</h2><div class="plots">',
        *_way_plots(content), "</div>", _offsets(content),
        "<h2>Best views</h2>", *map(_example, best),
        "<h2>Worst views</h2>", *map(_example, worst),
        "<h2>Left out, and why</h2>", _missing(content),
        "<h2>The experiment</h2>", f"<pre>{html.escape(_yaml(content['experiment']))}</pre>",
    ]
    return ("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>"
            f"{html.escape(title)}</title><meta name=\"viewport\" "
            "content=\"width=device-width,initial-scale=1\"><style>" + _STYLE
            + "</style></head><body>\n" + "\n".join(part for part in parts if part)
            + "\n</body></html>\n")


def _summary(content: Mapping[str, Any]) -> str:
    camera, depth = content["camera"], content["depth"]
    truth = (f"judged by measured depth ({depth['truth']})" if depth["truth"]
             else "no measured depth to judge it by")
    return (f"<p>{content['starts']} starts, pictures {camera['width']}x{camera['height']}; depth "
            f"from {html.escape(depth['provider'])}, {truth}. Imagined along the path that was "
            "really taken, compared with what was really seen then. PSNR is pooled over pixels."
            f"</p><p>SHA-256 of all imagined pixels: {content['digest'][:16]}</p>")


def _methods(content: Mapping[str, Any]) -> dict[str, str]:
    names = list(dict.fromkeys(result["method"] for result in content["results"]))
    return {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(reversed(names))}


def _legend(colors: Mapping[str, str]) -> str:
    return '<p class="legend">' + "".join(
        f'<span><i style="background:{color}"></i>{html.escape(name)}</span>'
        for name, color in reversed(list(colors.items()))) + "</p>"


def _lines(content: Mapping[str, Any], key: str, floor: str = "") -> list[Line]:
    lines = []
    for method, color in reversed(list(_methods(content).items())):
        points = [(r["horizon_s"], r[key]) for r in content["results"]
                  if r["method"] == method and r[key] is not None]
        lines.append(Line(method, points, color))
    if floor:
        held = {r["horizon_s"]: r[floor] for r in content["results"] if r[floor] is not None}
        lines.append(Line("real frames", sorted(held.items()), "currentColor", dashed=True))
    return lines


def _quality_plots(content: Mapping[str, Any]) -> list[str]:
    plots = (("PSNR of all pixels, dB", "psnr_all", ""), ("PSNR, covered, dB", "psnr_covered", ""),
             ("PSNR, holes, dB", "psnr_holes", ""), ("SSIM of all pixels", "ssim_all", ""),
             ("flicker, grey values (dashed: the real frames)", "flicker", "flicker_truth"),
             ("gradient spectrum distance in holes, octaves (less is better)", "gradient_holes",
              ""),
             ("camera control, 0 to 100 (dashed: the estimator on real frames)", "camera_score",
              "camera_floor_score"),
             ("feature distance, EfficientNet-Lite0 (less is better)", "feature_distance", ""),
             ("LPIPS (less is better)", "lpips_all", ""),
             ("PSNR of places seen before, dB", "psnr_revisit", ""))
    figures = []
    for caption, key, floor in plots:
        lines = _lines(content, key, floor)
        if any(line.points for line in lines):
            figures.append(line_plot(caption, lines, "s ahead"))
    return figures


def _way_plots(content: Mapping[str, Any]) -> list[str]:
    colors = _methods(content)
    figures = []
    drift = []
    for method in dict.fromkeys(row["method"] for row in content["drift"]):
        rows = [row for row in content["drift"] if row["method"] == method]
        for key, dashed in (("psnr_all", False), ("psnr_covered", True)):
            drift.append(Line(method, [((row["from_s"] + row["to_s"]) / 2, row[key])
                                       for row in rows if row[key] is not None],
                              colors[method], dashed))
    if any(line.points for line in drift):
        figures.append(line_plot("drift: PSNR by block along the way, dB (dashed: covered)", drift,
                                 "s ahead"))
    for method, found in content["expected_error"].items():
        lines = [Line(name, [(bin_["predicted"], bin_["error"]) for bin_ in found[name][
            "reliability"]], color, dashed)
            for name, color, dashed in (("prior", "#888888", True),
                                        ("expected", colors[method], False))]
        top = max((max(p) for line in lines for p in line.points), default=0.0)
        if top > 0:
            lines.append(Line("ideal", [(0.0, 0.0), (top, top)], "var(--line)"))
            figures.append(line_plot(
                f"{method}: real against expected error ({_calibration_note(found)}); dashed: "
                "before calibration", lines, "expected error"))
    return figures


def _calibration_note(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {found[name]['pairs']} views, gap {_number(found[name]['gap'], 3)},"
                     f" AUSE {_number(found[name]['ause'], 3)}" for name in ("expected", "prior"))


def line_plot(caption: str, lines: Sequence[Line], x_label: str) -> str:
    """A figure with the lines in one SVG; axes from the smallest to the largest value."""
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    xs, ys = ticks([p[0] for p in points]), ticks([p[1] for p in points])

    def place(point: tuple[float, float]) -> str:
        x = _LEFT + (point[0] - xs[0]) / (xs[-1] - xs[0]) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - (point[1] - ys[0]) / (ys[-1] - ys[0]) * (
            _HEIGHT - _BOTTOM - _TOP)
        return f"{x:.1f},{y:.1f}"

    body = []
    for x in xs:
        at = place((x, ys[0])).split(",")
        body.append(f'<line class="grid" x1="{at[0]}" x2="{at[0]}" y1="{_TOP}" y2="{at[1]}"/>'
                    f'<text x="{at[0]}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{x:g}'
                    "</text>")
    for y in ys:
        at = place((xs[0], y)).split(",")
        body.append(f'<line class="grid" x1="{at[0]}" x2="{_WIDTH - _RIGHT}" y1="{at[1]}" '
                    f'y2="{at[1]}"/><text x="{_LEFT - 6}" y="{float(at[1]) + 4:.1f}" '
                    f'text-anchor="end">{y:g}</text>')
    body.append(f'<text x="{(_LEFT + _WIDTH) / 2:g}" y="{_HEIGHT - 6}" text-anchor="middle">'
                f"{html.escape(x_label)}</text>")
    for line in lines:
        if not line.points:
            continue
        dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
        drawn = " ".join(place(p) for p in line.points)
        dots = "".join('<circle cx="{}" cy="{}" r="2.6"/>'.format(*place(p).split(","))
                       for p in line.points)
        body.append(f'<g fill="{line.color}" color="var(--ink)"><title>{html.escape(line.name)}'
                    f'</title><polyline points="{drawn}" fill="none" stroke="{line.color}" '
                    f'stroke-width="1.8"{dashes}/>{dots}</g>')
    return (f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
            f'role="img" aria-label="{html.escape(caption)}">{"".join(body)}</svg>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>")


def ticks(values: Sequence[float], most: int = 6) -> list[float]:
    """Round numbers, at least two, that enclose the values."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(abs(high), 1e-9):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / (most - 1)
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * s for s in (1, 2, 2.5, 5, 10) if scale * s >= rough * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _shares(content: Mapping[str, Any]) -> str:
    rows = {r["horizon_s"]: r for r in content["results"]}
    bars, height = [], 26
    for i, (horizon, row) in enumerate(sorted(rows.items())):
        left = 60.0
        bars.append(f'<text x="52" y="{i * height + 17}" text-anchor="end">{horizon:g} s</text>')
        for cause, color in _CAUSES:
            share = row[f"share_{cause}"]
            if share:
                bars.append(f'<rect x="{left:.1f}" y="{i * height + 3}" width="{share * 800:.1f}" '
                            f'height="{height - 8}" fill="{color}"><title>{cause}: {share:.3f}'
                            "</title></rect>")
                if share > 0.05:
                    bars.append(f'<text x="{left + share * 400:.1f}" y="{i * height + 16}" '
                                f'text-anchor="middle" style="fill:#111">{100 * share:.0f} %'
                                "</text>")
                left += share * 800
    legend = _legend({cause: color for cause, color in reversed(_CAUSES)})
    return (f'{legend}<figure><svg viewBox="0 0 870 {len(rows) * height}" width="870" '
            f'height="{len(rows) * height}" role="img">{"".join(bars)}</svg></figure>')


_COLUMNS = (
    ("frames", "frames", 0), ("coverage", "coverage", 2), ("psnr_all", "PSNR", 2),
    ("psnr_covered", "covered", 2), ("psnr_holes", "holes", 2), ("psnr_observed", "observed", 2),
    ("psnr_memory", "memory", 2), ("psnr_disoccluded", "disoccluded", 2),
    ("psnr_out_of_view", "out of view", 2), ("psnr_no_depth", "no depth", 2),
    ("ssim_all", "SSIM", 3), ("ssim_holes", "SSIM holes", 3), ("lpips_all", "LPIPS", 3),
    ("feature_distance", "features", 3), ("gradient_holes", "gradients", 2), ("fid", "FID", 1),
    ("flicker", "flicker", 1), ("depth_abs_rel", "AbsRel", 3), ("depth_farther", "farther", 3),
    ("camera_score", "camera", 1), ("camera_rotation_deg", "deg", 2),
    ("camera_translation_m", "m", 3), ("camera_found", "found", 2),
    ("psnr_revisit", "revisit", 2))
_MORE_IS_BETTER = ("psnr_", "ssim_", "camera_score")


def _results(content: Mapping[str, Any]) -> str:
    results = content["results"]
    columns = [c for c in _COLUMNS if any(r[c[0]] is not None for r in results)]
    head = "<tr><th>method</th><th>s</th>" + "".join(f"<th>{c[1]}</th>" for c in columns) + "</tr>"
    rows, before = [], None
    for result in results:
        cells = []
        for key, _, digits in columns:
            same = [r[key] for r in results if r["horizon_s"] == result["horizon_s"]
                    and r[key] is not None]
            best = key.startswith(_MORE_IS_BETTER) and len(same) > 1 and result[key] == max(same)
            cells.append(f'<td{" class=best" if best else ""}>{_number(result[key], digits)}</td>')
        first = ' class="first"' if result["horizon_s"] != before else ""
        before = result["horizon_s"]
        rows.append(f"<tr{first}><td>{html.escape(result['method'])}</td>"
                    f"<td>{result['horizon_s']:g}</td>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _offsets(content: Mapping[str, Any]) -> str:
    rows = content["offsets"]
    if not rows:
        return ""
    keys = ("horizon_s", "frames", "coverage", "share_observed", "share_memory",
            "expected_error_prior", "extrapolation_m", "extrapolation_rad")
    body = "".join(
        f"<tr><td>{row['lateral_m']:g} m, {math.degrees(row['yaw_rad']):g}°</td>"
        + "".join(f"<td>{_number(row[key], 3)}</td>" for key in keys) + "</tr>" for row in rows)
    head = "".join(f"<th>{key}</th>" for key in ("aside", *keys))
    return ("<h2>From aside (no truth there: what is known)</h2><div class=\"scroll\"><table>"
            f"<tr>{head}</tr>{body}</table></div>")


def _example(example: Example) -> str:
    pictures = "".join(
        f'<div><img alt="{html.escape(name)}" src="data:image/jpeg;base64,'
        f'{base64.b64encode(data).decode("ascii")}">{html.escape(name)}</div>'
        for name, data in example.pictures.items())
    return f"<p>{html.escape(example.title)}</p><div class=\"row\">{pictures}</div>"


def _missing(content: Mapping[str, Any]) -> str:
    lines = [f"<li><b>{html.escape(name)}</b>: {html.escape(reason)}</li>"
             for name, reason in content["missing"].items()]
    lines += [f"<li><b>{row['horizon_s']:g} s</b>: {row['starts']} starts left out: "
              f"{html.escape(row['reason'])}</li>" for row in content["unreached"]]
    return f"<ul>{''.join(lines)}</ul>" if lines else "<p>Nothing.</p>"


def _yaml(experiment: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(experiment), sort_keys=False, default_flow_style=None))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
