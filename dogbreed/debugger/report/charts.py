"""Charts as inline SVG that follow the page's colours, drawn with matplotlib."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from dogbreed.debugger.series import Array

_COLOURS = ("#2f5bd8", "#e0762f", "#1c9a76", "#a44bc4", "#c9372c", "#6b7789")
_SOFT, _GRID = "#5c6778", "#e2e6ec"
_VARIABLES = {colour: f"--c{i}" for i, colour in enumerate(_COLOURS, 1)} | {_SOFT: "--soft", _GRID: "--line"}
"""Colour to the CSS variable of the page that replaces it, so that charts have a dark mode."""

_STYLE: dict[Any, Any] = {
    **{"svg.fonttype": "none", "svg.hashsalt": "dogbreed", "font.size": 9.5, "figure.constrained_layout.use": True},
    **{"text.color": _SOFT, "axes.labelcolor": _SOFT, "xtick.color": _SOFT, "ytick.color": _SOFT},
    **{"axes.edgecolor": _GRID, "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": _GRID},
    **{"axes.spines.top": False, "axes.spines.right": False, "xtick.major.size": 0, "ytick.major.size": 0},
    **{"lines.linewidth": 1.4, "legend.frameon": False, "axes.formatter.useoffset": False},
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_WIDTH_IN, _HEIGHT_IN = 5.4, 2.3
_MAX_POINTS, _MAX_MARKERS, _MAX_LABELS = 300, 12, 40


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    x: Array
    y: Array
    colour: int = 0
    """1 to 6, for the same thing in every chart; 0: by its position among the lines."""


def number(value: float) -> str:
    """Returns a short text for a number: three or four significant digits, large ones with k, M, G."""
    if not math.isfinite(value) or abs(value) >= 1e12:
        return f"{value:.3g}"
    for limit, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.4g}" if abs(value) >= 1e3 else f"{value:.3g}"


def thinned(line: Line) -> Line:
    """Returns the line with at most `_MAX_POINTS` points; each stretch keeps its smallest and its largest."""
    if len(line.x) <= _MAX_POINTS:
        return line
    keep = []
    for part in np.array_split(np.arange(len(line.x)), _MAX_POINTS // 2):
        values = np.where(np.isfinite(line.y[part]), line.y[part], np.nanmedian(line.y[np.isfinite(line.y)]))
        keep += sorted({int(part[np.argmin(values)]), int(part[np.argmax(values)])})
    return Line(line.name, line.x[keep], line.y[keep], line.colour)


@contextmanager
def _figure(height: float) -> Iterator[Any]:
    """Yields an empty figure in the page's style, whatever style the user's notebook has set."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield Figure(figsize=(_WIDTH_IN, height))


def _svg(figure: Any, label: str) -> Markup:
    """Returns the figure as an SVG element without ids, fonts and namespaces, which would act on the entire page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub(r"<style.*?</style>|; font-family: [^;\"]*|(?<=<g) id=\"[^\"]*\"|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"\s+", " ", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    size = " ".join(f"{72 * inches:g}" for inches in figure.get_size_inches())
    head = f'<figure class="chart"><svg viewBox="0 0 {size}" role="img" aria-label="{escape(label)}">'
    return Markup(f"{head}{text}</figure>")


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    *,
    y_range: tuple[float, float] | None = None,
    marks: Sequence[float] = (),
) -> Markup:
    """Returns an SVG of the lines; values that are not finite are gaps.

    Args:
        lines: What to draw. The axis is logarithmic if their positive values are decades apart.
        x_label: What x counts; `epoch` and `step` have integer ticks.
        y_range: Ends of the axis; None: those of the values.
        marks: Positions of thin vertical lines, such as the starts of epochs.
    """
    from matplotlib.ticker import MaxNLocator

    shown = [thinned(line) for line in lines if np.isfinite(line.y).any()]
    if not shown:
        return Markup('<p class="none">nothing was recorded</p>')
    with _figure(_HEIGHT_IN) as figure:
        axes = figure.subplots()
        for i, line in enumerate(shown):
            marker = "o" if len(line.x) <= _MAX_MARKERS else None
            colour = _COLOURS[(line.colour or i % 6 + 1) - 1]
            y = np.where(np.isfinite(line.y), line.y, np.nan)
            axes.plot(line.x, y, color=colour, marker=marker, markersize=3.5, label=line.name or "_")
        if _spans_decades(shown):
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=x_label in ("epoch", "step")))
        axes.set(xlabel=x_label, ylim=y_range)
        first, last = axes.get_xlim()
        for mark in marks:
            if first < mark < last:
                axes.axvline(mark, color=_SOFT, alpha=0.35, linewidth=0.7, linestyle=":")
        if len(shown) > 1 or shown[0].name:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, borderaxespad=0, borderpad=0.2)
        return _svg(figure, ", ".join(line.name for line in shown) + f" by {x_label}")


def _spans_decades(lines: Sequence[Line]) -> bool:
    """Returns whether positive values are so far apart that a linear axis would show a single peak."""
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
    return bool(values.min() > 0 and values.max() > 1e4 * float(np.median(values)))


def bar_chart(edges: Array, heights: Array, x_label: str, y_label: str, *, diagonal: bool = False) -> Markup:
    """Returns an SVG of bars.

    Args:
        edges: (N + 1,) ends of the bars.
        heights: (N,) NaN for no bar.
        x_label: What the edges measure.
        y_label: What the heights measure.
        diagonal: Whether both axes are shares, and the line y = x is drawn over the bars.
    """
    with _figure(_HEIGHT_IN) as figure:
        axes = figure.subplots()
        axes.bar(edges[:-1], np.nan_to_num(heights), 0.94 * np.diff(edges), align="edge", color=_COLOURS[0], alpha=0.8)
        axes.set(xlabel=x_label, ylabel=y_label)
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_COLOURS[4], linestyle="--", linewidth=1)
            axes.set(ylim=(0, 1))
        return _svg(figure, f"{y_label} by {x_label}")


def heat_map(values: Array, rows: Sequence[str], columns: Sequence[str], *, label: str) -> Markup:
    """Returns an SVG of the values as pixels with a colour bar.

    Args:
        values: (R, C); NaN is transparent. Colours span the 1st to the 99th percentile.
        rows: R names; every k-th is shown if they are many.
        columns: C names, of which the first, the middle and the last are shown.
        label: What the values measure.
    """
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (1, 99)) if len(finite) else (0.0, 1.0)
    every = math.ceil(len(rows) / _MAX_LABELS)
    with _figure(0.7 + 0.13 * max(8, min(len(rows), _MAX_LABELS))) as figure:
        axes = figure.subplots()
        image = axes.imshow(values, aspect="auto", interpolation="none", vmin=low, vmax=high)
        axes.grid(visible=False)
        axes.set_yticks(range(0, len(rows), every), rows[::every], fontsize=6.5)
        shown = sorted({0, len(columns) // 2, len(columns) - 1})
        axes.set_xticks(shown, [columns[i] for i in shown])
        figure.colorbar(image, label=label, pad=0.02)
        return _svg(figure, label)


def data_uri(content: bytes, kind: str) -> str:
    """Returns the content as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
