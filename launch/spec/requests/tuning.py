"""A Plan to the dicts that `boto3.client("sagemaker")` takes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dogbreed.errors import UserError
from launch.spec.contract import APP, FIRST_POINTS, KEYS, OVERRIDES, TUNING_METRIC
from launch.spec.plan import Plan
from launch.spec.requests.debugger import debugger_fields, wants_managed_rules
from launch.spec.requests.training import (
    JobTarget,
    code_hyperparameters,
    job_definition,
    resource_choices,
    resources,
    tags,
)
from launch.spec.search_space import Range


def tuning_request(plan: Plan, target: JobTarget) -> dict[str, Any]:
    """Returns the arguments of `create_hyper_parameter_tuning_job` for `plan`."""
    tuner = plan.cfg.tuner
    request: dict[str, Any] = {
        "HyperParameterTuningJobName": plan.name,
        "HyperParameterTuningJobConfig": _tuning_config(plan),
        "TrainingJobDefinition": _training_definition(plan, target),
    }
    if tuner.warm_start:
        request["WarmStartConfig"] = _warm_start(list(map(str, tuner.warm_start)), str(tuner.warm_start_type))
    if tuner.autotune:
        request["Autotune"] = {"Mode": "Enabled"}
    if plan.cfg.backend.tags:
        request["Tags"] = tags(plan.cfg)
    return request


def _warm_start(parents: Sequence[str], kind: str) -> dict[str, Any]:
    return {
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": name} for name in parents],
        "WarmStartType": kind,
    }


def resume_request(
    described: Mapping[str, Any], name: str, max_jobs: int, tags: Sequence[Mapping[str, str]] = ()
) -> dict[str, Any]:
    """Returns the request of a sweep `name` that goes on with a stopped one, for `max_jobs` more trials.

    Args:
        described: what `describe_hyper_parameter_tuning_job` says of the stopped sweep.
        name: of the new sweep.
        max_jobs: trials that are left to do.
        tags: of the stopped sweep, which its description does not tell.

    The new job warm-starts from the old one on identical data and algorithm, so no finished trial is repeated.
    """
    config = dict(described["HyperParameterTuningJobConfig"])
    config["ResourceLimits"] = config["ResourceLimits"] | {
        "MaxNumberOfTrainingJobs": max_jobs,
        "MaxParallelTrainingJobs": min(max_jobs, config["ResourceLimits"]["MaxParallelTrainingJobs"]),
    }
    if config["Strategy"] == "Grid":  # it counts its points itself, and takes no other number
        del config["ResourceLimits"]["MaxNumberOfTrainingJobs"]
    definition = dict(described["TrainingJobDefinition"])
    definition["StaticHyperParameters"] = {
        key: value for key, value in definition["StaticHyperParameters"].items() if key != TUNING_METRIC
    }
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
    if tags:
        request["Tags"] = [dict(tag) for tag in tags]
    return request


def training_request(cfg: DictConfig, fixed: Sequence[str], target: JobTarget) -> dict[str, Any]:
    """Returns the arguments of `create_training_job` for a settled `cfg`.

    Args:
        cfg: of training.yaml.
        fixed: the overrides that the job composes its config from.
        target: where it runs.

    Raises:
        UserError: a setting that only a tuning job has.
    """
    name = str(cfg.name)
    if cfg.instance.alternatives:
        raise UserError("instance.alternatives is for sweeps: a single training names one instance.type")
    static = {OVERRIDES: json.dumps(list(fixed), ensure_ascii=False)}
    request: dict[str, Any] = {
        "TrainingJobName": name,
        "HyperParameters": static | code_hyperparameters(target, bool(cfg.backend.get("network_isolation"))),
        **job_definition(cfg, target, name, target.output_path),
        "ResourceConfig": resources(cfg),
    }
    if cfg.instance.keep_alive_minutes:
        if cfg.instance.spot:
            raise UserError("instance.keep_alive_minutes: AWS keeps no spot instances warm; give instance.spot=false")
        request["ResourceConfig"]["KeepAlivePeriodInSeconds"] = round(cfg.instance.keep_alive_minutes * 60)
    if wants_managed_rules(cfg):
        request |= debugger_fields(cfg, target.rules_image, f"{target.output_path}/{name}")
    if cfg.backend.tags:
        request["Tags"] = tags(cfg)
    return request


def _tuning_config(plan: Plan) -> dict[str, Any]:
    tuner, objective = plan.cfg.tuner, plan.cfg.objective
    limits = {"MaxNumberOfTrainingJobs": plan.max_jobs, "MaxParallelTrainingJobs": plan.max_parallel_jobs}
    if tuner.max_hours is not None:
        limits["MaxRuntimeInSeconds"] = round(tuner.max_hours * 3600)
    config: dict[str, Any] = {
        "Strategy": str(tuner.strategy),
        "HyperParameterTuningJobObjective": {
            "Type": str(objective.goal).capitalize(),
            "MetricName": str(objective.metric),
        },
        "ResourceLimits": limits,
        "ParameterRanges": parameter_ranges(plan.ranges),
        "TrainingJobEarlyStoppingType": "Auto" if tuner.early_stopping else "Off",
    }
    if tuner.strategy == "Hyperband":
        # One more than there are epochs: a training that has ended says its best epoch again, and is not to be stopped.
        resource = {"MinResource": int(tuner.min_epochs), "MaxResource": int(tuner.max_epochs) + 1}
        config["StrategyConfig"] = {"HyperbandStrategyConfig": resource}
    if criteria := _completion_criteria(plan):
        config["TuningJobCompletionCriteria"] = criteria
    if tuner.seed is not None:
        config["RandomSeed"] = int(tuner.seed)
    return config


def _completion_criteria(plan: Plan) -> dict[str, Any]:
    tuner = plan.cfg.tuner
    criteria: dict[str, Any] = {}
    if tuner.target is not None:
        criteria["TargetObjectiveMetricValue"] = float(tuner.target)
    if tuner.patience is not None:
        criteria["BestObjectiveNotImproving"] = {"MaxNumberOfTrainingJobsNotImproving": int(tuner.patience)}
    if tuner.until_converged:
        criteria["ConvergenceDetected"] = {"CompleteOnConvergence": "Enabled"}
    return criteria


def parameter_ranges(ranges: Sequence[Range]) -> dict[str, list[dict[str, Any]]]:
    """Returns the API's `ParameterRanges` of `ranges`, every value as text."""
    found: dict[str, list[dict[str, Any]]] = {}
    for r in ranges:
        if r.kind == "Categorical":
            entry: dict[str, Any] = {"Name": r.name, "Values": list(r.values)}
        else:
            entry = {"Name": r.name, "MinValue": r.values[0], "MaxValue": r.values[1], "ScalingType": r.scaling}
        found.setdefault(f"{r.kind}ParameterRanges", []).append(entry)
    return found


def _training_definition(plan: Plan, target: JobTarget) -> dict[str, Any]:
    cfg = plan.cfg
    static = {OVERRIDES: json.dumps(list(plan.fixed), ensure_ascii=False)}
    if plan.app is not None:  # at AWS the archive holds it at its root
        static[APP] = Path(plan.app).name if target.code_uri else plan.app
    keys = {r.name: r.key for r in plan.ranges if r.name != r.key}
    if keys:
        static[KEYS] = json.dumps(keys)
    if plan.first and target.takes_first_points:
        static[FIRST_POINTS] = json.dumps(plan.first)
    static |= code_hyperparameters(target, bool(cfg.backend.get("network_isolation")))
    machines = (
        {"HyperParameterTuningResourceConfig": resource_choices(cfg)}
        if cfg.instance.alternatives
        else {"ResourceConfig": resources(cfg)}
    )
    output = f"{target.output_path}/{plan.name}"
    return {"StaticHyperParameters": static, **job_definition(cfg, target, plan.name, output), **machines}
