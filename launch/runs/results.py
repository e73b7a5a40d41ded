"""What a sweep found: the API's answers to rows that can be sorted, shown, drawn and kept."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dogbreed.callbacks.metric_line import read_metrics
from dogbreed.errors import UserError
from launch.spec.contract import APP, KEYS, OVERRIDES
from launch.spec.limits import grid_points
from launch.spec.naming import TERMINAL, sweep_of


@dataclass(frozen=True)
class Trial:
    """One training of a sweep."""

    name: str
    status: str
    """`InProgress`, `Completed`, `Failed`, `Stopping` or `Stopped`, as SageMaker has them."""
    hyperparameters: dict[str, str]
    """Key as typed to value as text in Hydra's grammar."""
    objective: float | None
    """Value of the objective; None where the trial printed none."""
    seconds: float | None
    """From start to end, or to now."""
    reason: str = ""
    """Why it failed."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Last value of every metric."""
    billable_s: float | None = None
    """What AWS charges for, all instances together; None where that was not asked or is not known yet."""
    findings: tuple[str, ...] = ()
    """Rules of the debugger that found an issue, as the trial's log names them."""

    def is_finished(self, early_stopping: bool) -> bool:
        """Whether a resumed sweep need not train it again; with early stopping, a stopped trial has had its chance."""
        return self.status == "Completed" or (
            early_stopping and self.status == "Stopped" and self.objective is not None
        )


@dataclass(frozen=True)
class Sweep:
    """One tuning job and its trials, those of the sweeps that it goes on with included."""

    name: str
    status: str
    metric: str
    maximize: bool
    max_jobs: int
    """Trials that were asked for, earlier ones of a resumed sweep included."""
    trials: tuple[Trial, ...]
    """In the order of their creation."""
    seconds: float
    """From its creation to its end, or to now."""
    reason: str = ""
    early_stopping: bool = False
    """Whether trials are stopped for being behind the others."""
    log_keys: frozenset[str] = frozenset()
    """Keys that are searched on a logarithmic scale."""
    fixed: tuple[str, ...] = ()
    """Overrides of every trial."""
    instances: int = 1
    """Instances of each trial."""
    app: str | None = None
    """The script that its trials run, where that is not dogbreed's training."""

    @property
    def own_trials(self) -> list[Trial]:
        """Trials of this very tuning job, not those of the sweeps that it goes on with."""
        return [trial for trial in self.trials if sweep_of(trial.name) == self.name]

    @property
    def billable_hours(self) -> float:
        """Instance-hours that AWS charges for its own trials; of running ones, those until now."""
        running = [(trial.seconds or 0) * self.instances for trial in self.own_trials if trial.billable_s is None]
        return (sum(running) + sum(trial.billable_s or 0 for trial in self.own_trials)) / 3600

    @property
    def ranked(self) -> list[Trial]:
        """Trials with an objective, best first, then the others as they came."""
        sign = -1 if self.maximize else 1
        return sorted(self.trials, key=lambda t: math.inf if t.objective is None else sign * t.objective)

    @property
    def best(self) -> Trial | None:
        """The trial with the best objective, once there is one."""
        ranked = self.ranked
        return ranked[0] if ranked and ranked[0].objective is not None else None

    @property
    def ended(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.status in TERMINAL


def read_best(client: Any, name: str) -> tuple[Sweep, Trial]:
    """Returns sweep `name` and its best trial.

    Raises:
        UserError: it has none.
    """
    sweep = read_sweep(client, name)
    if sweep.best is None:
        state = "none gave a result" if sweep.ended else "none has ended with an objective yet"
        raise UserError(f"sweep {name} has no best trial: {state}; python -m launch.status {name} shows them")
    return sweep, sweep.best


def read_sweep(client: Any, name: str, metrics: bool = False) -> Sweep:
    """Returns sweep `name` as the client tells it.

    Args:
        client: boto3's sagemaker client, of AWS or of this machine.
        metrics: ask for every metric of every trial too, a call each.
    """
    described = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    config = described["HyperParameterTuningJobConfig"]
    definition = described["TrainingJobDefinition"]
    static = definition.get("StaticHyperParameters", {})
    keys = json.loads(static.get(KEYS, "{}"))
    early = config["Strategy"] == "Hyperband" or config.get("TrainingJobEarlyStoppingType") == "Auto"
    pages = client.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
        HyperParameterTuningJobName=name,
        SortBy="CreationTime",
        SortOrder="Ascending",
        PaginationConfig={"PageSize": 100},
    )
    jobs = [job for page in pages for job in page["TrainingJobSummaries"]]
    trials = [_trial(client, job, keys, metrics) for job in jobs]
    warm = described.get("WarmStartConfig", {})
    if warm.get("WarmStartType") == "IdenticalDataAndAlgorithm":
        for parent in warm["ParentHyperParameterTuningJobs"]:
            earlier = read_sweep(client, parent["HyperParameterTuningJobName"], metrics).trials
            trials = [trial for trial in earlier if trial.is_finished(early)] + trials
    if config["Strategy"] == "Grid":  # a resumed one is told no number
        max_jobs = grid_points(config["ParameterRanges"])
    else:
        max_jobs = config["ResourceLimits"].get("MaxNumberOfTrainingJobs", len(jobs)) + len(trials) - len(jobs)
    return Sweep(
        name=name,
        status=described["HyperParameterTuningJobStatus"],
        metric=config["HyperParameterTuningJobObjective"]["MetricName"],
        maximize=config["HyperParameterTuningJobObjective"]["Type"] == "Maximize",
        max_jobs=max_jobs,
        trials=tuple(trials),
        seconds=_seconds(described["CreationTime"], described.get("HyperParameterTuningEndTime")),
        reason=described.get("FailureReason", ""),
        early_stopping=early,
        log_keys=frozenset(keys.get(name, name) for name in _log_names(config["ParameterRanges"])),
        fixed=tuple(json.loads(static.get(OVERRIDES, "[]"))),
        instances=_instances(definition),
        app=static.get(APP),
    )


