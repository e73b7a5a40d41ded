"""What a training has found: its best epoch, results.json, the objective line, and the table that people read."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dogbreed.callbacks.metric_line import metric_line


def best_of(history: Mapping[int, Mapping[str, float]], metric: str, goal: str, since: int = 0) -> dict[str, Any]:
    """Returns the best epoch by an objective, its metrics, and those of every epoch.

    Args:
        history: Epoch to metric name to value.
        metric: The objective.
        goal: `maximize` or `minimize`.
        since: First epoch that may be the best: weights of those before are gone.
    """
    sign = 1 if goal == "maximize" else -1
    scored = {epoch: sign * metrics[metric] for epoch, metrics in history.items() if metric in metrics}
    finite = {epoch: score for epoch, score in scored.items() if math.isfinite(score) and epoch >= since}
    best = max(finite, key=finite.__getitem__) if finite else None
    return {"best_epoch": best, "best": history.get(best, {}) if best is not None else {}, "epochs": history}


def save(results: dict[str, Any], output_dir: Path) -> None:
    """Writes results.json."""
    (output_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def show(results: dict[str, Any], output_dir: Path) -> None:
    """Prints the objective line and the table."""
    if results["best_epoch"] is not None:  # last, so that the best epoch's objective is the one the job is judged by
        print(metric_line(results["best_epoch"], results["best"] | results.get("test", {})), flush=True)
    _print_table(results, output_dir)


def _print_table(results: dict[str, Any], output_dir: Path) -> None:
    table = Table("metric")
    columns = {f"best epoch ({results['best_epoch']})": results["best"], "test": results.get("test", {})}
    for column in columns:
        table.add_column(column, justify="right")
    kinds = {name.partition("/")[2] for metrics in columns.values() for name in metrics}
    for kind in [kind for kind in ("accuracy", "top5_accuracy", "f1", "loss") if kind in kinds]:
        cells = [metrics.get(f"val/{kind}", metrics.get(f"test/{kind}")) for metrics in columns.values()]
        table.add_row(kind, *("-" if value is None else f"{value:.4f}" for value in cells))
    width = None if sys.stdout.isatty() else 100
    console = Console(width=width, highlight=False, markup=False, emoji=False)  # brackets are people's own
    console.print(f"\n{results['name']}: {results['model']} on {results['data']}", style="bold", soft_wrap=True)
    console.print(table)
    if results["bad_images"]:
        console.print(f"{len(results['bad_images'])} unreadable images were left out; results.json names them")
    if results["stopped_by"]:
        console.print(f"stopped by {results['stopped_by']}; go on with resume_from={output_dir}/checkpoints/last.ckpt")
    for rule, summary in results.get("issues", {}).items():
        console.print(f"{rule}: {summary}", soft_wrap=True)
    console.print(f"{results['seconds']:.0f} s; everything is in {output_dir}", soft_wrap=True)
