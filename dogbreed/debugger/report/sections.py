"""What the report shows beside findings: curves, matrices, tables and images, made of a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from dogbreed.debugger.recording import Missing, Recording
from dogbreed.debugger.report.charts import Axes, Line, bar_chart, heat_map, line_chart
from dogbreed.debugger.report.prediction_sections import calibration_section, gallery, matrix, per_class
from dogbreed.debugger.report.section import Section
from dogbreed.debugger.rules.steps import WARM_UP, step_statistics
from dogbreed.debugger.rules.system import usage_table
from dogbreed.debugger.series import PARTS, Array, Series, TensorSeries


def all_sections(recording: Recording, folder: Path) -> list[Section]:
    """Returns the sections for which something was recorded, in the report's order."""
    predictions = recording.inputs.get("predictions")
    made = [
        curves(recording),
        matrix(predictions) if predictions else None,
        gallery(predictions, folder) if predictions else None,
        per_class(predictions, recording.settings) if predictions else None,
        calibration_section(predictions) if predictions else None,
        layers(recording),
        step_times(recording),
        system(recording),
    ]
    return [section for section in made if section]


_NEEDS = {
    "Learning curves": "losses",
    "Confusion, classes and calibration": "predictions",
    "Layers": "gradients",
    "Where the time goes": "step_times",
    "The machine": "system",
    "Copies and unreadable images": "images",
}


def absent(recording: Recording) -> list[tuple[str, str]]:
    """Returns what the report does not show, and why: (title, reason)."""
    looked = [(title, recording.get(name)) for title, name in _NEEDS.items()]
    missing = [(title, value.reason) for title, value in looked if isinstance(value, Missing)]
    times = recording.inputs.get("step_times")
    if times is not None and len(times.steps) <= WARM_UP:
        missing.append(("Where the time goes", f"{len(times.steps)} steps were timed, all of them to warm up"))
    predictions = recording.inputs.get("predictions")
    if predictions is None or predictions.split != "test":
        missing.append(("Worst mistakes", "there was no test, in which images of mistakes are kept"))
    return missing


def ending(recording: Recording) -> str:
    """Returns how the training ended, where it did not go through all its epochs; "" else."""
    last: dict[Any, dict[str, Any]] = {}
    for row in recording.events:
        if row.get("name") == "fit_start":  # a training that was resumed may have failed before
            last.clear()
        last[row.get("name")] = row
    for name in ("stopped", "exception"):
        if name in last:
            who = f"{last[name].get('by')} ended it" if name == "stopped" else "it failed"
            return f"{who} at step {last[name].get('step')}: {last[name].get('why')}"
    if "fit_start" in last and "fit_end" not in last:
        return "no end was recorded: it was killed, or is not over yet"
    done, asked = last.get("fit_end", {}).get("epoch"), recording.settings.get("epochs")
    if isinstance(done, int) and isinstance(asked, int) and done < asked:
        return f"it was stopped after {done} of {asked} epochs"
    return ""


_COLOURS = {"train": 1, "validation": 2}


def _line(name: str, series: Series) -> Line:
    return Line(name, series.steps.astype(np.float64), series.values, _COLOURS.get(name, 0))


def curves(recording: Recording) -> Section | None:
    """Learning curves: loss by step and by epoch, every other metric by epoch."""
    charts: list[tuple[str, Markup]] = []
    starts = [row["step"] for row in recording.events if row.get("name") == "epoch_start"]
    losses = recording.inputs.get("losses")
    if losses is not None:
        lines = [_line("loss", losses), Line("smoothed", losses.steps.astype(np.float64), smoothed(losses.values))]
        charts.append(("Training loss by step", line_chart(lines, Axes("step", marks=starts[1:60]))))
    epochs = [("train", recording.inputs.get("train_losses")), ("validation", recording.inputs.get("val_losses"))]
    lines = [_line(name, series) for name, series in epochs if series is not None]
    if lines:
        charts.append(("Loss by epoch", line_chart(lines, Axes("epoch"))))
    names: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for name, values in recording.metrics.items():
        stage, _, metric = name.partition("/")
        if metric and metric not in ("loss", "step_loss") and stage in ("train", "val"):
            names.setdefault(metric, {})["validation" if stage == "val" else stage] = values
    for metric, stages in names.items():
        lines = [_line(stage, Series.of(stages[stage][1], stages[stage][0])) for stage in sorted(stages)]
        charts.append((f"{metric.replace('_', ' ').capitalize()} by epoch", line_chart(lines, Axes("epoch"))))
    return Section(id="curves", title="Learning curves", charts=charts) if charts else None


def smoothed(values: Array, width: int = 20) -> Array:
    """Returns the exponential mean over about `width` values; values that are not finite leave it as it is."""
    result = np.full(len(values), np.nan)
    mean = np.nan
    for i, value in enumerate(values):
        if np.isfinite(value):
            mean = value if np.isnan(mean) else mean + (value - mean) * 2 / (min(i, width) + 2)
        result[i] = mean
    return result


