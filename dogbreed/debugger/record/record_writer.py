"""Writes records of a run, on disk and in memory, where rules that may stop a training look at them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dogbreed.debugger import files
from dogbreed.debugger.findings import plain
from dogbreed.debugger.series import NodeActivity
from dogbreed.system.json_lines import JsonLines

Block = tuple[str, list[str], dict[str, list[float]]]
"""(collection, tensor names, statistic to one value a tensor)."""


class RecordWriter:
    """Appends records to `debug/records.jsonl`; the rows of this process are also kept in `rows`.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / files.DEBUG
        self.rows: list[dict[str, Any]] = []
        self.tags: Mapping[str, frozenset[str]] = {}
        self.activity: dict[str, NodeActivity] = {}
        self._lines = JsonLines(self.folder / files.RECORDS)
        self._names: dict[str, list[str]] = {}

    def forget(self) -> None:
        """Starts anew, in an emptied folder."""
        self._lines.close()
        self.rows.clear()
        self._names.clear()
        self.activity.clear()

    def add(self, row: dict[str, Any]) -> None:
        """Appends a record of any kind."""
        self.rows.append(row)
        self._lines.write(row)

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Writes `debug/run.json`."""
        files.write_json(self.folder / files.RUN, plain(settings))

    def event(self, name: str, step: int, epoch: int, **more: Any) -> None:
        """Notes that something happened, with the time."""
        self.add({"kind": "event", "name": name, "step": step, "epoch": epoch, "time": round(time.time(), 3), **more})

    def tensors(self, step: int, epoch: int, blocks: Sequence[Block], lr: float, skipped: bool) -> None:
        """Appends what was recorded of tensors at an optimizer step."""
        for collection, names, stats in blocks:
            if self._names.get(collection) != names:
                self._names[collection] = names
                # A layer that is called several times is recorded as `relu`, `relu_1`, ...
                tags = [sorted(self.tags.get(name, self.tags.get(name.rpartition("_")[0], ()))) for name in names]
                self.add({"kind": "names", "collection": collection, "names": names, "tags": tags})
            digits = 9 if collection == "samples" else 6
            values = {name: files.rounded(column, digits) for name, column in stats.items()}
            row = {"kind": "tensors", "collection": collection, "step": step, "epoch": epoch, "stats": values}
            self.add({**row, "lr": lr, "skipped": skipped})

    def losses(self, losses: Sequence[tuple[int, int, float]]) -> None:
        """Appends training losses (step, epoch, value); those of one accumulated step are averaged."""
        by_step: dict[int, tuple[int, list[float]]] = {}
        for step, epoch, value in losses:
            by_step.setdefault(step, (epoch, []))[1].append(value)
        if by_step:
            values = files.rounded([float(np.mean(items)) for _, items in by_step.values()], 7)
            epochs = [epoch for epoch, _ in by_step.values()]
            self.add({"kind": "losses", "steps": list(by_step), "epochs": epochs, "values": values})

    def metrics(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """Appends logged metrics of an epoch."""
        if metrics:
            self.add({"kind": "metrics", "epoch": epoch, "step": step, "values": dict(metrics)})

    def save_activity(self, counted: Mapping[str, NodeActivity]) -> None:
        """Writes `debug/activations.npz`: the newest count of each layer; a count in validation outweighs training."""
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
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / (files.ACTIVATIONS + ".part.npz")
        np.savez_compressed(part, **arrays)
        part.replace(self.folder / files.ACTIVATIONS)

    def flush(self) -> None:
        """Puts everything so far on disk."""
        self._lines.flush()

    def close(self) -> None:
        """Closes the file; a later record opens it again."""
        self._lines.close()
