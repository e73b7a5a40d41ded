"""Rejects requests that AWS accepts but this machine does not support, with what to use instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from launch.local.job_store import FINAL, REQUEST, Json, is_job, is_tuning, read_json, read_state
from launch.local.jobs.container import local_path
from launch.spec.limits import warm_start_problems

AWS_ONLY_ENDPOINT_FIELDS = (
    "DataCaptureConfig",
    "AsyncInferenceConfig",
    "ExplainerConfig",
    "ShadowProductionVariants",
)


def training_problems(request: Json, root: Path, prefix: str = "") -> Iterator[str]:
    """Yields why a training job, or the definition in a tuning job (at `prefix`), cannot run on this machine."""
    for index, channel in enumerate(request.get("InputDataConfig", [])):
        path = f"{prefix}InputDataConfig[{index}].DataSource"
        uri = channel["DataSource"].get("S3DataSource", {}).get("S3Uri", "another source")
        target = local_path(uri, root)
        if target is None:
            yield f"{path}: {uri} is not copied to this machine; set data.url instead, jobs stream it"
        elif not target.exists():
            yield f"{path}: {uri} is {target}, which does not exist"
    if request.get("ResourceConfig", {}).get("InstanceCount", 1) > 1:
        yield f"{prefix}ResourceConfig.InstanceCount: this machine is one host; give 1"
    for index, metric in enumerate(request["AlgorithmSpecification"].get("MetricDefinitions", [])):
        path = f"{prefix}AlgorithmSpecification.MetricDefinitions[{index}].Regex"
        try:
            groups = re.compile(metric["Regex"]).groups
        except re.error as error:
            yield f"{path}: {metric['Regex']!r} is not a regular expression: {error}"
        else:
            if groups == 0:
                yield f"{path}: {metric['Regex']!r} has no group; put the number in parentheses"


def tuning_problems(request: Json, root: Path) -> Iterator[str]:
    """Yields why a tuning job cannot run on this machine; `root` is the folder `s3://local`."""
    config = request["HyperParameterTuningJobConfig"]
    unsupported: list[str] = [field for field in ("Autotune", "TrainingJobDefinitions") if field in request]
    if "AutoParameters" in config.get("ParameterRanges", {}):
        unsupported.append("HyperParameterTuningJobConfig.ParameterRanges.AutoParameters")
    for field in unsupported:
        yield f"{field}: not supported on this machine; give one TrainingJobDefinition and its ranges"
    if "HyperParameterTuningJobObjective" not in config:
        yield "HyperParameterTuningJobConfig.HyperParameterTuningJobObjective: missing; give a metric and its goal"
    for parent in request.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", []):
        yield from _parent_problems(root / parent["HyperParameterTuningJobName"], request)
    if "TrainingJobDefinition" in request:
        yield from training_problems(request["TrainingJobDefinition"], root, "TrainingJobDefinition.")


def _parent_problems(folder: Path, request: Json) -> Iterator[str]:
    path = "WarmStartConfig.ParentHyperParameterTuningJobs"
    if not is_job(folder) or not is_tuning(folder):
        yield f"{path}: there is no tuning job {folder.name} under {folder.parent}"
    elif (status := read_state(folder)["status"]) not in FINAL:
        yield f"{path}: {folder.name} is in status {status}; stop it or wait for it to end"
    elif parent := read_json(folder / REQUEST):
        yield from warm_start_problems(request, parent)


def model_problems(request: Json, root: Path) -> Iterator[str]:
    """Yields why a model cannot be served on this machine; `root` is the folder `s3://local`."""
    container = request.get("PrimaryContainer", {})
    folder = container.get("ModelDataSource", {}).get("S3DataSource", {}).get("S3Uri")
    url = container.get("ModelDataUrl") or folder
    if url is None:
        yield "PrimaryContainer.ModelDataUrl: missing; give the URI of a training job's model.tar.gz"
        return
    target = local_path(url, root)
    if target is None and folder:
        yield f"PrimaryContainer.ModelDataSource: {url} is not copied to this machine; give a ModelDataUrl"
    elif target is not None and not target.exists():
        yield f"Could not access model data at {url}: {target} does not exist"


def endpoint_config_problems(request: Json) -> Iterator[str]:
    """Yields why an endpoint configuration cannot be served on this machine."""
    for field in AWS_ONLY_ENDPOINT_FIELDS:
        if field in request:
            yield f"{field}: not supported on this machine; leave it out, or give backend=sagemaker"
    if len(request["ProductionVariants"]) > 1:
        yield "ProductionVariants: only one can be served on this machine; give one"
