"""Assembles the inputs of rules from a run's records: rows of JSON Lines, on disk or in memory. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dogbreed.debugger.series import ImageStatistics, NodeActivity, Series, TensorSeries

Row = dict[str, Any]


def assemble(rows: Sequence[Row], settings: Mapping[str, Any], activity: Mapping[str, NodeActivity]) -> dict[str, Any]:
    """Returns input name (see `recording.INPUTS`) to value.

    Args:
        rows: The records.
        settings: The run's settings.
        activity: Layer name to how often its nodes were active.
    """
    inputs: dict[str, Any] = {"settings": dict(settings)} if settings else {}
    for collection in ("gradients", "weights", "updates", "activation_inputs"):
        series = tensor_series(rows, collection)
        if series is not None:
            inputs[collection] = series
    losses = _losses(rows)
    if losses is not None:
        inputs["losses"], inputs["train_losses"] = losses
    metrics = metrics_by_epoch(rows)
    for name, metric in (("train_losses", "train/loss"), ("val_losses", "val/loss"), ("val_accuracy", "val/accuracy")):
        if metric in metrics:
            inputs[name] = Series.of(metrics[metric][1], metrics[metric][0])
    images = [row for row in rows if row.get("kind") == "images"]
    if images:
        inputs["input_images"] = _images(images[-1], settings)
    if settings.get("class_counts"):
        inputs["class_counts"] = dict(settings["class_counts"])
    relu = {name: item for name, item in activity.items() if item.kind == "relu"}
    if relu:
        inputs["relu_activity"] = relu
    saturation = {name: item for name, item in activity.items() if item.kind in ("tanh", "sigmoid")}
    if saturation:
        inputs["saturation"] = saturation
    return inputs


def tensor_series(rows: Sequence[Row], collection: str) -> TensorSeries | None:
    """Returns the statistics of a collection over all recorded steps, None if it was not recorded."""
    blocks, order, tags = _blocks(rows, collection)
    if not blocks:
        return None
    sampled, _, _ = _blocks(rows, "samples") if collection == "weights" else ([], [], {})
    steps = sorted({step for step, _, _ in blocks})
    row_of = {step: i for i, step in enumerate(steps)}
    column_of = {name: i for i, name in enumerate(order)}
    stats: dict[str, Any] = {}
    skipped, lr = np.zeros(len(steps), dtype=bool), np.full(len(steps), np.nan)
    for step, names, row in blocks:
        columns = [column_of[name] for name in names]
        for name, values in row["stats"].items():
            table = stats.setdefault(name, np.full((len(steps), len(order)), np.nan))
            table[row_of[step], columns] = values
        skipped[row_of[step]], lr[row_of[step]] = bool(row.get("skipped")), float(row.get("lr", np.nan))
    samples = None
    for step, names, row in sampled:
        if samples is None:
            samples = np.full((len(steps), len(order), len(row["stats"])), np.nan)
        if step in row_of:
            for number, values in enumerate(row["stats"].values()):
                samples[row_of[step], [column_of[name] for name in names], number] = values
    return TensorSeries(tuple(order), np.asarray(steps, dtype=np.int64), stats, samples, tags, skipped, lr)


def _blocks(rows: Iterable[Row], collection: str) -> tuple[list[tuple[int, list[str], Row]], list[str], Any]:
    """Returns ([(step, names, row)], all names in forward order, name to tags)."""
    names: list[str] = []
    order: list[str] = []
    tags: dict[str, frozenset[str]] = {}
    blocks = []
    for row in rows:
        if row.get("collection") != collection:
            continue
        if row["kind"] == "names":
            names = list(row["names"])
            tags |= {name: frozenset(found) for name, found in zip(names, row["tags"], strict=True)}
            # The longer list is the more complete one, and lists are in forward order.
            longer, shorter = (names, order) if len(names) >= len(order) else (order, names)
            order = [*longer, *(name for name in shorter if name not in set(longer))]
        elif row["kind"] == "tensors":
            blocks.append((int(row["step"]), names, row))
    return blocks, order, tags


def _losses(rows: Sequence[Row]) -> tuple[Series, Series] | None:
    """Returns the training losses by step and their mean by epoch, None without any."""
    found = [row for row in rows if row.get("kind") == "losses"]
    steps = [step for row in found for step in row["steps"]]
    if not steps:
        return None
    last = {step: i for i, step in enumerate(steps)}  # a resumed run repeats steps; the later one counts
    keep = [last[step] for step in sorted(last)]
    values = np.array([value for row in found for value in row["values"]], dtype=np.float64)[keep]
    epochs = np.array([epoch for row in found for epoch in row["epochs"]], dtype=np.int64)[keep]
    numbers = np.unique(epochs)
    means = [float(values[epochs == number].mean()) for number in numbers]
    return Series.of(values.tolist(), sorted(last)), Series.of(means, numbers.tolist())


def metrics_by_epoch(rows: Sequence[Row]) -> dict[str, tuple[list[int], list[float]]]:
    """Returns metric name to (epochs, values); the later of two values for an epoch counts."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.get("kind") == "metrics":
            for name, value in row["values"].items():
                found.setdefault(name, {})[int(row["epoch"])] = float(value)
    return {name: (sorted(values), [values[epoch] for epoch in sorted(values)]) for name, values in found.items()}


def _images(row: Row, settings: Mapping[str, Any]) -> ImageStatistics:
    mean, std = (np.asarray(row[name], dtype=np.float64) for name in ("mean", "std"))
    expected = (tuple(settings.get("mean") or ()), tuple(settings.get("std") or ()))
    return ImageStatistics(int(row["num_images"]), mean, std, float(row["minimum"]), float(row["maximum"]), *expected)
