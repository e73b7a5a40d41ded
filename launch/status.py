"""Shows sweeps and trainings, running or ended, of this machine or of AWS.

python -m launch.status              all of them, newest first
python -m launch.status NAME         the trials of one sweep, or one training
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from rich.table import Table
from rich.text import Text

from dogbreed.config import compose, run_cli
from dogbreed.errors import UserError, did_you_mean
from launch.client import make_client
from launch.errors import api_errors
from launch.results import read_sweep
from launch.show import STYLES, console, decimal, duration, sweep_table


def main(words: list[str]) -> int:
    """Prints the list, or what `NAME` is doing; returns 0."""
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise UserError(f"give one name at most, got {' '.join(names)}")
    cfg = compose("tune", [word for word in words if "=" in word])
    out = console()
    with api_errors():
        client = make_client(cfg.backend.name, Path(cfg.backend.root))
        out.print(_one(client, names[0]) if names else _all(client))
    return 0


def _sweeps(client: Any) -> list[dict[str, Any]]:
    pages = client.get_paginator("list_hyper_parameter_tuning_jobs").paginate(
        SortBy="CreationTime", SortOrder="Descending"
    )
    return [job for page in pages for job in page["HyperParameterTuningJobSummaries"]]


def _trainings(client: Any) -> list[dict[str, Any]]:
    pages = client.get_paginator("list_training_jobs").paginate(SortBy="CreationTime", SortOrder="Descending")
    return [job for page in pages for job in page["TrainingJobSummaries"]]


def _all(client: Any) -> Table | str:
    """Returns a line for each sweep, and for each training that is not a sweep's."""
    table = Table(title="sweeps and trainings", title_justify="left")
    for column in ("name", "kind", "status", "trials", "best", "started", "time"):
        table.add_column(column, justify="right" if column in ("trials", "best", "time") else "left")
    sweeps = _sweeps(client)
    prefixes = tuple(f"{job['HyperParameterTuningJobName']}-" for job in sweeps)
    lines: list[tuple[datetime, list[Any]]] = []
    for job in sweeps:
        counts = job["TrainingJobStatusCounters"]
        limit = job.get("ResourceLimits", {}).get("MaxNumberOfTrainingJobs", "?")
        best = read_sweep(client, job["HyperParameterTuningJobName"]).best
        cells = [f"{counts.get('Completed', 0)}/{limit}", "-" if best is None else decimal(best.objective)]
        lines.append(_line(job["HyperParameterTuningJobName"], "sweep", job, "HyperParameterTuningJobStatus", cells))
    for job in _trainings(client):
        if not job["TrainingJobName"].startswith(prefixes):
            lines.append(_line(job["TrainingJobName"], "training", job, "TrainingJobStatus", ["", ""]))
    for _, cells in sorted(lines, key=lambda line: line[0], reverse=True):
        table.add_row(*cells)
    return table if lines else "nothing yet; start a sweep with: python -m launch.tune model=resnet34 lr=range"


def _line(name: str, kind: str, job: dict[str, Any], status_key: str, cells: list[str]) -> tuple[datetime, list[Any]]:
    created, status = job["CreationTime"], job[status_key]
    end = job.get("HyperParameterTuningEndTime") or job.get("TrainingEndTime") or datetime.now(timezone.utc)
    started = created.astimezone().strftime("%Y-%m-%d %H:%M")
    seconds = duration((end - created).total_seconds())
    return created, [name, kind, Text(status, style=STYLES.get(status, "")), *cells, started, seconds]


def _one(client: Any, name: str) -> Table:
    try:
        return sweep_table(read_sweep(client, name, metrics=True))
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("ResourceNotFound", "ValidationException"):
            raise
    try:
        job = client.describe_training_job(TrainingJobName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("ResourceNotFound", "ValidationException"):
            raise
        known = [j["HyperParameterTuningJobName"] for j in _sweeps(client)]
        hint = did_you_mean(name, known) if known else "; there are none yet"
        raise UserError(f"no sweep or training is called '{name}'{hint}") from None
    table = Table("key", "value", title=f"training {name}: {job['TrainingJobStatus']}", title_justify="left")
    if "FailureReason" in job:
        table.add_row("reason", Text(job["FailureReason"]))
    for metric in job.get("FinalMetricDataList", []):
        table.add_row(metric["MetricName"], decimal(metric["Value"]))
    for key, value in sorted(job.get("HyperParameters", {}).items()):
        table.add_row(key, Text(value))
    return table


if __name__ == "__main__":
    run_cli(main, __doc__)
