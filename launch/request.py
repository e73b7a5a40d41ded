"""A Plan to the dicts that `boto3.client("sagemaker")` takes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dogbreed.objective import metric_regex
from launch.plan import Plan
from launch.space import Range

METRICS = ("val/accuracy", "val/loss", "val/f1", "val/top5_accuracy", "train/loss", "train/accuracy")
METRICS_AT_END = ("test/accuracy", "test/loss")
"""Metrics that SageMaker is told to read from a job's log."""

OVERRIDES = "overrides"
"""Hyperparameter that holds the fixed overrides, one JSON list."""

KEYS = "keys"
"""Hyperparameter that maps the names of searched hyperparameters to the keys typed, where the two differ."""


@dataclass(frozen=True)
class Site:
    """Where jobs run: what the request must name and the plan does not know."""

    role_arn: str
    training_image: str
    output_path: str
    """`s3://BUCKET/PREFIX` under which each job leaves JOBNAME/output/model.tar.gz."""


LOCAL_SITE = Site(
    role_arn="arn:aws:iam::000000000000:role/this-machine",
    training_image="dogbreed",
    output_path="s3://local",
)
"""This machine: no role and no image are needed, but what a laptop accepts is what AWS accepts."""


def tuning_request(plan: Plan, site: Site) -> dict[str, Any]:
    """Returns the arguments of `create_hyper_parameter_tuning_job` for `plan`."""
    return {
        "HyperParameterTuningJobName": plan.name,
        "HyperParameterTuningJobConfig": _tuning_config(plan),
        "TrainingJobDefinition": _training_definition(plan, site),
    }


def resume_request(described: Mapping[str, Any], name: str, max_jobs: int) -> dict[str, Any]:
    """Returns the request of a sweep `name` that goes on with a stopped one, for `max_jobs` more trials.

    Args:
        described: what `describe_hyper_parameter_tuning_job` says of the stopped sweep.

    The new job warm-starts from the old one on identical data and algorithm, so no finished trial is repeated.
    """
    config = dict(described["HyperParameterTuningJobConfig"])
    config["ResourceLimits"] = config["ResourceLimits"] | {
        "MaxNumberOfTrainingJobs": max_jobs,
        "MaxParallelTrainingJobs": min(max_jobs, config["ResourceLimits"]["MaxParallelTrainingJobs"]),
    }
    definition = dict(described["TrainingJobDefinition"])
    definition["StaticHyperParameters"] = {
        key: value for key, value in definition["StaticHyperParameters"].items() if key != "_tuning_objective_metric"
    }
    output = definition["OutputDataConfig"]["S3OutputPath"].rpartition("/")[0]
    definition["OutputDataConfig"] = definition["OutputDataConfig"] | {"S3OutputPath": f"{output}/{name}"}
    parent = {"HyperParameterTuningJobName": described["HyperParameterTuningJobName"]}
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": definition,
        "WarmStartConfig": {
            "ParentHyperParameterTuningJobs": [parent],
            "WarmStartType": "IdenticalDataAndAlgorithm",
        },
    }


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
        resource = {"MinResource": int(tuner.min_epochs), "MaxResource": int(tuner.max_epochs)}
        config["StrategyConfig"] = {"HyperbandStrategyConfig": resource}
    if tuner.seed is not None:
        config["RandomSeed"] = int(tuner.seed)
    return config


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


def _training_definition(plan: Plan, site: Site) -> dict[str, Any]:
    instance = plan.cfg.instance
    static = {OVERRIDES: json.dumps(list(plan.fixed))}
    keys = {r.name: r.key for r in plan.ranges if r.name != r.key}
    if keys:
        static[KEYS] = json.dumps(keys)
    metrics = dict.fromkeys((str(plan.cfg.objective.metric), *METRICS, *METRICS_AT_END))
    return {
        "StaticHyperParameters": static,
        "AlgorithmSpecification": {
            "TrainingImage": site.training_image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": name, "Regex": metric_regex(name)} for name in metrics],
        },
        "RoleArn": site.role_arn,
        "OutputDataConfig": {"S3OutputPath": f"{site.output_path}/{plan.name}"},
        "ResourceConfig": {
            "InstanceType": str(instance.type),
            "InstanceCount": int(instance.count),
            "VolumeSizeInGB": int(instance.volume_gb),
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": round(instance.max_hours * 3600)},
    }
