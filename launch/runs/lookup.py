"""Finds sweeps and trainings by name, and lists them."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from dogbreed.errors import UserError, did_you_mean
from launch.backends.aws.errors import is_not_found
from launch.spec.contract import Json
from launch.spec.naming import sweep_of

NEWEST = 50
"""Sweeps that are listed; an account may have thousands."""


class NotFoundError(UserError):
    """There is neither a sweep nor a training of that name."""


def describe(client: Any, name: str) -> tuple[str, Json]:
    """Returns whether `name` is a `sweep` or a `training`, and the API's description of it.

    Raises:
        NotFoundError: It is neither; the message suggests a similar name.
    """
    try:
        return "sweep", client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    except ClientError as error:
        if not is_not_found(error):
            raise
    try:
        return "training", client.describe_training_job(TrainingJobName=name)
    except ClientError as error:
        if not is_not_found(error):
            raise
    known = [job["HyperParameterTuningJobName"] for job in list_sweeps(client)]
    known += [job["TrainingJobName"] for job in list_trainings(client)]
    hint = did_you_mean(name, known, label="there are") if known else "; there are none yet"
    raise NotFoundError(f"no sweep or training is called '{name}'{hint}")


def list_sweeps(client: Any) -> list[Json]:
    """Returns the API's summaries of the newest sweeps, newest first."""
    pages = client.get_paginator("list_hyper_parameter_tuning_jobs").paginate(
        SortBy="CreationTime", SortOrder="Descending", PaginationConfig={"MaxItems": NEWEST}
    )
    return [job for page in pages for job in page["HyperParameterTuningJobSummaries"]]


def list_trainings(client: Any) -> list[Json]:
    """Returns the API's summaries of the newest trainings that are not trials of a sweep, newest first."""
    pages = client.get_paginator("list_training_jobs").paginate(
        SortBy="CreationTime", SortOrder="Descending", PaginationConfig={"MaxItems": 10 * NEWEST, "PageSize": 100}
    )
    jobs = [job for page in pages for job in page["TrainingJobSummaries"]]
    return [job for job in jobs if sweep_of(job["TrainingJobName"]) is None]


def best_objective(client: Any, sweep: str) -> float | None:
    """Returns the best objective of a sweep so far; None if no trial has one."""
    job = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=sweep)
    best = job.get("OverallBestTrainingJob") or job.get("BestTrainingJob") or {}
    return best.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value")
