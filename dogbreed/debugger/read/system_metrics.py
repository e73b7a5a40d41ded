"""Reads system metrics in SageMaker's profiler layout, from our runs and from old SageMaker jobs. No torch here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dogbreed.debugger.series import Array, SystemSeries

_SNAPSHOT_S = 0.05
"""Rows closer than this belong to one snapshot: half the shortest sampling interval."""


def read_system_metrics(folder: Path, node: str | None = None) -> tuple[SystemSeries | None, list[str]]:
    """Returns (the metrics of one machine, problems).

    Args:
        folder: `profiler-output`, or any folder above the `*.json` files of system metrics.
        node: Name of the machine; default: the first one.
    """
    problems: list[str] = []
    rows: list[dict[str, Any]] = []
    for path in sorted(path for path in folder.rglob("*.json") if "framework" not in path.parts):
        rows += _rows(path, problems)
    nodes = sorted({str(row.get("NodeId")) for row in rows})
    if len(nodes) > 1 and node is None:
        problems.append(f"system metrics of {len(nodes)} machines: {nodes[0]} is shown")
    rows = [row for row in rows if str(row.get("NodeId")) == (node or nodes[0])]
    return (_series(rows) if rows else None), problems


def _rows(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    rows, num_damaged = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            rows.append({**row, "Timestamp": float(row["Timestamp"]), "Value": float(row["Value"])})
        except (ValueError, KeyError, TypeError):
            num_damaged += 1
    if num_damaged:
        problems.append(f"{path.name}: {num_damaged} of {num_damaged + len(rows)} lines are damaged and skipped")
    return rows


def _series(rows: list[dict[str, Any]]) -> SystemSeries:
    rows.sort(key=lambda row: row["Timestamp"])
    stamps = np.array([row["Timestamp"] for row in rows])
    snapshot = np.r_[0, np.cumsum(np.diff(stamps) > _SNAPSHOT_S)]
    times = stamps[np.r_[True, np.diff(snapshot) > 0]]
    tables: dict[str, dict[str, Array]] = {}
    for row, at in zip(rows, snapshot, strict=True):
        columns = tables.setdefault(_metric(row), {})
        columns.setdefault(str(row.get("Name")), np.full(len(times), np.nan))[at] = row["Value"]
    for metric, columns in tables.items():
        tables[metric] = {name: _forward_filled(columns[name]) for name in sorted(columns, key=_natural_order)}

    def stacked(metric: str) -> Array | None:
        return np.column_stack(list(tables[metric].values())) if metric in tables else None

    cpu = stacked("CPUUtilization")
    memory = tables.get("MemoryUsedPercent")
    return SystemSeries(
        times,
        np.full((len(times), 1), np.nan) if cpu is None else cpu,
        stacked("I/OWaitPercentage"),
        None if memory is None else next(iter(memory.values())),
        stacked("GPUUtilization"),
        stacked("GPUMemoryUtilization"),
        tables.get("network", {}),
        tables.get("disk", {}),
    )


def _metric(row: dict[str, Any]) -> str:
    """Returns the metric of a row: its Type for traffic, else its Dimension; memory rows differ between sources."""
    kind, dimension, name = str(row.get("Type")), str(row.get("Dimension")), str(row.get("Name"))
    if kind in ("network", "disk"):
        return kind
    return "MemoryUsedPercent" if "MemoryUsedPercent" in (dimension, name) else dimension


def _natural_order(name: str) -> tuple[str, int]:
    digits = "".join(filter(str.isdigit, name))
    return name.rstrip("0123456789"), int(digits) if digits else 0


def _forward_filled(values: Array) -> Array:
    """Returns the values with gaps filled with the previous one: machines do not write all rows at the same time."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return values
    nearest = np.searchsorted(known, np.arange(len(values)), side="right") - 1
    return values[known[np.maximum(nearest, 0)]]