def _instances(definition: Mapping[str, Any]) -> int:
    several = definition.get("HyperParameterTuningResourceConfig", {})
    one = definition.get("ResourceConfig") or (several.get("InstanceConfigs") or [several])[0]
    return int(one.get("InstanceCount", 1))


def _log_names(ranges: Mapping[str, Any]) -> list[str]:
    numbers = [*ranges.get("ContinuousParameterRanges", []), *ranges.get("IntegerParameterRanges", [])]
    return [r["Name"] for r in numbers if r.get("ScalingType") == "Logarithmic"]


def _trial(client: Any, job: Mapping[str, Any], keys: Mapping[str, str], metrics: bool) -> Trial:
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
    """Returns what AWS charges for a described training job: its billable time on each of its instances.

    AWS tells it at the end; None until then, or with `so_far` the job's time until now.
    """
    seconds = described.get("BillableTimeInSeconds")
    if seconds is None and so_far and "TrainingStartTime" in described:
        seconds = _seconds(described["TrainingStartTime"], described.get("TrainingEndTime"))
    return None if seconds is None else seconds * int(described.get("ResourceConfig", {}).get("InstanceCount", 1))


def learning_curve(log: Iterable[str], metric: str) -> dict[int, float]:
    """Returns epoch to value of `metric` from the lines of a job's log; of an epoch told twice, the last."""
    found = (read_metrics(line) for line in log)
    return {int(m["epoch"]): m[metric] for m in found if metric in m and "epoch" in m}


def found_issues(log: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of the rules that found an issue, in the order of a job's log, each once."""
    names = (match[1] for line in log if (match := re.match(r"finding=(\w+) status=issue\b", line)))
    return tuple(dict.fromkeys(names))


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Returns one flat dict a trial, best first: trial, status, objective, hyperparameters, other metrics, time."""
    keys = list(dict.fromkeys(key for trial in sweep.trials for key in trial.hyperparameters))
    names = sorted({name for trial in sweep.trials for name in trial.metrics} - {sweep.metric})
    return [
        {"trial": trial.name, "status": trial.status, sweep.metric: trial.objective}
        | {key: trial.hyperparameters.get(key) for key in keys}
        | {name: trial.metrics.get(name) for name in names}
        | {"seconds": None if trial.seconds is None else round(trial.seconds, 1), "reason": trial.reason}
        | {"findings": " ".join(trial.findings)}
        for trial in sweep.ranked
    ]


def write_results(sweep: Sweep, folder: Path, command: Sequence[str]) -> None:
    """Writes results.csv and results.json of `sweep` into `folder`; `command` trains its best trial."""
    table = rows(sweep)
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]) if table else ["trial"])
        writer.writeheader()
        writer.writerows(table)
    best = sweep.best
    summary = {
        "name": sweep.name,
        "status": sweep.status,
        "metric": sweep.metric,
        "goal": "maximize" if sweep.maximize else "minimize",
        "best": None if best is None else asdict(best),
        "train_the_best": list(command),
        "overrides": [] if best is None else [*sweep.fixed, *(f"{k}={v}" for k, v in best.hyperparameters.items())],
        "billable_hours": round(sweep.billable_hours, 4),
        "trials": [asdict(trial) for trial in sweep.ranked],
    }
    (folder / "results.json").write_text(json.dumps(summary, indent=2) + "\n")
