"""Writes the records of a run to disk and, for rules that may stop the training, keeps them in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dogbreed.debugger import files
from dogbreed.debugger.findings import plain
from dogbreed.debugger.series import NodeActivity
from dogbreed.system.json_lines import JsonLines


class Block(NamedTuple):
    """Statistics of one collection at one step."""

    collection: str
    names: list[str]
    """Tensor names."""
    stats: dict[str, list[float]]
    """Statistic to one value per tensor."""


class RecordWriter:
    """Appends records to `debug/records.jsonl`.

    Args:
        folder: The run's folder.
        keep_rows: Whether this process also keeps all records in `rows`; memory then grows with each recorded step.
    """

    def __init__(self, folder: Path, keep_rows: bool = False) -> None:
        self.folder = folder / files.DEBUG
        self.keep_rows = keep_rows
        self.rows: list[dict[str, Any]] = []
        self.tags: Mapping[str, frozenset[str]] = {}
        self.activity: dict[str, NodeActivity] = {}
        self._lines = JsonLines(self.folder / files.RECORDS)
        self._names: dict[str, list[str]] = {}

    def reset(self) -> None:
        """Forgets all records, for a folder that was cleared."""
        self._lines.close()
        self.rows.clear()
        self._names.clear()
        self.activity.clear()

    def add(self, row: dict[str, Any]) -> None:
        """Appends a record of any kind."""
        if self.keep_rows:
            self.rows.append(row)
        self._lines.write(row)

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Writes `debug/run.json`."""
        files.write_json(self.folder / files.RUN, plain(settings))

    def add_event(self, name: str, step: int, epoch: int, **details: Any) -> None:
        """Appends an event with the current time."""
        now = round(time.time(), 3)
        self.add({"kind": "event", "name": name, "step": step, "epoch": epoch, "time": now, **details})

    def add_tensors(self, step: int, epoch: int, blocks: Sequence[Block], lr: float, skipped: bool) -> None:
        """Appends the statistics of an optimizer step.

        Args:
            step: Optimizer step.
            epoch: Epoch of the step.
            blocks: One per collection.
            lr: Largest learning rate of all parameter groups.
            skipped: Whether the gradient scaler skipped the step.
        """
        for collection, names, stats in blocks:
            if self._names.get(collection) != names:
                self._names[collection] = names
                # The calls of a layer that runs several times are named `relu`, `relu_1`, ...
                tags = [sorted(self.tags.get(name, self.tags.get(name.rpartition("_")[0], ()))) for name in names]
                self.add({"kind": "names", "collection": collection, "names": names, "tags": tags})
            digits = 9 if collection == "samples" else 6
            values = {name: files.rounded(column, digits) for name, column in stats.items()}
            row = {"kind": "tensors", "collection": collection, "step": step, "epoch": epoch, "stats": values}
            self.add({**row, "lr": lr, "skipped": skipped})

    def add_losses(self, losses: Sequence[tuple[int, int, float]]) -> None:
        """Appends training losses (step, epoch, value); those of one accumulated step are averaged."""
        by_step: dict[int, tuple[int, list[float]]] = {}
        for step, epoch, value in losses:
            by_step.setdefault(step, (epoch, []))[1].append(value)
        if by_step:
            values = files.rounded([float(np.mean(items)) for _, items in by_step.values()], 7)
            epochs = [epoch for epoch, _ in by_step.values()]
            self.add({"kind": "losses", "steps": list(by_step), "epochs": epochs, "values": values})

    def add_metrics(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """Appends the logged metrics of an epoch."""
        if metrics:
            self.add({"kind": "metrics", "epoch": epoch, "step": step, "values": dict(metrics)})

    def save_activity(self, counted: Mapping[str, NodeActivity]) -> None:
        """Writes `debug/activations.npz`: the latest count per layer; validation counts take precedence."""
        for name, item in counted.items():
            old = self.activity.get(name)
            if old is None or item.mode == "eval" or old.mode != "eval":
                self.activity[name] = item
        if not counted:
            return
        arrays: dict[str, Any] = {}
        for number, (name, item) in enumerate(self.activity.items()):
            arrays[f"inside_{number}"] = item.inside_percent.astype(np.float32)
            meta = [name, item.kind, str(item.num_samples), repr(item.low), repr(item.high), item.mode]
            arrays[f"meta_{number}"] = np.array(meta, dtype=np.str_)
        files.write_npz(self.folder / files.ACTIVATIONS, arrays)

    def flush(self) -> None:
        """Writes buffered records to disk."""
        self._lines.flush()

    def close(self) -> None:
        """Closes the file; the next record opens it again."""
        self._lines.close()
