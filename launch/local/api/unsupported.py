"""What AWS takes and this machine cannot do: said at once, and what to give instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch.local.job_state import FINAL, is_job, is_tuning, look
from launch.local.jobs.container import local_path

Json = dict[str, Any]


def refuse_training(request: Json, root: Path, prefix: str = "") -> Iterator[str]:
    """Yields why a training job, or the definition of a tuning job, cannot run under `root`.

    Args:
        request: of CreateTrainingJob, or a TrainingJobDefinition.
        root: the folder that `s3://local` stands for.
        prefix: the path of `request` within the whole request, with its dot.
    """
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
            yield f"{path}: {metric['Regex']!r} is no regular expression: {error}"
        else:
            if groups == 0:
                yield f"{path}: {metric['Regex']!r} has no group; put the number in parentheses"


def refuse_tuning(request: Json, root: Path) -> Iterator[str]:
    """Yields why a tuning job cannot run under `root`."""
    config = request["HyperParameterTuningJobConfig"]
    unknown: list[str] = [field for field in ("Autotune", "TrainingJobDefinitions") if field in request]
    if "AutoParameters" in config.get("ParameterRanges", {}):
        unknown.append("HyperParameterTuningJobConfig.ParameterRanges.AutoParameters")
    for field in unknown:
        yield f"{field}: not done on this machine; give one TrainingJobDefinition and its ranges"
    if "HyperParameterTuningJobObjective" not in config:
        yield "HyperParameterTuningJobConfig.HyperParameterTuningJobObjective: missing; say which metric is best how"
    for parent in request.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", []):
        yield from _refuse_parent(root / parent["HyperParameterTuningJobName"])
    if "TrainingJobDefinition" in request:
        yield from refuse_training(request["TrainingJobDefinition"], root, "TrainingJobDefinition.")


def _refuse_parent(folder: Path) -> Iterator[str]:
    path = "WarmStartConfig.ParentHyperParameterTuningJobs"
    if not is_job(folder) or not is_tuning(folder):
        yield f"{path}: there is no tuning job {folder.name} under {folder.parent}"
    elif (status := look(folder)["status"]) not in FINAL:
        yield f"{path}: {folder.name} is in status {status}; stop it or wait for its end"
