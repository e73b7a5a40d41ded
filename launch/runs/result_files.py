"""The result files of a sweep: results.csv and results.json, and what is read from the logs of its trials."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dogbreed.callbacks.metric_line import read_metrics
from dogbreed.system.atomic import atomic_write
from launch.runs.results import Sweep


def learning_curve(log: Iterable[str], metric: str) -> dict[int, float]:
    """Returns epoch to value of `metric` from the lines of a log; the last value if an epoch occurs twice."""
    metrics = (read_metrics(line) for line in log)
    return {int(m["epoch"]): m[metric] for m in metrics if metric in m and "epoch" in m}


def found_issues(log: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of the debugger rules that found an issue, in the order of the log, each once."""
    names = (match[1] for line in log if (match := re.match(r"finding=(\w+) status=issue\b", line)))
    return tuple(dict.fromkeys(names))


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Returns one flat dict per trial, best first.

    Columns are trial, status, objective, hyperparameters, other metrics, seconds, reason and findings. A
    hyperparameter that shares its name with one of these columns is written as `hyperparameter.NAME`.
    """
    keys = list(dict.fromkeys(key for trial in sweep.trials for key in trial.hyperparameters))
    names = sorted({name for trial in sweep.trials for name in trial.metrics} - {sweep.metric})
    taken = {"trial", "status", sweep.metric, *names, "seconds", "reason", "findings"}
    return [
        {"trial": trial.name, "status": trial.status, sweep.metric: trial.objective}
        | {f"hyperparameter.{key}" if key in taken else key: trial.hyperparameters.get(key) for key in keys}
        | {name: trial.metrics.get(name) for name in names}
        | {"seconds": None if trial.seconds is None else round(trial.seconds, 1), "reason": trial.reason}
        | {"findings": " ".join(trial.findings)}
        for trial in sweep.ranked
    ]


def write_results(sweep: Sweep, folder: Path, train_best: Sequence[str]) -> None:
    """Writes results.csv and results.json of `sweep` to `folder`, each atomically.

    `train_best` is the argv of the command that trains the best trial's settings again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    best = sweep.best
    summary = {
        "name": sweep.name,
        "status": sweep.status,
        "metric": sweep.metric,
        "goal": "maximize" if sweep.maximize else "minimize",
        "best": None if best is None else asdict(best),
        "train_the_best": list(train_best),
        "overrides": [] if best is None else [*sweep.fixed, *(f"{k}={v}" for k, v in best.hyperparameters.items())],
        "billable_hours": round(sweep.billable_hours, 4),
        "trials": [asdict(trial) for trial in sweep.ranked],
    }
    text = json.dumps(summary, indent=2) + "\n"
    atomic_write(folder / "results.csv", lambda path: _write_csv(rows(sweep), path))
    atomic_write(folder / "results.json", lambda path: path.write_text(text, encoding="utf-8"))


def _write_csv(table: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]) if table else ["trial"])
        writer.writeheader()
        writer.writerows(table)
