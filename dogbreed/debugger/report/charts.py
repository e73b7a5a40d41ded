"""Charts as inline SVG and pixel images, without any plotting library: small, offline, and in the page's own colours.

Colours are CSS variables of the template (`--c1` .. `--c6`), so that a chart follows dark mode.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from dogbreed.debugger.series import Array

WIDTH, HEIGHT = 520, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 14, 38
_MOST_POINTS, _MOST_DOTS = 300, 12


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    x: Array
    y: Array
    colour: int = 0
    """1 to 6, the same for the same thing in every chart; 0: by its place among the lines."""


@dataclass(frozen=True)
class Axes:
    """What a line chart is drawn on."""

    x_label: str
    y_label: str = ""
    log_y: bool = False
    y_range: tuple[float, float] | None = None
    marks: Sequence[float] = field(default_factory=tuple)
    """Positions of thin vertical lines, such as the starts of epochs."""
    rules: Sequence[float] = field(default_factory=tuple)
    """Positions of thin horizontal lines, such as thresholds."""


def number(value: float) -> str:
    """Returns a short text for a number: three or four significant digits, large ones with k, M, G."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) < 1e4 or abs(value) >= 1e12:
        return f"{value:.4g}" if 1e3 <= abs(value) < 1e4 else f"{value:.3g}"
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.3g}{letter}"
    return f"{value:.3g}"


def thinned(line: Line) -> Line:
    """Returns the line with at most a few hundred points: the smallest and the largest of each stretch stay."""
    if len(line.x) <= _MOST_POINTS:
        return line
    keep = []
    for part in np.array_split(np.arange(len(line.x)), _MOST_POINTS // 2):
        values = np.where(np.isfinite(line.y[part]), line.y[part], np.nanmedian(line.y[np.isfinite(line.y)]))
        keep += sorted({int(part[np.argmin(values)]), int(part[np.argmax(values)])})
    return Line(line.name, line.x[keep], line.y[keep], line.colour)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns round numbers from `low` to `high`."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(lines: Sequence[Line], axes: Axes) -> Markup:
    """Returns an SVG of the lines; points that are not finite are gaps."""
    if not axes.log_y and _spans_decades(lines):
        axes = replace(axes, log_y=True)
    shown = [thinned(line) for line in lines if np.isfinite(_scaled(line.y, axes.log_y)).any()]
    if not shown:
        return Markup('<p class="none">nothing was recorded</p>')
    ys = np.concatenate([_scaled(line.y, axes.log_y) for line in shown])
    xs = np.concatenate([line.x for line in shown])
    x0, x1 = float(np.nanmin(xs)), float(np.nanmax(xs))
    y0, y1 = axes.y_range or _padded(float(np.nanmin(ys)), float(np.nanmax(ys)), axes.log_y)
    x1 = x1 if x1 > x0 else x0 + 1

    def px(value: float) -> float:
        return _LEFT + (value - x0) / (x1 - x0) * (WIDTH - _LEFT - _RIGHT)

    def py(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - _TOP - _BOTTOM)

    parts = [_grid(axes, (x0, x1), (y0, y1), px, py)]
    for i, line in enumerate(shown):
        colour = line.colour or i % 6 + 1
        parts.append(f'<path class="line c{colour}" d="{_path(line, axes, px, py)}"/>')
        if len(line.x) <= _MOST_DOTS:  # one epoch alone is a point, and no line
            points = zip(line.x, _scaled(line.y, axes.log_y), strict=True)
            dots = "".join(f"M{px(x):.1f} {py(y):.1f}h0" for x, y in points if np.isfinite(y))
            parts.append(f'<path class="line dot c{colour}" d="{dots}"/>')
    data = [
        {
            "n": line.name,
            "x": [round(px(x), 1) for x in line.x],
            "t": [number(x) for x in line.x],
            "v": list(map(number, line.y)),
        }
        for line in shown
    ]
    legend = "".join(
        f'<span><i class="b{line.colour or i % 6 + 1}"></i>{escape(line.name)}</span>' for i, line in enumerate(shown)
    )
    return Markup(
        f'<figure class="chart"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(axes.y_label)}" '
        f'data-x="{escape(axes.x_label)}" data-lines="{escape(json.dumps(data, separators=(",", ":")))}">'
        f"{''.join(parts)}</svg><figcaption>{legend if len(shown) > 1 or shown[0].name else ''}</figcaption></figure>"
    )


def _spans_decades(lines: Sequence[Line]) -> bool:
    """Returns whether positive values are so far apart that a linear axis would show a single peak."""
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines]) if lines else np.empty(0)
    return bool(len(values)) and values.min() > 0 and values.max() > 1e4 * float(np.median(values))


def _scaled(values: Array, log: bool) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(np.where(values > 0, values, np.nan)) if log else np.where(np.isfinite(values), values, np.nan)


