"""The training jobs of a tuning job: their requests, their folders, and what AMT counts of them."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.local.job_state import FINAL, TRAINING, is_job, look, new_state
from launch.local.job_store import LOG, REQUEST, make_folder, read_json, start_supervisor
from launch.local.jobs.supervisor import fork_supervisor
from launch.local.jobs.training_job import TrainingJob

OBJECTIVE_HYPERPARAMETER = "_tuning_objective_metric"
"""The hyperparameter by which AMT tells a job what it is judged by."""
INTERRUPTED = frozenset({"sweep_stopped", "terminated", "lost"})
"""Kinds of stop that say nothing about the point: a resumed tuning job tries it again."""

_TRIAL_NAME = re.compile(r"(.+)-\d{3,}-[0-9a-f]{8}")
_SHARED_FIELDS = (
    "AlgorithmSpecification",
    "RoleArn",
    "InputDataConfig",
    "VpcConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "StoppingCondition",
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining",
    "CheckpointConfig",
    "RetryStrategy",
    "Environment",
)
"""What CreateTrainingJob and a tuning job's definition have in common."""

Json = dict[str, Any]


def training_folder(root: Path, name: str) -> Path:
    """Returns where the training job `name` lies: under its tuning job where its name is that of a trial."""
    trial = _TRIAL_NAME.fullmatch(name)
    if trial and is_job(root / trial[1] / name):
        return root / trial[1] / name
    return root / name


def trial_folders(tuning: Path) -> list[Path]:
    """Returns the folders of a tuning job's training jobs, in the order they were started."""
    return sorted(folder for folder in tuning.glob(f"{tuning.name}-*") if is_job(folder))


def trial_request(tuning: Mapping[str, Any], name: str, point: Mapping[str, str]) -> Json:
    """Returns the CreateTrainingJob request of the training job `name` that tries `point`."""
    definition = tuning["TrainingJobDefinition"]
    objective = tuning["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["MetricName"]
    request = {field: definition[field] for field in _SHARED_FIELDS if field in definition}
    if "HyperParameterTuningResourceConfig" in definition:
        resources = definition["HyperParameterTuningResourceConfig"]
        request["ResourceConfig"] = resources.get("InstanceConfigs", [resources])[0]
    static = definition.get("StaticHyperParameters", {})
    return {
        "TrainingJobName": name,
        "HyperParameters": {**static, **point, OBJECTIVE_HYPERPARAMETER: objective},
        **request,
    }


def start_training(folder: Path, request: Json, state: Json) -> subprocess.Popen[bytes]:
    """Makes the folder of a training job and starts the process that runs it.

    Raises:
        FileExistsError: the name is taken.
        OSError: the folder cannot be written.
    """
    lock = make_folder(folder, request, state, LOG)
    return start_supervisor("launch.local.jobs.training_job", folder, lock, LOG)


def start_trial(
    tuning: Path, request: Mapping[str, Any], number: int, point: Mapping[str, str], state: Json
) -> tuple[Path, int]:
    """Starts the training job `number` (from 1) of a tuning job in a fork of this process; returns folder and pid."""
    name = f"{tuning.name}-{number:03d}-{secrets.token_hex(4)}"
    folder = tuning / name
    own = new_state(
        TRAINING,
        name,
        state["command"],
        state["stop_grace_s"],
        tuning_job=tuning.name,
        tuned=dict(point),
        warm=state.get("warm"),
        parallel=request["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxParallelTrainingJobs"],
    )
    lock = make_folder(folder, trial_request(request, name, point), own, LOG)
    return folder, fork_supervisor(TrainingJob, folder, lock, LOG)


def final_objective(state: Mapping[str, Any], objective: Mapping[str, str]) -> float | None:
    """Returns the last value of the objective of an ended job; None while it runs, and where it failed."""
    if state.get("status") not in {"Completed", "Stopped"}:
        return None
    value = state.get("metrics", {}).get(objective["MetricName"])
    return None if value is None else float(value[0])


def objective_status(state: Mapping[str, Any], objective: Mapping[str, str]) -> str:
    """Returns AMT's ObjectiveStatus of a training job."""
    if state.get("status") not in FINAL:
        return "Pending"
    return "Failed" if final_objective(state, objective) is None else "Succeeded"


def count_statuses(states: list[Json], objective: Mapping[str, str]) -> tuple[Json, Json]:
    """Returns the TrainingJobStatusCounters and ObjectiveStatusCounters of training jobs."""
    status = Counter(state.get("status", "InProgress") for state in states)
    jobs = {
        "Completed": status["Completed"],
        "InProgress": status["InProgress"] + status["Stopping"],
        "RetryableError": 0,
        "NonRetryableError": status["Failed"],
        "Stopped": status["Stopped"],
    }
    judged = Counter(objective_status(state, objective) for state in states)
    return jobs, {name: judged[name] for name in ("Succeeded", "Pending", "Failed")}


def best_of(states: list[Json], objective: Mapping[str, str]) -> Json | None:
    """Returns the state of the training job with the best final objective, the earliest among equals."""
    judged = [(value, state) for state in states if (value := final_objective(state, objective)) is not None]
    if not judged:
        return None
    sign = 1 if objective["Type"] == "Minimize" else -1
    return min(judged, key=lambda pair: sign * pair[0])[1]


def ancestors(root: Path, request: Mapping[str, Any]) -> list[Path]:
    """Returns the folders of a warm start's parents, their own parents among them, each once, the oldest first."""
    found: list[Path] = []
    seen: set[Path] = set()  # a name used anew after its folder was deleted may close a circle

    def visit(made_by: Mapping[str, Any]) -> None:
        for parent in made_by.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", []):
            folder = root / parent["HyperParameterTuningJobName"]
            if folder not in seen:
                seen.add(folder)
                visit(read_json(folder / REQUEST))
                found.append(folder)

    visit(request)
    return found


def trial_states(tuning: Path) -> list[Json]:
    """Returns the state of each training job of a tuning job."""
    return [look(folder) for folder in trial_folders(tuning)]
