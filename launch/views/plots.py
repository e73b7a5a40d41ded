"""Plots a sweep: the objective against each hyperparameter, and the learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from dogbreed.system.atomic import atomic_write
from launch.runs.results import Sweep, Trial
from launch.spec.naming import short_name
from launch.views.text import brief, decimal

GREY, BLUE, ORANGE = "#9aa5b1", "#2563eb", "#ea580c"


def plot_sweep(sweep: Sweep, curves: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Plots `sweep` into a PNG file, with `curves` of trial name to epoch to objective.

    Trials without an objective are counted in the title and not plotted.
    """
    scored = [trial for trial in sweep.trials if trial.objective is not None]
    keys = list(dict.fromkeys(key for trial in sweep.trials for key in trial.hyperparameters))
    has_curves = not keys or any(len(curve) > 1 for curve in curves.values())  # one epoch is not a curve
    num_panels = len(keys) + has_curves
    num_columns = min(3, num_panels)
    num_rows = math.ceil(num_panels / num_columns)
    width, height = 4.6 * num_columns, 3.7 * num_rows + 0.6
    figure = Figure(figsize=(width, height), dpi=120)
    # In inches; fixed margins, because matplotlib's layout engines take as long as the plot itself.
    figure.subplots_adjust(0.8 / width, 0.6 / height, 1 - 0.15 / width, 1 - 0.6 / height, wspace=0.3, hspace=0.28)
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, num_columns, squeeze=False).flatten().tolist()
    for key, axis in zip(keys, axes, strict=False):
        _scatter(axis, key, scored, sweep)
    if has_curves:
        _curves(axes[len(keys)], curves, sweep)
    for axis in axes[num_panels:]:
        axis.set_visible(False)
    left_out = len(sweep.trials) - len(scored)
    note = f"; {left_out} without a result" if left_out else ""
    best = sweep.best
    result = "" if best is None else f", best {sweep.metric} {decimal(best.objective)} (trial {short_name(best.name)})"
    figure.suptitle(f"{sweep.name}: {len(scored)} trials{result}{note}", fontsize=12)
    atomic_write(path, lambda part: figure.savefig(part, format="png"))


def _style(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def _scatter(axis: Any, key: str, trials: Sequence[Trial], sweep: Sweep) -> None:
    """Plots the objective against one hyperparameter; text values are evenly spaced."""
    texts = [trial.hyperparameters[key] for trial in trials if key in trial.hyperparameters]
    scores = [trial.objective for trial in trials if key in trial.hyperparameters]
    numbers = [_number(text) for text in texts]
    words = sorted(set(texts), key=lambda text: (_number(text) is None, _number(text) or 0.0, text))
    as_words = None in numbers or len(words) <= 5 < len(texts)
    places = [words.index(text) for text in texts] if as_words else numbers
    colors = [ORANGE if trial is sweep.best else BLUE for trial in trials if key in trial.hyperparameters]
    axis.scatter(places, scores, c=colors, s=44, alpha=0.85, zorder=3)
    if as_words:
        axis.set_xticks(range(len(words)), [brief(word) for word in words])
        axis.set_xlim(-0.5, len(words) - 0.5)
    elif key in sweep.log_keys:
        axis.set_xscale("log")
        known = [number for number in numbers if number]
        subs = (1.0, 2.0, 5.0) if known and max(known) < 100 * min(known) else (1.0,)
        axis.xaxis.set_major_locator(LogLocator(subs=subs))
        axis.xaxis.set_minor_formatter(NullFormatter())  # labels between decades overlap
        axis.xaxis.set_major_formatter("{x:g}")  # as the user writes it; rendering powers with mathtext is slow
    axis.set_xlabel(key)
    axis.set_ylabel(sweep.metric)
    _style(axis)


def _curves(axis: Any, curves: Mapping[str, Mapping[int, float]], sweep: Sweep) -> None:
    best = sweep.best
    for name, curve in curves.items():
        chosen = best is not None and name == best.name
        style = {"color": ORANGE, "linewidth": 2.4, "zorder": 4} if chosen else {"color": GREY, "linewidth": 1.3}
        label = f"best (trial {short_name(name)})" if chosen else None
        axis.plot(
            [epoch + 1 for epoch in sorted(curve)], [curve[e] for e in sorted(curve)], marker=".", label=label, **style
        )
    last = max((epoch + 1 for curve in curves.values() for epoch in curve), default=1)
    axis.set_xlim(0.8, max(last, 2) + 0.2)
    axis.set_xlabel("epoch")
    axis.set_ylabel(sweep.metric)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if best is not None and best.name in curves:
        axis.legend(frameon=False)
    _style(axis)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