def layers(recording: Recording) -> Section | None:
    """Gradients and update ratios by layer and recorded step, as pixels of their logarithm."""
    maps = []
    gradients: TensorSeries | None = recording.inputs.get("gradients")
    updates: TensorSeries | None = recording.inputs.get("updates")
    if gradients is not None:
        maps.append(("Mean |gradient|", _log_map(gradients, gradients.stat("abs_mean"), "log10 mean |gradient|")))
    if updates is not None:
        ratio = updates.stat("abs_mean") / (updates.stat("weight_abs_mean") + 1e-9)
        maps.append(
            ("Update / weight of a step (about 1e-3 is usual)", _log_map(updates, ratio, "log10 update / weight"))
        )
    activity = recording.inputs.get("relu_activity") or {}
    rows = [
        [
            name,
            len(item.inside_percent),
            f"{100 * np.mean(item.inside_percent < 1):.0f} %",
            f"{item.inside_percent.mean():.0f} %",
        ]
        for name, item in activity.items()
    ]
    head = ["ReLU layer", "nodes", "dead", "mean activity"]
    table = {"head": head, "rows": rows, "sortable": True, "tall": True} if rows else None
    if not maps and not table:
        return None
    note = "Rows are weights in forward order (biases and norms left out), columns recorded steps."
    return Section(id="layers", title="Layers", note=note, charts=maps, table=table)


def _log_map(series: TensorSeries, values: Array, cells: str) -> Markup:
    columns = [i for i, name in enumerate(series.names) if not series.tagged(name, "bias", "norm")]
    rows = np.linspace(0, len(series.steps) - 1, min(len(series.steps), 160)).astype(int)
    with np.errstate(divide="ignore", invalid="ignore"):
        table = np.log10(np.where(values > 0, values, np.nan))[rows][:, columns].T
    finite = table[np.isfinite(table)]
    low, high = (float(v) for v in np.percentile(finite, (1, 99))) if len(finite) else (0.0, 1.0)
    steps = [f"step {step}" for step in series.steps[rows]]
    return heat_map(table, [series.names[i] for i in columns], steps, cells=cells, low=low, high=high)


def step_times(recording: Recording) -> Section | None:
    """Histogram of step times, and what they are made of."""
    times = recording.inputs.get("step_times")
    if times is None or len(times.steps) <= WARM_UP:
        return None
    total = 1000 * times.total[WARM_UP:]
    high = float(np.percentile(total, 99.5))
    counts, edges = np.histogram(np.minimum(total, high), 40)
    histogram = bar_chart(edges, counts.astype(np.float64), Axes("ms a step", "steps"))
    whole = max(sum(float(times.parts[name][WARM_UP:].sum()) for name in PARTS), 1e-9)
    shares = [(name, 100 * float(times.parts[name][WARM_UP:].sum()) / whole) for name in PARTS]
    statistics = {name: f"{1000 * value:.1f} ms" for name, value in step_statistics(times.total[WARM_UP:]).items()}
    charts = [("Step times (last bar: the slowest 0.5 %)", histogram)]
    return Section(id="steps", title="Where the time goes", charts=charts, shares=shares, facts=statistics)


def system(recording: Recording) -> Section | None:
    """The machine on one time axis, starts of epochs marked."""
    series = recording.inputs.get("system")
    if series is None:
        return None
    start = float(series.times_s[0])
    minutes = (series.times_s - start) / 60
    starts = [(float(row["time"]) - start) / 60 for row in recording.events if row.get("name") == "epoch_start"][:80]
    charts = []

    def add(title: str, lines: list[Line], limits: tuple[float, float] | None = (0, 103)) -> None:
        charts.append((title, line_chart(lines, Axes("minutes", y_range=limits, marks=starts))))

    cores = series.cpu.shape[1]
    lines = [Line("mean", minutes, series.cpu.mean(axis=1)), Line("busiest core", minutes, series.cpu.max(axis=1))]
    add(f"CPU, % of {cores} core{'s' if cores > 1 else ''}", lines if cores > 1 else lines[:1])
    if series.memory is not None:
        add("Memory, %", [Line("", minutes, series.memory)])
    if series.io_wait is not None:
        add("Waiting for I/O, %", [Line("", minutes, series.io_wait.max(axis=1))])
    for title, values in (("GPU, %", series.gpu), ("GPU memory, %", series.gpu_memory)):
        if values is not None:
            add(title, [Line(f"gpu{i}", minutes, column) for i, column in enumerate(values.T)])
    for title, tables in (("Network, MB/s", series.network), ("Disk, MB/s", series.disk)):
        if tables:
            names = [name.removesuffix("BytesPerSecond").lower() for name in tables]
            add(title, [Line(n, minutes, v / 1e6) for n, v in zip(names, tables.values(), strict=True)], None)
    head = ["metric", "max", "p99", "p95", "p50", "min"]
    rows = [[name, *(f"{row[key]:,.1f}" for key in head[1:])] for name, row in usage_table(series).items()]
    note = "Thin vertical lines are starts of epochs."
    return Section(id="system", title="The machine", note=note, charts=charts, table={"head": head, "rows": rows})
