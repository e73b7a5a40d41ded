"""Responses of the describe and list operations, from the states and requests of jobs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from launch.local.job_store import Json
from launch.local.tuning.objective import best_job, count_statuses, final_objective, objective_status
from launch.spec.contract import TUNING_METRIC

_ECHOED_FIELDS = (
    "AlgorithmSpecification",
    "RoleArn",
    "InputDataConfig",
    "ResourceConfig",
    "VpcConfig",
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining",
    "CheckpointConfig",
    "DebugHookConfig",
    "ExperimentConfig",
    "DebugRuleConfigurations",
    "TensorBoardOutputConfig",
    "ProfilerConfig",
    "ProfilerRuleConfigurations",
    "Environment",
    "RetryStrategy",
    "RemoteDebugConfig",
    "InfraCheckConfig",
    "HyperParameters",
    "OutputDataConfig",
)
"""Fields of the request that describe_training_job returns."""
_MAX_RUNTIME = {"MaxRuntimeInSeconds": 86_400}
_UNREADABLE: Json = {
    "HyperParameterTuningJobConfig": {
        "Strategy": "Random",
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "unknown"},
        "ResourceLimits": {"MaxParallelTrainingJobs": 1},
    },
    "TrainingJobDefinition": {
        "AlgorithmSpecification": {"TrainingImage": "unknown", "TrainingInputMode": "File"},
        "RoleArn": "arn:aws:iam::000000000000:role/unknown",
        "OutputDataConfig": {"S3OutputPath": "s3://local"},
        "StoppingCondition": _MAX_RUNTIME,
    },
}
"""Stands for an unreadable request, so that one broken folder does not break the list of all jobs."""


def timestamp(seconds: float) -> dt.datetime:
    """Returns seconds since the epoch as a time of the API, rounded to milliseconds."""
    return dt.datetime.fromtimestamp(round(seconds, 3), dt.timezone.utc)


def training_description(state: Json, request: Json, artifact_uri: str) -> Json:
    """Returns the response of describe_training_job; `request` is {} if unreadable, the artifact may not exist yet."""
    response: Json = {
        "TrainingJobName": state["name"],
        "TrainingJobArn": state["arn"],
        "ModelArtifacts": {"S3ModelArtifacts": artifact_uri},
        "TrainingJobStatus": state["status"],
        "SecondaryStatus": state["secondary"],
        "StoppingCondition": request.get("StoppingCondition", _MAX_RUNTIME),
        "SecondaryStatusTransitions": [_transition(entry) for entry in state.get("transitions", [])],
        "FinalMetricDataList": [
            {"MetricName": name, "Value": value, "Timestamp": timestamp(time)}
            for name, (value, time) in state.get("metrics", {}).items()
        ],
        **{field: request[field] for field in _ECHOED_FIELDS if field in request},
        **_times(state, "CreationTime", "TrainingStartTime", "TrainingEndTime", "LastModifiedTime"),
        **_failure(state),
    }
    if "tuning_arn" in state:
        response["TuningJobArn"] = state["tuning_arn"]
    if "started" in state and "ended" in state:
        seconds = max(1, round(state["ended"] - state["started"]))
        response |= {"TrainingTimeInSeconds": seconds, "BillableTimeInSeconds": seconds}
    return response


def training_summary(state: Json) -> Json:
    """Returns a job's entry in list_training_jobs."""
    return {
        "TrainingJobName": state["name"],
        "TrainingJobArn": state["arn"],
        "TrainingJobStatus": state["status"],
        "SecondaryStatus": state["secondary"],
        **_times(state, "CreationTime", None, "TrainingEndTime", "LastModifiedTime"),
    }


