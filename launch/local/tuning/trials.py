"""The training jobs of a tuning job: their names, folders and requests, and how they are started."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.local.job_store import (
    LOG,
    REQUEST,
    TRAINING,
    Json,
    create_folder,
    is_job,
    new_state,
    read_json,
    read_state,
)
from launch.local.jobs.process import Descriptor, Process, fork_from_server, start_supervisor
from launch.local.jobs.supervisor import supervise_fork
from launch.local.jobs.training_job import Trial
from launch.spec.contract import TUNING_METRIC
from launch.spec.naming import sweep_of, trial_name

SUPERVISOR = "launch.local.jobs.training_job"

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
"""Fields that CreateTrainingJob and the definition in a tuning job have in common."""


def training_folder(root: Path, name: str) -> Path:
    """Returns the folder of the training job `name`, which is inside its tuning job's if it is a trial."""
    sweep = sweep_of(name)
    trial = root / (sweep or name) / name
    return trial if sweep and is_job(trial) else root / name


def trial_folders(tuning: Path) -> list[Path]:
    """Returns the folders of a tuning job's trials in the order in which they were started."""
    return sorted(folder for folder in tuning.glob(f"{tuning.name}-*") if is_job(folder))


def trial_states(tuning: Path) -> list[Json]:
    """Returns the state of each trial of a tuning job."""
    return [read_state(folder) for folder in trial_folders(tuning)]


def trial_request(tuning: Mapping[str, Any], name: str, point: Mapping[str, str]) -> Json:
    """Returns the CreateTrainingJob request of a trial of the tuning job that `tuning` requested."""
    definition = tuning["TrainingJobDefinition"]
    objective = tuning["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["MetricName"]
    request = {field: definition[field] for field in _SHARED_FIELDS if field in definition}
    if "HyperParameterTuningResourceConfig" in definition:
        resources = definition["HyperParameterTuningResourceConfig"]
        request["ResourceConfig"] = resources.get("InstanceConfigs", [resources])[0]
    static = definition.get("StaticHyperParameters", {})
    return {
        "TrainingJobName": name,
        "HyperParameters": {**static, **point, TUNING_METRIC: objective},
        **request,
    }


def start_training(folder: Path, request: Json, state: Json) -> subprocess.Popen[bytes]:
    """Creates the folder of a training job and starts its supervisor.

    Raises:
        FileExistsError: The name is taken.
        OSError: The folder cannot be written.
    """
    lock = create_folder(folder, request, state, LOG)
    return start_supervisor(SUPERVISOR, folder, lock, LOG)


def start_trial(
    tuning: Path, request: Mapping[str, Any], state: Json, *, number: int, slot: int, point: Mapping[str, str]
) -> tuple[Path, Process]:
    """Starts trial `number` (from 1) of a tuning job; returns its folder and its supervisor.

    `slot` is its index among the trials that run at the same time.
    """
    name = trial_name(tuning.name, number, secrets.token_hex(4))
    folder = tuning / name
    trial = new_state(
        TRAINING,
        name,
        state["command"],
        state["stop_grace_s"],
        tuning_job=tuning.name,
        tuned=dict(point),
        parallel=request["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxParallelTrainingJobs"],
        slot=slot,
    )
    lock = create_folder(folder, trial_request(request, name, point), trial, LOG)
    try:
        process = fork_from_server(supervise_fork, Trial, folder, Descriptor(lock), LOG)
    except (OSError, EOFError) as error:
        print(f"the fork server does not answer ({error!r}): starting a new interpreter", flush=True)
        return folder, start_supervisor(SUPERVISOR, folder, lock, LOG)
    os.close(lock)
    return folder, process


def ancestors(root: Path, request: Mapping[str, Any]) -> list[Path]:
    """Returns the folders of a warm start's parents and their own parents, each once, the oldest first."""
    folders: list[Path] = []
    visited: set[Path] = set()  # a name that was reused after its folder was deleted can close a cycle

    def visit(request: Mapping[str, Any]) -> None:
        for parent in request.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", []):
            folder = root / parent["HyperParameterTuningJobName"]
            if folder not in visited:
                visited.add(folder)
                visit(read_json(folder / REQUEST))
                folders.append(folder)

    visit(request)
    return folders
