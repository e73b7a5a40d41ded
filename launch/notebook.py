"""Sweeps in a notebook: runs one, or reads an ended one; as the last line of a cell it shows a table and a plot.

from launch.notebook import read_results, run_sweep
sweep = run_sweep("model=resnet18", "lr=range", "tuner.max_jobs=6")
sweep
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from dogbreed.cli.config import fresh_name
from dogbreed.cli.overrides import parse
from dogbreed.errors import UserError, did_you_mean
from launch.runs import sweep as sweeps
from launch.spec.naming import resumed_name, short_name
from launch.views.text import brief, decimal

OUTPUTS = Path("outputs")


@dataclass(frozen=True)
class Results:
    """The results of a sweep."""

    folder: Path
    summary: dict[str, Any]
    """`results.json`: name, status, metric, best, overrides, trials."""

    @property
    def trials(self) -> list[dict[str, Any]]:
        """One flat dict per trial, best first, as `pandas.DataFrame(sweep.trials)` accepts."""
        metric = self.summary["metric"]
        return [
            {"trial": trial["name"], "status": trial["status"], metric: trial["objective"]}
            | trial["hyperparameters"]
            | {name: value for name, value in trial["metrics"].items() if name != metric}
            | {"findings": " ".join(trial["findings"])}
            for trial in self.summary["trials"]
        ]

    @property
    def best_overrides(self) -> list[str]:
        """The overrides that train the best trial again: `python -m dogbreed.train OVERRIDES`."""
        return list(self.summary["overrides"])

    @property
    def image(self) -> Path:
        """A PNG plot of the objective against each hyperparameter, and of the learning curves."""
        return self.folder / "sweep.png"

    def _repr_html_(self) -> str:
        rows = self.trials
        columns = list(dict.fromkeys(key for row in rows for key in row))
        head = "".join(f"<th>{escape(column)}</th>" for column in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{_cell(key, row.get(key))}</td>" for key in columns) + "</tr>" for row in rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        if not self.image.is_file():
            return table
        png = base64.b64encode(self.image.read_bytes()).decode()
        return f'{table}<img alt="{escape(self.summary["name"])}" src="data:image/png;base64,{png}">'


def _cell(column: str, value: Any) -> str:
    if isinstance(value, float):
        return decimal(value)
    text = "" if value is None else str(value)
    return escape(short_name(text) if column == "trial" else brief(text))


def run_sweep(*overrides: str) -> Results:
    """Runs a sweep as `python -m launch.tune OVERRIDES` does, prints the same lines and returns its results.

    Raises:
        UserError: An override is invalid, or no trial has a result.
    """
    typed = {override.key_or_group: override.value() for override in parse(overrides)}
    if typed.get("dry_run"):
        raise UserError("dry_run=true gives no results to show: use it with python -m launch.tune")
    resumed = typed.get("resume")
    name = str(typed.get("name") or (resumed_name(str(resumed)) if resumed else fresh_name("notebook")))
    if sweeps.run_sweep([*overrides, f"name={name}"]):
        raise UserError(f"sweep {name} has no result; see the lines above")
    return _read(Path(str(typed.get("backend.root", OUTPUTS))), name)


def read_results(name: str) -> Results:
    """Returns the results of sweep `name` from `outputs/NAME`.

    Raises:
        UserError: There is no such sweep, or it has not ended.
    """
    return _read(OUTPUTS, name)


def _read(root: Path, name: str) -> Results:
    path = root / name / "results.json"
    if not path.is_file():
        there = [found.parent.name for found in root.glob("*/results.json")]
        raise UserError(f"no sweep {name!r} has ended{did_you_mean(name, there) if there else f'; {root}/ has none'}")
    return Results(path.parent, json.loads(path.read_text(encoding="utf-8")))