def trial_summary(state: Json, objective: Mapping[str, str]) -> Json:
    """Returns a training job's entry in its tuning job's list."""
    value = final_objective(state, objective)
    response = {
        "TrainingJobName": state["name"],
        "TrainingJobArn": state["arn"],
        "TuningJobName": state.get("tuning_job", ""),
        "TrainingJobStatus": state["status"],
        "TunedHyperParameters": state.get("tuned", {}),
        "ObjectiveStatus": objective_status(state, objective),
        **_times(state, "CreationTime", "TrainingStartTime", "TrainingEndTime", None),
        **_failure(state),
    }
    if value is not None:
        response["FinalHyperParameterTuningJobObjectiveMetric"] = {**objective, "Value": value}
    return response


def tuning_description(state: Json, request: Json, trials: list[Json], parents: list[Json]) -> Json:
    """Returns the response of describe_hyper_parameter_tuning_job; `request` is {} if unreadable.

    `parents` are the states of the trials of its warm start's parents.
    """
    unreadable = not request
    request = request or _UNREADABLE
    config = request["HyperParameterTuningJobConfig"]
    objective = config["HyperParameterTuningJobObjective"]
    definition = request["TrainingJobDefinition"]
    static = {**definition.get("StaticHyperParameters", {}), TUNING_METRIC: objective["MetricName"]}
    response: Json = {
        **_tuning_head(state, trials, objective),
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": {**definition, "StaticHyperParameters": static},
        "TuningJobCompletionDetails": _completion(state),
        "ConsumedResources": {"RuntimeInSeconds": sum(map(_seconds, trials))},
        **({"WarmStartConfig": request["WarmStartConfig"]} if "WarmStartConfig" in request else {}),
        **({"FailureReason": "InternalServerError: its request.json cannot be read"} if unreadable else {}),
        **_failure(state),
    }
    best = best_job(trials, objective)
    if best:
        response["BestTrainingJob"] = trial_summary(best, objective)
    overall = best_job([*parents, *trials], objective)
    if overall and request.get("WarmStartConfig", {}).get("WarmStartType") == "IdenticalDataAndAlgorithm":
        response["OverallBestTrainingJob"] = trial_summary(overall, objective)
    return response


def tuning_summary(state: Json, request: Json, trials: list[Json]) -> Json:
    """Returns a tuning job's entry in list_hyper_parameter_tuning_jobs."""
    config = (request or _UNREADABLE)["HyperParameterTuningJobConfig"]
    head = _tuning_head(state, trials, config["HyperParameterTuningJobObjective"])
    return {**head, "Strategy": config["Strategy"], "ResourceLimits": config["ResourceLimits"]}


def _tuning_head(state: Json, trials: list[Json], objective: Mapping[str, str]) -> Json:
    jobs, objectives = count_statuses(trials, objective)
    return {
        "HyperParameterTuningJobName": state["name"],
        "HyperParameterTuningJobArn": state["arn"],
        "HyperParameterTuningJobStatus": state["status"],
        "TrainingJobStatusCounters": jobs,
        "ObjectiveStatusCounters": objectives,
        **_times(state, "CreationTime", None, "HyperParameterTuningEndTime", "LastModifiedTime"),
    }


def _times(state: Json, created: str, started: str | None, ended: str, modified: str | None) -> Json:
    """Returns the known times of a job under the names that an operation gives them."""
    names = {"created": created, "started": started, "ended": ended, "modified": modified}
    return {name: timestamp(state[key]) for key, name in names.items() if name and key in state}


def _failure(state: Json) -> Json:
    return {"FailureReason": state["failure"]} if "failure" in state else {}


def _transition(entry: Json) -> Json:
    response = {"Status": entry["status"], "StartTime": timestamp(entry["start"]), "StatusMessage": entry["message"]}
    return response | ({"EndTime": timestamp(entry["end"])} if "end" in entry else {})


def _completion(state: Json) -> Json:
    response: Json = {"NumberOfTrainingJobsObjectiveNotImproving": state.get("not_improving", 0)}
    if state.get("converged_at"):
        response["ConvergenceDetectedTime"] = timestamp(state["converged_at"])
    return response


def _seconds(state: Json) -> int:
    """Returns how long a training job has run, in whole seconds."""
    if "started" not in state:
        return 0
    return round(state.get("ended", state["modified"]) - state["started"])
