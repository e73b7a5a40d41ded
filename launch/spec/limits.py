"""Validates requests as AWS does: against botocore's service model, then against the documented limits.

    problems = check_request("CreateHyperParameterTuningJob", request)

Both clients use it before anything is sent or started. The limits are those of Automatic Model Tuning (AMT) in the
developer guide and in the service model's documentation; a limit that AWS raises on request is called a "default
quota".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from launch.spec.contract import FIRST_POINTS, TUNING_METRIC, Json
from launch.spec.service_model import check_shape, service_model

DEFAULT_MAX_JOBS = 750
DEFAULT_MAX_PARALLEL_JOBS = 10
MAX_SEARCHED = 30
MAX_HYPERPARAMETERS = 99
"""Static and searched together: 100, of which AMT uses one, `_tuning_objective_metric`."""
MAX_RESOURCE_EPOCHS = 20_000
EPOCH_NAMES = ("epochs", "numepochs", "n-epochs", "n_epochs", "num_epochs")
"""Static hyperparameters from which AMT infers Hyperband's MaxResource."""

SERVERLESS_MEMORY_MB = tuple(range(1024, 6145, 1024))
AUTO_SCALING = "application-autoscaling"
SERVICES = {"RegisterScalableTarget": AUTO_SCALING, "PutScalingPolicy": AUTO_SCALING}
"""Operation to its service, if that is not SageMaker."""

_CONFIG = "HyperParameterTuningJobConfig"
_RANGES = f"{_CONFIG}.ParameterRanges"


def check_request(operation: str, request: Json) -> list[str]:
    """Returns the problems of `request` for `operation` (API name), one line each; [] if AWS accepts it.

    The documented limits are checked only if the request has the right shape.
    """
    shape = service_model(SERVICES.get(operation, "sagemaker")).operation_model(operation).input_shape
    problems = check_shape(shape, request)
    if problems:
        return problems
    if operation == "CreateHyperParameterTuningJob":
        return list(_check_tuning(request))
    if operation == "CreateTrainingJob":
        return list(_check_spot(request, ""))
    if operation == "CreateEndpointConfig":
        return list(_check_variants(request))
    return []


def quota_warnings(request: Json) -> list[str]:
    """Returns where a tuning request is over AWS's default quotas, which AWS raises on request."""
    limits = request.get(_CONFIG, {}).get("ResourceLimits", {})
    quotas = {"MaxNumberOfTrainingJobs": DEFAULT_MAX_JOBS, "MaxParallelTrainingJobs": DEFAULT_MAX_PARALLEL_JOBS}
    return [
        f"{field}={limits[field]} is over the default quota of an account, {quota}; AWS raises it on request"
        for field, quota in quotas.items()
        if limits.get(field, 0) > quota
    ]


def warm_start_problems(request: Json, parent: Json) -> list[str]:
    """Returns why AWS rejects the warm start of a tuning request.

    Args:
        request: The request.
        parent: Request or description of one of its parents.
    """
    name = parent["HyperParameterTuningJobName"]
    objective, own, theirs = "HyperParameterTuningJobObjective", _names(request), _names(parent)
    problems = []
    if request[_CONFIG].get(objective) != parent[_CONFIG].get(objective):
        problems.append(f"tuner.warm_start: {name} has another objective; give the same metric and goal")
    if own != theirs:
        more, fewer = ", ".join(sorted(own - theirs)), ", ".join(sorted(theirs - own))
        change = "; ".join([f"not in {name}: {more}"] * bool(more) + [f"only in {name}: {fewer}"] * bool(fewer))
        problems.append(f"tuner.warm_start: all sweeps must have the same hyperparameters ({change}): search the same")
    return problems


def _names(request: Json) -> set[str]:
    """Returns the static and searched hyperparameters, without those that AMT or this machine alone use."""
    static = request.get("TrainingJobDefinition", {}).get("StaticHyperParameters", {})
    searched = {item["Name"] for _, item in _ranges(request[_CONFIG].get("ParameterRanges", {}))}
    return ({*static} | searched) - {TUNING_METRIC, FIRST_POINTS}


def _check_variants(request: Json) -> Iterator[str]:
    for index, variant in enumerate(request["ProductionVariants"]):
        path = f"ProductionVariants[{index}]"
        if ("ServerlessConfig" in variant) == ("InstanceType" in variant):
            yield f"{path}: give exactly one of ServerlessConfig and InstanceType"
        memory = variant.get("ServerlessConfig", {}).get("MemorySizeInMB", SERVERLESS_MEMORY_MB[0])
        if memory not in SERVERLESS_MEMORY_MB:
            allowed = ", ".join(map(str, SERVERLESS_MEMORY_MB))
            yield f"{path}.ServerlessConfig.MemorySizeInMB: {memory} is not one of {allowed}"


