"""Sweeps in a notebook: run one, or read one that has ended; the last line of a cell shows its table and its image.

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
    """What a sweep left in its folder."""

    folder: Path
    summary: dict[str, Any]
    """`results.json`: name, status, metric, best, overrides, trials."""

    @property
    def trials(self) -> list[dict[str, Any]]:
        """One flat dict a trial, best first: `pandas.DataFrame(sweep.trials)` takes them as they are."""
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
        """What makes the best trial again: `python -m dogbreed.train` with these words."""
        return list(self.summary["overrides"])

    @property
    def image(self) -> Path:
        """Objective against each hyperparameter, and learning curves: a PNG."""
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
    """Runs a sweep as `python -m launch.tune OVERRIDES` does, its lines included, and returns what it found.

    Raises:
        UserError: a mistake in the overrides, or no trial gave a result.
    """
    typed = {override.key_or_group: override.value() for override in parse(overrides)}
    if typed.get("dry_run"):
        raise UserError("dry_run=true runs no sweep whose results could be shown: type it after python -m launch.tune")
    resumed = typed.get("resume")
    name = str(typed.get("name") or (resumed_name(str(resumed)) if resumed else fresh_name("notebook")))
    if sweeps.run_sweep([*overrides, f"name={name}"]):
        raise UserError(f"sweep {name} gave no result; its lines above say why")
    return _read(Path(str(typed.get("backend.root", OUTPUTS))), name)


def read_results(name: str) -> Results:
    """Returns what sweep `name` left in `outputs/NAME`.

    Raises:
        UserError: there is no such sweep, or it has not ended.
    """
    return _read(OUTPUTS, name)


def _read(root: Path, name: str) -> Results:
    path = root / name / "results.json"
    if not path.is_file():
        there = [found.parent.name for found in root.glob("*/results.json")]
        raise UserError(f"no sweep {name!r} has ended{did_you_mean(name, there) if there else f'; {root}/ has none'}")
    return Results(path.parent, json.loads(path.read_text(encoding="utf-8")))
