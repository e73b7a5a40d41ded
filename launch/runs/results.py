"""Sweeps and their trials, as read from the API."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from dogbreed.errors import UserError
from launch.spec.contract import APP, KEYS, OVERRIDES, Json
from launch.spec.limits import grid_points
from launch.spec.naming import TERMINAL, sweep_of


@dataclass(frozen=True)
class Trial:
    """One training of a sweep."""

    name: str
    status: str
    """SageMaker's: `InProgress`, `Completed`, `Failed`, `Stopping` or `Stopped`."""
    hyperparameters: dict[str, str]
    """Config key to value, as text in Hydra's grammar."""
    objective: float | None
    """Last value of the objective metric; None if the trial printed none."""
    seconds: float | None
    """From start to end, or until now; None if it has not started."""
    reason: str = ""
    """Why it failed."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Last value of every metric."""
    billable_s: float | None = None
    """Billed seconds, all instances together; None if unknown."""
    findings: tuple[str, ...] = ()
    """Debugger rules that found an issue."""

    def is_finished(self, early_stopping: bool) -> bool:
        """Whether a resumed sweep skips it; with early stopping, a stopped trial counts as finished."""
        return self.status == "Completed" or (
            early_stopping and self.status == "Stopped" and self.objective is not None
        )


@dataclass(frozen=True)
class Sweep:
    """One tuning job and its trials, including those of the sweeps that it resumes."""

    name: str
    status: str
    metric: str
    maximize: bool
    max_jobs: int
    """Requested trials, including those of the sweeps that it resumes."""
    trials: tuple[Trial, ...]
    """In order of creation."""
    seconds: float
    """From creation to end, or until now."""
    reason: str = ""
    """Why it failed."""
    early_stopping: bool = False
    """Whether trials that fall behind the others are stopped."""
    log_keys: frozenset[str] = frozenset()
    """Keys that are searched on a logarithmic scale."""
    fixed: tuple[str, ...] = ()
    """Overrides of every trial."""
    instances: int = 1
    """Instances per trial."""
    app: str | None = None
    """Script of another Hydra application that the trials run; None for dogbreed."""

    @property
    def own_trials(self) -> list[Trial]:
        """The trials of this tuning job, without those of the sweeps that it resumes."""
        return [trial for trial in self.trials if sweep_of(trial.name) == self.name]

    @property
    def billable_hours(self) -> float:
        """Billed instance-hours of `own_trials`; running trials count until now."""
        running = [(trial.seconds or 0) * self.instances for trial in self.own_trials if trial.billable_s is None]
        return (sum(running) + sum(trial.billable_s or 0 for trial in self.own_trials)) / 3600

    @property
    def ranked(self) -> list[Trial]:
        """Trials with an objective, best first, followed by the others in order of creation."""
        sign = -1 if self.maximize else 1
        return sorted(self.trials, key=lambda t: math.inf if t.objective is None else sign * t.objective)

    @property
    def best(self) -> Trial | None:
        """The trial with the best objective; None if no trial has one."""
        ranked = self.ranked
        return ranked[0] if ranked and ranked[0].objective is not None else None

    @property
    def ended(self) -> bool:
        """Whether its status is final."""
        return self.status in TERMINAL


def read_best(client: Any, name: str) -> tuple[Sweep, Trial]:
    """Returns sweep `name` and its best trial.

    Raises:
        UserError: No trial has an objective.
    """
    sweep = read_sweep(client, name)
    if sweep.best is None:
        state = "none gave a result" if sweep.ended else "none has finished yet"
        raise UserError(f"sweep {name} has no best trial: {state}; python -m launch.status {name} shows them")
    return sweep, sweep.best