def _check_tuning(request: Json) -> Iterator[str]:
    config = request[_CONFIG]
    single = request.get("TrainingJobDefinition")
    several = request.get("TrainingJobDefinitions")
    if (single is None) == (several is None):
        yield "TrainingJobDefinition: give exactly one of TrainingJobDefinition and TrainingJobDefinitions"
    yield from _check_resources(config)
    yield from _check_hyperband(config, single or {})
    if single is not None:
        ranges = config.get("ParameterRanges", {})
        yield from _check_ranges(ranges, _RANGES)
        if not _ranges(ranges) and "Autotune" not in request:
            yield f"{_RANGES}: empty; give at least one hyperparameter a range to search"
        yield from _check_grid(config, ranges, _RANGES)
        yield from _check_definition(
            single, ranges, config.get("HyperParameterTuningJobObjective"), "TrainingJobDefinition"
        )
    for index, definition in enumerate(several or []):
        path = f"TrainingJobDefinitions[{index}]"
        ranges = definition.get("HyperParameterRanges", {})
        yield from _check_ranges(ranges, f"{path}.HyperParameterRanges")
        yield from _check_grid(config, ranges, f"{path}.HyperParameterRanges")
        yield from _check_definition(definition, ranges, definition.get("TuningObjective"), path)


def _check_resources(config: Json) -> Iterator[str]:
    limits = config["ResourceLimits"]
    path = f"{_CONFIG}.ResourceLimits"
    jobs, parallel = limits.get("MaxNumberOfTrainingJobs"), limits["MaxParallelTrainingJobs"]
    if jobs is None and config["Strategy"] != "Grid":
        yield f"{path}.MaxNumberOfTrainingJobs: missing; only Strategy Grid counts its jobs itself"
    if jobs is not None and parallel > jobs:
        yield f"{path}.MaxParallelTrainingJobs: {parallel} at a time is more than the {jobs} jobs in all; give {jobs}"


def _check_hyperband(config: Json, definition: Json) -> Iterator[str]:
    settings = config.get("StrategyConfig", {}).get("HyperbandStrategyConfig")
    path = f"{_CONFIG}.StrategyConfig.HyperbandStrategyConfig"
    if config["Strategy"] != "Hyperband":
        if settings is not None:
            yield f"{path}: only for Strategy Hyperband, here it is {config['Strategy']}; leave it out"
        return
    if config.get("TrainingJobEarlyStoppingType", "Off") != "Off":
        yield f"{_CONFIG}.TrainingJobEarlyStoppingType: must be Off, since Hyperband stops jobs by its own rule"
    settings = settings or {}
    low, high = settings.get("MinResource", 1), settings.get("MaxResource")
    if high is None and not set(EPOCH_NAMES) & set(definition.get("StaticHyperParameters", {})):
        yield f"{path}.MaxResource: missing; Hyperband needs the most epochs a job may train for"
    elif high is not None and high > MAX_RESOURCE_EPOCHS:
        yield f"{path}.MaxResource: {high} is above the maximum, {MAX_RESOURCE_EPOCHS}"
    elif high is not None and low > high:
        yield f"{path}.MinResource: {low} is more than MaxResource, {high}; give {high} or less"


def _check_grid(config: Json, ranges: Json, path: str) -> Iterator[str]:
    if config["Strategy"] != "Grid":
        return
    intervals = [(field, item) for field, item in _ranges(ranges) if "Values" not in item]
    for field, item in intervals:
        yield f"{path}.{field}: {item['Name']} is a range, and Strategy Grid takes lists of values only"
    if intervals:
        return
    points = grid_points(ranges)
    jobs = config["ResourceLimits"].get("MaxNumberOfTrainingJobs", points)
    if jobs != points:
        yield (
            f"{_CONFIG}.ResourceLimits.MaxNumberOfTrainingJobs: {jobs} jobs, but the grid has {points} points; "
            f"give {points} or leave it out"
        )


def grid_points(ranges: Json) -> int:
    """Returns how many points a grid over the choices of a request's `ParameterRanges` has."""
    return math.prod(len(set(item["Values"])) for item in ranges.get("CategoricalParameterRanges", []))


