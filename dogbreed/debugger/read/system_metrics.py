"""SageMaker's layout of system metrics: written by `SystemProfiler`, read here and by smdebug's readers.

    profiler-output/system/incremental/<YYYYMMDDHH>/<epoch seconds of the full minute>.<node>.json

One JSON object a line: Type, Name, Dimension, Value, NodeId, Timestamp (seconds). Rows for `cpu` and `gpu` are named
as SageMaker names them; the names of the others are ours where no public file shows them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dogbreed.debugger.series import Array, SystemSeries

_STEP_S = 0.05
"""Rows closer than this belong to one snapshot: half the shortest interval between two."""


def read_system_metrics(folder: Path, node: str | None = None) -> tuple[SystemSeries | None, list[str]]:
    """Returns (what the machine did, what could not be read), of one node: `node`, or the first there is.

    `folder` is `profiler-output`, or any folder above the `*.json` files of system metrics.
    """
    problems: list[str] = []
    rows: list[dict[str, Any]] = []
    paths = sorted(path for path in folder.rglob("*.json") if "framework" not in path.parts)
    for path in paths:
        rows += _rows(path, problems)
    nodes = sorted({str(row.get("NodeId")) for row in rows})
    if len(nodes) > 1 and node is None:
        problems.append(f"system metrics of {len(nodes)} machines: {nodes[0]} is shown")
    rows = [row for row in rows if str(row.get("NodeId")) == (node or nodes[0])]
    return (_table(rows) if rows else None), problems


def _rows(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    rows, broken = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            rows.append({**row, "Timestamp": float(row["Timestamp"]), "Value": float(row["Value"])})
        except (ValueError, KeyError, TypeError):
            broken += 1
    if broken:
        problems.append(f"{path.name}: {broken} of {broken + len(rows)} lines are damaged and left out")
    return rows


def _table(rows: list[dict[str, Any]]) -> SystemSeries:
    rows.sort(key=lambda row: row["Timestamp"])
    stamps = np.array([row["Timestamp"] for row in rows])
    snapshot = np.r_[0, np.cumsum(np.diff(stamps) > _STEP_S)]
    times = stamps[np.r_[True, np.diff(snapshot) > 0]]
    columns: dict[tuple[str, str], Array] = {}
    for row, at in zip(rows, snapshot, strict=True):
        key = (_dimension(row), str(row.get("Name")))
        columns.setdefault(key, np.full(len(times), np.nan))[at] = row["Value"]
    tables = {}
    for dimension in {key[0] for key in columns}:
        names = sorted((key[1] for key in columns if key[0] == dimension), key=_number)
        tables[dimension] = {name: _filled(columns[(dimension, name)]) for name in names}

    def wide(dimension: str) -> Array | None:
        return np.column_stack(list(tables[dimension].values())) if dimension in tables else None

    cpu = wide("CPUUtilization")
    memory = tables.get("MemoryUsedPercent")
    return SystemSeries(
        times,
        np.full((len(times), 1), np.nan) if cpu is None else cpu,
        wide("I/OWaitPercentage"),
        None if memory is None else next(iter(memory.values())),
        wide("GPUUtilization"),
        wide("GPUMemoryUtilization"),
        tables.get("network", {}),
        tables.get("disk", {}),
    )


def _dimension(row: dict[str, Any]) -> str:
    """Returns under which name a row is kept: its Dimension, else its Type or Name."""
    kind, dimension, name = str(row.get("Type")), str(row.get("Dimension")), str(row.get("Name"))
    if kind in ("network", "disk"):
        return kind
    return "MemoryUsedPercent" if "MemoryUsedPercent" in (dimension, name) else dimension


def _number(name: str) -> tuple[str, int]:
    digits = "".join(filter(str.isdigit, name))
    return name.rstrip("0123456789"), int(digits) if digits else 0


def _filled(values: Array) -> Array:
    """Returns the values with gaps closed by the last one before: nodes do not write everything at once."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return values
    nearest = np.searchsorted(known, np.arange(len(values)), side="right") - 1
    return values[known[np.maximum(nearest, 0)]]
