"""Sections of the report: learning curves, layers, times and the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from dogbreed.debugger.recording import Missing, Recording
from dogbreed.debugger.report.charts import Line, bar_chart, heat_map, line_chart, number
from dogbreed.debugger.report.prediction_sections import calibration_section, confusion, gallery, per_class
from dogbreed.debugger.report.section import Section, Shares
from dogbreed.debugger.rules.steps import WARM_UP, step_statistics
from dogbreed.debugger.rules.system import usage_table
from dogbreed.debugger.series import PARTS, Array, Series, StepTimes, TensorSeries


def all_sections(recording: Recording, folder: Path) -> list[Section]:
    """Returns the sections for which something was recorded, in the report's order."""
    predictions = recording.inputs.get("predictions")
    sections = [
        curves(recording),
        confusion(predictions) if predictions else None,
        gallery(predictions, folder) if predictions else None,
        per_class(predictions, recording.settings) if predictions else None,
        calibration_section(predictions) if predictions else None,
        layers(recording),
        step_times(recording),
        system(recording),
    ]
    return [section for section in sections if section]


_NEEDS = {
    "Training loss": "losses",
    "Confusion, classes and calibration": "predictions",
    "Layers": "gradients",
    "Step times": "step_times",
    "The machine": "system",
    "Copies and unreadable images": "images",
}


def absent(recording: Recording) -> list[tuple[str, str]]:
    """Returns the sections that are missing: (title, reason)."""
    inputs = [(title, recording.get(name)) for title, name in _NEEDS.items()]
    missing = [(title, value.reason) for title, value in inputs if isinstance(value, Missing)]
    predictions = recording.inputs.get("predictions")
    if predictions is None or predictions.split != "test":
        missing.append(("Worst mistakes", "there was no test, which keeps images of mistakes"))
    return missing


def ending(recording: Recording) -> str:
    """Returns how the training ended before its last epoch; "" for one that finished."""
    last: dict[Any, dict[str, Any]] = {}
    for row in recording.events:
        if row.get("name") == "fit_start":  # a training that was resumed may have failed before
            last.clear()
        last[row.get("name")] = row
    for name in ("stopped", "exception"):
        if name in last:
            what = f"{last[name].get('by')} ended it" if name == "stopped" else "it failed"
            return f"{what} at step {last[name].get('step')}: {last[name].get('why')}"
    if "fit_start" in last and "fit_end" not in last:
        return "no end was recorded: it was killed, or is still running"
    done, requested = last.get("fit_end", {}).get("epoch"), recording.settings.get("epochs")
    if isinstance(done, int) and isinstance(requested, int) and done < requested:
        return f"it was stopped after {done} of {requested} epochs"
    return ""


_COLOURS = {"train": 1, "validation": 2}


def _line(name: str, series: Series) -> Line:
    return Line(name, series.steps.astype(np.float64), series.values, _COLOURS.get(name, 0))


def curves(recording: Recording) -> Section | None:
    """Learning curves; metrics of a single epoch are listed instead of drawn."""
    charts: list[tuple[str, Markup]] = []
    facts: dict[str, str] = {}
    starts = [row["step"] for row in recording.events if row.get("name") == "epoch_start"]
    losses = recording.inputs.get("losses")
    if losses is not None and len(losses) > 1:
        lines = [_line("loss", losses), Line("smoothed", losses.steps.astype(np.float64), smoothed(losses.values))]
        charts.append(("Training loss by step", line_chart(lines, "step", marks=starts[1:60])))
    for metric, stages in _by_epoch(recording).items():
        if all(len(series) < 2 for series in stages.values()):
            facts |= {f"{stage} {metric}": number(series.values[-1]) for stage, series in stages.items()}
        else:
            lines = [_line(stage, series) for stage, series in stages.items()]
            charts.append((f"{metric.capitalize()} by epoch", line_chart(lines, "epoch")))
    return Section(id="curves", title="Learning curves", charts=charts, facts=facts) if charts or facts else None