def _check_ranges(ranges: Json, path: str) -> Iterator[str]:
    names = Counter(item["Name"] for _, item in _ranges(ranges))
    if names.total() > MAX_SEARCHED:
        yield f"{path}: {names.total()} hyperparameters to search, at most {MAX_SEARCHED} are allowed in all"
    for field, item in _ranges(ranges):
        if names[item["Name"]] > 1:
            yield f"{path}.{field}.Name: {item['Name']} is searched more than once; keep one range"
        if "Values" in item:
            yield from _check_categories(item, f"{path}.{field}")
        elif "MinValue" in item:
            yield from _check_interval(item, f"{path}.{field}", whole=field.startswith("Integer"))


def _check_categories(item: Json, path: str) -> Iterator[str]:
    counts: Counter[str] = Counter(item["Values"])
    for value, count in counts.items():
        if count > 1:
            yield f"{path}.Values: {value!r} of {item['Name']} occurs {count} times; give each value once"


def _check_interval(item: Json, path: str, whole: bool) -> Iterator[str]:
    bounds: dict[str, float] = {}
    for key in ("MinValue", "MaxValue"):
        try:
            number: float = int(item[key]) if whole else float(item[key])
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            bounds[key] = number
        else:
            yield f"{path}.{key}: {item[key]!r} of {item['Name']} is not {'an integer' if whole else 'a finite number'}"
    if len(bounds) < 2:
        return
    low, high = bounds["MinValue"], bounds["MaxValue"]
    scaling = item.get("ScalingType", "Auto")
    if low >= high:
        yield f"{path}.MinValue: {item['MinValue']} of {item['Name']} is not less than MaxValue, {item['MaxValue']}"
    elif scaling == "Logarithmic" and low <= 0:
        yield f"{path}.MinValue: {item['MinValue']} of {item['Name']} must be above 0 on a logarithmic scale"
    elif scaling == "ReverseLogarithmic" and whole:
        yield f"{path}.ScalingType: {item['Name']} is an integer, and ReverseLogarithmic is for continuous ranges only"
    elif scaling == "ReverseLogarithmic" and (low < 0 or high >= 1):
        field = "MinValue" if low < 0 else "MaxValue"
        yield f"{path}.{field}: {item[field]} of {item['Name']} is outside 0 <= x < 1, the domain of ReverseLogarithmic"


def _check_definition(definition: Json, ranges: Json, objective: Json | None, path: str) -> Iterator[str]:
    static = definition.get("StaticHyperParameters", {})
    searched = [item["Name"] for _, item in _ranges(ranges)]
    for name in sorted(set(static) & set(searched)):
        yield f"{path}.StaticHyperParameters[{name!r}]: also has a range; fix it or search it, not both"
    total = len(static) + len(searched)
    if total > MAX_HYPERPARAMETERS:
        yield f"{path}.StaticHyperParameters: {total} with the searched ones, at most {MAX_HYPERPARAMETERS} in all"
    algorithm = definition["AlgorithmSpecification"]
    if ("TrainingImage" in algorithm) == ("AlgorithmName" in algorithm):
        yield f"{path}.AlgorithmSpecification: give exactly one of TrainingImage and AlgorithmName"
    metrics = [metric["Name"] for metric in algorithm.get("MetricDefinitions", [])]
    if objective and "TrainingImage" in algorithm and objective["MetricName"] not in metrics:
        yield (
            f"{path}.AlgorithmSpecification.MetricDefinitions: the objective {objective['MetricName']!r} is not "
            f"among them ({', '.join(metrics) or 'none given'}); add its Name and Regex"
        )
    if ("ResourceConfig" in definition) == ("HyperParameterTuningResourceConfig" in definition):
        yield f"{path}.ResourceConfig: give exactly one of ResourceConfig and HyperParameterTuningResourceConfig"
    yield from _check_spot(definition, f"{path}.")


def _check_spot(job: Json, prefix: str) -> Iterator[str]:
    """Yields the problems of waiting time: spot jobs need it, others must not have it."""
    condition = job.get("StoppingCondition", {})
    path = f"{prefix}StoppingCondition.MaxWaitTimeInSeconds"
    wait, runtime = condition.get("MaxWaitTimeInSeconds"), condition.get("MaxRuntimeInSeconds", 86_400)
    if not job.get("EnableManagedSpotTraining"):
        if wait is not None:
            yield f"{path}: only for spot training; set EnableManagedSpotTraining or leave it out"
    elif wait is None:
        yield f"{path}: missing; spot training needs it, {runtime} or more"
    elif wait < runtime:
        yield f"{path}: {wait} is less than MaxRuntimeInSeconds; give {runtime} or more"


def _ranges(ranges: Json) -> list[tuple[str, Json]]:
    """Returns every range with its field within ParameterRanges, such as `IntegerParameterRanges[0]`."""
    return [(f"{kind}[{index}]", item) for kind, items in ranges.items() for index, item in enumerate(items)]
