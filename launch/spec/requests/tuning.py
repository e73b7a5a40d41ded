"""The CreateHyperParameterTuningJob request of a plan, or of a stopped sweep that is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.spec.contract import APP, FIRST_POINTS, KEYS, OVERRIDES, TUNING_METRIC, Json, app_program
from launch.spec.ownership import owner_tags
from launch.spec.plan import Plan
from launch.spec.requests.training import (
    Target,
    code_hyperparameters,
    job_definition,
    resource_config,
    tags,
    tuning_resource_config,
)
from launch.spec.search_space import SearchParameter


def tuning_request(plan: Plan, target: Target) -> Json:
    """Returns the arguments of `create_hyper_parameter_tuning_job` for `plan`."""
    tuner = plan.cfg.tuner
    request: Json = {
        "HyperParameterTuningJobName": plan.name,
        "HyperParameterTuningJobConfig": _tuning_config(plan),
        "TrainingJobDefinition": _training_definition(plan, target),
    }
    if tuner.warm_start:
        request["WarmStartConfig"] = _warm_start(list(map(str, tuner.warm_start)), str(tuner.warm_start_type))
    if tuner.autotune:
        request["Autotune"] = {"Mode": "Enabled"}
    request["Tags"] = tags(plan.cfg, plan.name)
    return request


def resume_request(
    described: Mapping[str, Any], name: str, max_jobs: int, tags: Sequence[Mapping[str, str]] = ()
) -> Json:
    """Returns the request of a sweep that resumes a stopped one.

    It warm-starts from the stopped sweep on identical data and algorithm, so no finished trial is repeated.
    """
    config = dict(described["HyperParameterTuningJobConfig"])
    config["ResourceLimits"] = config["ResourceLimits"] | {
        "MaxNumberOfTrainingJobs": max_jobs,
        "MaxParallelTrainingJobs": min(max_jobs, config["ResourceLimits"]["MaxParallelTrainingJobs"]),
    }
    if config["Strategy"] == "Grid":  # AMT counts the points of a grid and accepts no other number
        del config["ResourceLimits"]["MaxNumberOfTrainingJobs"]
    definition = dict(described["TrainingJobDefinition"])
    static = definition["StaticHyperParameters"]
    definition["StaticHyperParameters"] = {key: value for key, value in static.items() if key != TUNING_METRIC}
    output = definition["OutputDataConfig"]["S3OutputPath"].rpartition("/")[0]
    definition["OutputDataConfig"] = definition["OutputDataConfig"] | {"S3OutputPath": f"{output}/{name}"}
    request = {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": definition,
        "WarmStartConfig": _warm_start([described["HyperParameterTuningJobName"]], "IdenticalDataAndAlgorithm"),
    }
    if "Autotune" in described:
        request["Autotune"] = described["Autotune"]
    request["Tags"] = owner_tags(name, tags)
    return request


def parameter_ranges(parameters: Sequence[SearchParameter]) -> dict[str, list[Json]]:
    """Returns the API's `ParameterRanges` of a search space, with every value as text."""
    ranges: dict[str, list[Json]] = {}
    for parameter in parameters:
        if parameter.kind == "Categorical":
            entry: Json = {"Name": parameter.name, "Values": list(parameter.values)}
        else:
            low, high = parameter.values
            entry = {"Name": parameter.name, "MinValue": low, "MaxValue": high, "ScalingType": parameter.scaling}
        ranges.setdefault(f"{parameter.kind}ParameterRanges", []).append(entry)
    return ranges


def _warm_start(parents: Sequence[str], kind: str) -> Json:
    return {
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": name} for name in parents],
        "WarmStartType": kind,
    }


def _tuning_config(plan: Plan) -> Json:
    tuner, objective = plan.cfg.tuner, plan.cfg.objective
    limits = {"MaxNumberOfTrainingJobs": plan.max_jobs, "MaxParallelTrainingJobs": plan.max_parallel_jobs}
    if tuner.max_hours is not None:
        limits["MaxRuntimeInSeconds"] = round(tuner.max_hours * 3600)
    config: Json = {
        "Strategy": str(tuner.strategy),
        "HyperParameterTuningJobObjective": {
            "Type": str(objective.goal).capitalize(),
            "MetricName": str(objective.metric),
        },
        "ResourceLimits": limits,
        "ParameterRanges": parameter_ranges(plan.parameters),
        "TrainingJobEarlyStoppingType": "Auto" if tuner.early_stopping else "Off",
    }
    if tuner.strategy == "Hyperband":
        # one more than the epochs: a finished training prints its best epoch again, and must not be stopped for that
        resource = {"MinResource": int(tuner.min_epochs), "MaxResource": int(tuner.max_epochs) + 1}
        config["StrategyConfig"] = {"HyperbandStrategyConfig": resource}
    if criteria := _completion_criteria(plan):
        config["TuningJobCompletionCriteria"] = criteria
    if tuner.seed is not None:
        config["RandomSeed"] = int(tuner.seed)
    return config


def _completion_criteria(plan: Plan) -> Json:
    tuner = plan.cfg.tuner
    criteria: Json = {}
    if tuner.target is not None:
        criteria["TargetObjectiveMetricValue"] = float(tuner.target)
    if tuner.patience is not None:
        criteria["BestObjectiveNotImproving"] = {"MaxNumberOfTrainingJobsNotImproving": int(tuner.patience)}
    if tuner.until_converged:
        criteria["ConvergenceDetected"] = {"CompleteOnConvergence": "Enabled"}
    return criteria


def _training_definition(plan: Plan, target: Target) -> Json:
    cfg = plan.cfg
    static = {OVERRIDES: json.dumps(list(plan.fixed), ensure_ascii=False)}
    if plan.app is not None:  # the archive for AWS has it at its root
        static[APP] = " ".join(Path(word).name for word in app_program(plan.app)) if target.code_uri else plan.app
    if keys := {parameter.name: parameter.key for parameter in plan.parameters if parameter.name != parameter.key}:
        static[KEYS] = json.dumps(keys)
    if plan.first and target.is_local:
        static[FIRST_POINTS] = json.dumps(plan.first)
    static |= code_hyperparameters(target, bool(cfg.backend.get("network_isolation")))
    resources = (
        {"HyperParameterTuningResourceConfig": tuning_resource_config(cfg)}
        if cfg.instance.alternatives
        else {"ResourceConfig": resource_config(cfg)}
    )
    output = f"{target.output_path}/{plan.name}"
    return {"StaticHyperParameters": static, **job_definition(cfg, target, plan.name, output), **resources}