def read_sweep(client: Any, name: str, metrics: bool = False) -> Sweep:
    """Returns sweep `name` with its trials; `metrics` adds all metrics and billed times, one more request per trial.

    Raises:
        UserError: It is a tuning job with several training job definitions, which this launcher never creates.
    """
    described = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    if "TrainingJobDefinition" not in described:
        raise UserError(f"{name} was not started by this launcher: it has several training job definitions")
    config, definition = described["HyperParameterTuningJobConfig"], described["TrainingJobDefinition"]
    static, ranges = definition.get("StaticHyperParameters", {}), config.get("ParameterRanges", {})
    keys = json.loads(static.get(KEYS, "{}"))
    early_stopping = config["Strategy"] == "Hyperband" or config.get("TrainingJobEarlyStoppingType") == "Auto"
    own = [_read_trial(client, job, keys, metrics) for job in _list_jobs(client, name)]
    earlier = [
        trial
        for parent in _resumed_from(described)
        for trial in read_sweep(client, parent, metrics).trials
        if trial.is_finished(early_stopping)
    ]
    if config["Strategy"] == "Grid":  # the request of a resumed grid has no number
        max_jobs = grid_points(ranges)
    else:
        max_jobs = config["ResourceLimits"].get("MaxNumberOfTrainingJobs", len(own)) + len(earlier)
    return Sweep(
        name=name,
        status=described["HyperParameterTuningJobStatus"],
        metric=config["HyperParameterTuningJobObjective"]["MetricName"],
        maximize=config["HyperParameterTuningJobObjective"]["Type"] == "Maximize",
        max_jobs=max_jobs,
        trials=(*earlier, *own),
        seconds=_seconds(described["CreationTime"], described.get("HyperParameterTuningEndTime")),
        reason=described.get("FailureReason", ""),
        early_stopping=early_stopping,
        log_keys=frozenset(keys.get(name, name) for name in _log_names(ranges)),
        fixed=tuple(json.loads(static.get(OVERRIDES, "[]"))),
        instances=_instances(definition),
        app=static.get(APP),
    )


def _list_jobs(client: Any, sweep: str) -> list[Json]:
    pages = client.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
        HyperParameterTuningJobName=sweep,
        SortBy="CreationTime",
        SortOrder="Ascending",
        PaginationConfig={"PageSize": 100},
    )
    return [job for page in pages for job in page["TrainingJobSummaries"]]


def _resumed_from(described: Mapping[str, Any]) -> list[str]:
    warm = described.get("WarmStartConfig", {})
    if warm.get("WarmStartType") != "IdenticalDataAndAlgorithm":
        return []
    return [parent["HyperParameterTuningJobName"] for parent in warm["ParentHyperParameterTuningJobs"]]


def _instances(definition: Mapping[str, Any]) -> int:
    several = definition.get("HyperParameterTuningResourceConfig", {})
    one = definition.get("ResourceConfig") or (several.get("InstanceConfigs") or [several])[0]
    return int(one.get("InstanceCount", 1))


def _log_names(ranges: Mapping[str, Any]) -> list[str]:
    numbers = [*ranges.get("ContinuousParameterRanges", []), *ranges.get("IntegerParameterRanges", [])]
    return [r["Name"] for r in numbers if r.get("ScalingType") == "Logarithmic"]


def _read_trial(client: Any, job: Mapping[str, Any], keys: Mapping[str, str], metrics: bool) -> Trial:
    start = job.get("TrainingStartTime")
    final: dict[str, float] = {}
    billable = None
    if metrics:
        described = client.describe_training_job(TrainingJobName=job["TrainingJobName"])
        final = {m["MetricName"]: m["Value"] for m in described.get("FinalMetricDataList", [])}
        billable = billable_seconds(described)
    return Trial(
        name=job["TrainingJobName"],
        status=job["TrainingJobStatus"],
        hyperparameters={keys.get(name, name): value for name, value in job["TunedHyperParameters"].items()},
        objective=job.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value"),
        seconds=_seconds(start, job.get("TrainingEndTime")) if start else None,
        reason=job.get("FailureReason", ""),
        metrics=final,
        billable_s=billable,
    )


def _seconds(start: datetime, end: datetime | None) -> float:
    return ((end or datetime.now(timezone.utc)) - start).total_seconds()


def billable_seconds(described: Mapping[str, Any], so_far: bool = False) -> float | None:
    """Returns the billed seconds of a described training job, all instances together.

    A running job counts until now with `so_far`, and is None otherwise.
    """
    seconds = described.get("BillableTimeInSeconds")
    if seconds is None and so_far and "TrainingStartTime" in described:
        seconds = _seconds(described["TrainingStartTime"], described.get("TrainingEndTime"))
    return None if seconds is None else seconds * int(described.get("ResourceConfig", {}).get("InstanceCount", 1))
