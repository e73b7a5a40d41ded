"""Shows sweeps and trainings, running or ended, of this machine or of AWS.

    python -m launch.status                  all of them, newest first, 50 sweeps at most
    python -m launch.status NAME             the trials of one sweep, or one training
    python -m launch.status NAME --follow    until it ends: trials, log lines, then the results
    python -m launch.status NAME --follow --logs      of a sweep every line that its trainings print, too

Add backend=sagemaker for those at AWS. Ctrl-C ends the watching, never what is watched. With --follow the exit status
is 0 where it completed (a sweep: with a best trial), 1 where it did not, 130 after Ctrl-C.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from botocore.exceptions import ClientError
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError, did_you_mean
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.runs.polling import follow
from launch.runs.progress import SweepWatch, TrainingWatch
from launch.runs.results import read_sweep
from launch.runs.summary import finish_sweep, finish_training, say_detached, training_table
from launch.spec.naming import sweep_of
from launch.spec.settings import compose
from launch.views.tables import STYLES, console, decimal, duration, sweep_table

NEWEST = 50
"""Sweeps that are listed; an account may have thousands."""

FLAGS = {"--follow": "", "--logs": "logs=true"}
"""Words that are no names, and the override that each stands for."""


def main(words: list[str]) -> int:
    """Prints the list, or what `NAME` is doing; returns 0, or how it ended where it was followed."""
    watch = "--follow" in words
    names = [word for word in words if "=" not in word and word not in FLAGS]
    if len(names) > 1 or (watch and not names):
        raise UserError(f"give one name{' to follow' if watch else ' at most'}, got {' '.join(names) or 'none'}")
    cfg = compose("tune", [FLAGS.get(word, word) for word in words if "=" in FLAGS.get(word, word)])
    out = console()
    with api_errors(cfg):
        client = open_backend(cfg).client()
        if watch:
            return _watch(client, cfg, names[0], out)
        out.print(_one(client, names[0]) if names else _all(client))
    return 0


def _watch(client: Any, cfg: DictConfig, name: str, out: Console) -> int:
    kind = SweepWatch if describe(client, name)[0] == "sweep" else TrainingWatch
    watch = kind(client, name, cfg, out)
    left = follow(watch, out, open_backend(cfg).poll_s, detach=True)
    if left and not watch.ended:
        return say_detached(cfg, name, left, out)
    if isinstance(watch, TrainingWatch):
        return finish_training(watch.job, cfg, out)
    return finish_sweep(client, cfg, name, out)


def describe(client: Any, name: str) -> tuple[str, dict[str, Any]]:
    """Returns whether `name` is a `sweep` or a `training`, and what the API says of it.

    Raises:
        UserError: there is neither of that name.
    """
    missing = ("ResourceNotFound", "ValidationException")
    try:
        return "sweep", client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in missing:
            raise
    try:
        return "training", client.describe_training_job(TrainingJobName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in missing:
            raise
    known = [job["HyperParameterTuningJobName"] for job in _sweeps(client)]
    known += [job["TrainingJobName"] for job in _trainings(client) if sweep_of(job["TrainingJobName"]) is None]
    hint = did_you_mean(name, known).replace("allowed", "there are") if known else "; there are none yet"
    raise UserError(f"no sweep or training is called '{name}'{hint}")


def _sweeps(client: Any) -> list[dict[str, Any]]:
    pages = client.get_paginator("list_hyper_parameter_tuning_jobs").paginate(
        SortBy="CreationTime", SortOrder="Descending", PaginationConfig={"MaxItems": NEWEST}
    )
    return [job for page in pages for job in page["HyperParameterTuningJobSummaries"]]


def _trainings(client: Any) -> list[dict[str, Any]]:
    pages = client.get_paginator("list_training_jobs").paginate(
        SortBy="CreationTime", SortOrder="Descending", PaginationConfig={"MaxItems": 10 * NEWEST, "PageSize": 100}
    )
    return [job for page in pages for job in page["TrainingJobSummaries"]]


def _all(client: Any) -> Table | str:
    """Returns a line for each sweep, and for each training that is not a sweep's."""
    table = Table(title="sweeps and trainings", title_justify="left")
    for column in ("name", "kind", "status", "trials", "best", "started", "time"):
        table.add_column(column, justify="right" if column in ("trials", "best", "time") else "left")
    sweeps = _sweeps(client)
    lines: list[tuple[datetime, list[Any]]] = []
    for job in sweeps:
        counts = job["TrainingJobStatusCounters"]
        limit = job.get("ResourceLimits", {}).get("MaxNumberOfTrainingJobs", "?")
        cells = [f"{counts.get('Completed', 0)}/{limit}", decimal(_best(client, job["HyperParameterTuningJobName"]))]
        lines.append(_line(job["HyperParameterTuningJobName"], "sweep", job, "HyperParameterTuningJobStatus", cells))
    for job in _trainings(client):
        if sweep_of(job["TrainingJobName"]) is None:
            lines.append(_line(job["TrainingJobName"], "training", job, "TrainingJobStatus", ["", ""]))
    for _, cells in sorted(lines, key=lambda line: line[0], reverse=True):
        table.add_row(*cells)
    return table if lines else "nothing yet; start a sweep with: python -m launch.tune model=resnet34 lr=range"


def _best(client: Any, name: str) -> float | None:
    job = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    best = job.get("OverallBestTrainingJob") or job.get("BestTrainingJob") or {}
    return best.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value")


def _line(name: str, kind: str, job: dict[str, Any], status_key: str, cells: list[str]) -> tuple[datetime, list[Any]]:
    created, status = job["CreationTime"], job[status_key]
    end = job.get("HyperParameterTuningEndTime") or job.get("TrainingEndTime") or datetime.now(timezone.utc)
    started = created.astimezone().strftime("%Y-%m-%d %H:%M")
    seconds = duration((end - created).total_seconds())
    return created, [name, kind, Text(status, style=STYLES.get(status, "")), *cells, started, seconds]


def _one(client: Any, name: str) -> Table:
    kind, job = describe(client, name)
    return sweep_table(read_sweep(client, name, metrics=True)) if kind == "sweep" else training_table(job)


if __name__ == "__main__":
    run_cli(main, __doc__)