def _by_epoch(recording: Recording) -> dict[str, dict[str, Series]]:
    """Returns metric to stage (`train`, `validation`) to its values, the loss first."""
    epochs = {"train": recording.inputs.get("train_losses"), "validation": recording.inputs.get("val_losses")}
    metrics = {"loss": {stage: series for stage, series in epochs.items() if series is not None}}
    for name, (numbers, values) in sorted(recording.metrics.items()):
        stage, _, metric = name.partition("/")
        if metric and metric not in ("loss", "step_loss") and stage in ("train", "val"):
            stages = metrics.setdefault(metric.replace("_", " "), {})
            stages["validation" if stage == "val" else stage] = Series.of(values, numbers)
    return {metric: stages for metric, stages in metrics.items() if stages}


def smoothed(values: Array, width: int = 20) -> Array:
    """Returns the exponential mean over about `width` values; values that are not finite are skipped."""
    result = np.full(len(values), np.nan)
    mean = np.nan
    for i, value in enumerate(values):
        if np.isfinite(value):
            mean = value if np.isnan(mean) else mean + (value - mean) * 2 / (min(i, width) + 2)
        result[i] = mean
    return result


def layers(recording: Recording) -> Section | None:
    """Logarithm of gradients and update ratios by layer and recorded step, and active nodes of ReLU layers."""
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
    note = "Rows are weights in forward order (without biases and norms), columns recorded steps."
    return Section(id="layers", title="Layers", note=note, charts=maps, table=table)


def _log_map(series: TensorSeries, values: Array, cells: str) -> Markup:
    columns = [i for i, name in enumerate(series.names) if not series.tagged(name, "bias", "norm")]
    rows = np.linspace(0, len(series.steps) - 1, min(len(series.steps), 160)).astype(int)
    with np.errstate(divide="ignore", invalid="ignore"):
        table = np.log10(np.where(values > 0, values, np.nan))[rows][:, columns].T
    steps = [f"step {step}" for step in series.steps[rows]]
    return heat_map(table, [series.names[i] for i in columns], steps, label=cells)


def step_times(recording: Recording) -> Section | None:
    """Seconds of the run by phase, milliseconds of a training step by part, and a histogram of step times."""
    if not recording.phases_s:
        return None
    shares = [_shares(f"The run: {duration(sum(recording.phases_s.values()))}", recording.phases_s, duration)]
    charts, facts = [], {}
    times: StepTimes | None = recording.inputs.get("step_times")
    if times is not None and len(times.steps) > WARM_UP:
        total = 1000 * times.total[WARM_UP:]
        parts = {name: 1000 * float(times.parts[name][WARM_UP:].mean()) for name in PARTS}
        shares.append(_shares(f"A training step: {_ms(sum(parts.values()))} on average", parts, _ms))
        facts = {name: _ms(1000 * value) for name, value in step_statistics(times.total[WARM_UP:]).items()}
        high = float(np.percentile(total, 99.5))
        counts, edges = np.histogram(np.minimum(total, high), 40)
        histogram = bar_chart(edges, counts.astype(np.float64), "ms per step", "steps")
        charts = [("Step times (last bar: the slowest 0.5 %)", histogram)]
    note = "The phase setup is everything before training or validation: data, weights and cached features."
    return Section(id="steps", title="Where the time goes", note=note, charts=charts, shares=shares, facts=facts)


def _shares(title: str, parts: Mapping[str, float], text: Callable[[float], str]) -> Shares:
    total = max(sum(parts.values()), 1e-9)
    return Shares(title, [(name, text(value), 100 * value / total) for name, value in parts.items() if value > 0])


def _ms(value: float) -> str:
    return f"{value:.1f} ms"


def duration(seconds: float) -> str:
    """Returns `3.2 s`, `4 min 5 s` or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def system(recording: Recording) -> Section | None:
    """Metrics of the machine over time, with the starts of epochs."""
    series = recording.inputs.get("system")
    if series is None:
        return None
    start = float(series.times_s[0])
    minutes = (series.times_s - start) / 60
    starts = [(float(row["time"]) - start) / 60 for row in recording.events if row.get("name") == "epoch_start"][:80]
    charts = []

    def add(title: str, lines: list[Line], limits: tuple[float, float] | None = (0, 103)) -> None:
        charts.append((title, line_chart(lines, "minutes", y_range=limits, marks=starts)))

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
    if len(minutes) < 3:  # two samples are not a curve
        note, charts = "", []
    return Section(id="system", title="The machine", note=note, charts=charts, table={"head": head, "rows": rows})
