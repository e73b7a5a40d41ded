"""Results of a run: the best epoch, results.json, the objective line and the table on the terminal."""

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


def summarise(
    history: Mapping[int, Mapping[str, float]], metric: str, goal: str, first_epoch: int = 0
) -> dict[str, Any]:
    """Returns the best epoch (None if no value is finite), its metrics, and the metrics of all epochs.

    Args:
        history: Epoch to metric name to value.
        metric: Metric to compare.
        goal: `maximize` or `minimize`.
        first_epoch: First epoch whose weights are still available.
    """
    sign = 1 if goal == "maximize" else -1
    scores = {epoch: sign * metrics[metric] for epoch, metrics in history.items() if metric in metrics}
    finite = {epoch: score for epoch, score in scores.items() if math.isfinite(score) and epoch >= first_epoch}
    best = max(finite, key=finite.__getitem__) if finite else None
    return {"best_epoch": best, "best": history.get(best, {}) if best is not None else {}, "epochs": history}


def save_results(results: Mapping[str, Any], output_dir: Path) -> None:
    """Writes results.json; numbers that are not finite become null."""
    (output_dir / "results.json").write_text(json.dumps(_as_json(results), indent=2, allow_nan=False) + "\n")


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_results(results: Mapping[str, Any], output_dir: Path) -> None:
    """Prints the objective line of the best epoch, which SageMaker takes as the job's result, and the table."""
    if results["best_epoch"] is not None:
        print(metric_line(results["best_epoch"], results["best"] | results.get("test", {})), flush=True)
    table = Table("metric")
    columns = {f"best epoch ({results['best_epoch']})": results["best"], "test": results.get("test", {})}
    for column in columns:
        table.add_column(column, justify="right")
    kinds = {name.partition("/")[2] for metrics in columns.values() for name in metrics}
    for kind in [kind for kind in ("accuracy", "top5_accuracy", "f1", "loss") if kind in kinds]:
        cells = [metrics.get(f"val/{kind}", metrics.get(f"test/{kind}")) for metrics in columns.values()]
        table.add_row(kind, *("-" if value is None else f"{value:.4f}" for value in cells))
    width = None if sys.stdout.isatty() else 100
    console = Console(width=width, highlight=False, markup=False, emoji=False)  # users' names may contain brackets
    console.print(f"\n{results['name']}: {results['model']} on {results['data']}", style="bold", soft_wrap=True)
    console.print(table)
    if results["bad_images"]:
        console.print(f"{len(results['bad_images'])} unreadable images were skipped; results.json lists them")
    if results["stopped_by"]:
        console.print(
            f"stopped by {results['stopped_by']}; continue with resume_from={output_dir}/checkpoints/last.ckpt"
        )
    for rule, summary in results.get("issues", {}).items():
        console.print(f"{rule}: {summary}", soft_wrap=True)
    console.print(f"{results['seconds']:.0f} s; results are in {output_dir}", soft_wrap=True)