def _padded(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        return math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    margin = 0.06 * (high - low) or max(abs(high) * 0.1, 0.5)
    return (0.0 if 0 <= low < 0.35 * high else low - margin), high + margin


def _path(line: Line, axes: Axes, px, py) -> str:  # type: ignore[no-untyped-def]  # two local coordinate functions
    steps = []
    pen_up = True
    for x, y in zip(line.x, _scaled(line.y, axes.log_y), strict=True):
        if not math.isfinite(y):
            pen_up = True
            continue
        steps.append(f"{'M' if pen_up else 'L'}{px(x):.1f} {py(y):.1f}")
        pen_up = False
    return "".join(steps)


def _grid(axes: Axes, x_range: tuple[float, float], y_range: tuple[float, float], px, py) -> str:  # type: ignore[no-untyped-def]
    parts = []
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    labels = [
        (v, f"1e{v:.0f}" if axes.log_y else number(v)) for v in ticks(*y_range, 4) if not axes.log_y or v == int(v)
    ]
    for value, text in labels:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{py(value):.1f}" y2="{py(value):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{py(value) + 3.5:.1f}" text-anchor="end">{text}</text>')
    whole = axes.x_label in ("epoch", "step")
    for value in (at for at in ticks(*x_range, 6) if not whole or at == int(at)):
        parts.append(f'<text x="{px(value):.1f}" y="{bottom + 15}" text-anchor="middle">{number(value)}</text>')
    for value in axes.marks:
        if x_range[0] <= value <= x_range[1]:
            parts.append(f'<line class="mark" x1="{px(value):.1f}" x2="{px(value):.1f}" y1="{_TOP}" y2="{bottom}"/>')
    for value in axes.rules:
        at = math.log10(value) if axes.log_y else value
        if y_range[0] <= at <= y_range[1]:
            parts.append(f'<line class="rule" x1="{_LEFT}" x2="{right}" y1="{py(at):.1f}" y2="{py(at):.1f}"/>')
    parts.append(f'<text class="axis" x="{right}" y="{HEIGHT - 3}" text-anchor="end">{escape(axes.x_label)}</text>')
    parts.append(f'<text class="axis" x="{_LEFT}" y="{_TOP - 2}">{escape(axes.y_label)}</text>')
    return "".join(parts)


def bar_chart(edges: Array, heights: Array, axes: Axes, diagonal: bool = False) -> Markup:
    """Returns an SVG of bars between `edges` (N + 1); with `diagonal`, the line y = x is drawn over them."""
    known = np.nan_to_num(heights)
    top = axes.y_range[1] if axes.y_range else float(known.max(initial=0)) * 1.08 or 1.0
    low, high = float(edges[0]), float(edges[-1])

    def px(value: float) -> float:
        return _LEFT + (value - low) / (high - low or 1) * (WIDTH - _LEFT - _RIGHT)

    def py(value: float) -> float:
        return HEIGHT - _BOTTOM - value / top * (HEIGHT - _TOP - _BOTTOM)

    parts = [_grid(axes, (low, high), (0, top), px, py)]
    for left, right, height in zip(edges[:-1], edges[1:], known, strict=True):
        if height > 0:
            title = f"{number(left)} to {number(right)}: {number(height)}"
            width = max(0.5, px(right) - px(left) - 1)
            parts.append(
                f'<rect class="bar" x="{px(left) + 0.5:.1f}" y="{py(height):.1f}" width="{width:.1f}"'
                f' height="{py(0) - py(height):.1f}"><title>{title}</title></rect>'
            )
    if diagonal:
        parts.append(f'<path class="rule" d="M{px(low):.1f} {py(0):.1f}L{px(high):.1f} {py(1):.1f}"/>')
    return Markup(
        f'<figure class="chart"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg></figure>'
    )


_SCALE = np.array([[13, 20, 48], [45, 62, 140], [45, 128, 168], [72, 186, 150], [190, 220, 90], [253, 245, 160]])
"""Dark blue to light yellow, even in lightness: the same order to every eye and in grey."""


def pixels(values: Array, low: float, high: float) -> str:
    """Returns a PNG data URI with one pixel a value; nan is transparent."""
    from PIL import Image

    share = np.clip((values - low) / ((high - low) or 1), 0, 1) * (len(_SCALE) - 1)
    known = np.isfinite(values)
    share = np.where(known, share, 0.0)
    left = np.minimum(share.astype(np.int64), len(_SCALE) - 2)
    part = (share - left)[..., None]
    rgb = _SCALE[left] * (1 - part) + _SCALE[left + 1] * part
    rgba: NDArray[np.uint8] = np.dstack([rgb, 255 * known]).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    """Returns the content as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def heat_map(
    values: Array, rows: Sequence[str], columns: Sequence[str], *, cells: str, low: float, high: float
) -> Markup:
    """Returns a pixel image (rows x columns) that tells row, column and `cells` value of the pixel pointed at."""
    packed = {
        "rows": list(rows),
        "cols": list(columns),
        "cells": cells,
        "v": [[None if not math.isfinite(v) else float(f"{v:.3g}") for v in row] for row in values.tolist()],
    }
    source = pixels(values, low, high)
    ratio = max(0.12, min(1.0, len(rows) / max(len(columns), 1)))
    return Markup(
        f'<figure class="heat" data-map="{escape(json.dumps(packed, separators=(",", ":")))}">'
        f'<img src="{source}" alt="{escape(cells)}" style="aspect-ratio:{1 / ratio:.3f}">'
        f'<figcaption><span>{number(low)}</span><i class="scale"></i><span>{number(high)}</span>'
        f" {escape(cells)}</figcaption></figure>"
    )
