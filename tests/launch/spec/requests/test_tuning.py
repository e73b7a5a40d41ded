"""Every setting of the plan is in the request, and AWS accepts the request."""

import json

import pytest

from dogbreed.cli.config import resolve_defaults
from dogbreed.errors import UserError
from launch.backends.local import LOCAL_TARGET
from launch.spec.limits import check_request
from launch.spec.naming import resumed_name
from launch.spec.ownership import owner_tags
from launch.spec.requests.training import training_request
from launch.spec.requests.tuning import resume_request, tuning_request
from launch.spec.settings import compose
from tests.launch.plans import plan_of

OPERATION = "CreateHyperParameterTuningJob"


def request(*overrides):
    return tuning_request(plan_of(list(overrides)), LOCAL_TARGET)


def test_request_of_the_readme_command():
    found = request("model=resnet34", "lr=range", "name=first")
    definition = found["TrainingJobDefinition"]
    metrics = definition["AlgorithmSpecification"].pop("MetricDefinitions")
    assert metrics[0]["Name"] == "val/accuracy"
    assert found.pop("Tags") == owner_tags("first")
    assert found == {
        "HyperParameterTuningJobName": "first",
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "val/accuracy"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 6, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": {
                "ContinuousParameterRanges": [
                    {"Name": "lr", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}
                ]
            },
            "TrainingJobEarlyStoppingType": "Auto",
            "RandomSeed": 7,
        },
        "TrainingJobDefinition": {
            "StaticHyperParameters": {
                "overrides": '["model=resnet34"]',
                "first_points": '[{"lr": "0.003"}]',
            },
            "AlgorithmSpecification": {"TrainingImage": "dogbreed", "TrainingInputMode": "File"},
            "RoleArn": "arn:aws:iam::000000000000:role/this-machine",
            "OutputDataConfig": {"S3OutputPath": "s3://local/first"},
            "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
            "StoppingCondition": {"MaxRuntimeInSeconds": 28 * 24 * 3600},
        },
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ["lr=range"],
        ["tuner=bayesian", "lr=range", "batch_size=interval(8,64)", "model=resnet18,resnet50"],
        ["tuner=grid", "model=resnet18,resnet34", "batch_size=16,32"],
        ["tuner=hyperband", "lr=range", "epochs=9"],
        *[[f"experiment=course_{letter}"] for letter in "bcde"],
        ["lr=range", "tuner.max_hours=1", "tuner.early_stopping=true", "instance=gpu"],
        ["+model.kwargs.drop_rate=interval(0,0.5)"],
    ],
)
def test_every_kind_of_sweep_is_within_the_limits(overrides):
    assert check_request(OPERATION, request(*overrides)) == []


def test_request_has_every_setting():
    typed = "tuner=hyperband epochs=9 tuner.max_hours=1.5 seed=11 objective.metric=val/loss objective.goal=minimize"
    found = request("lr=range", *typed.split(), "instance.count=2", "instance.volume_gb=50", "instance.max_hours=3")
    config, definition = found["HyperParameterTuningJobConfig"], found["TrainingJobDefinition"]
    assert config["StrategyConfig"] == {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 10}}
    assert config["ResourceLimits"]["MaxRuntimeInSeconds"] == 5400
    assert config["RandomSeed"] == 11
    assert config["HyperParameterTuningJobObjective"] == {"Type": "Minimize", "MetricName": "val/loss"}
    assert definition["ResourceConfig"] == {"InstanceType": "ml.m5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 50}
    assert definition["StoppingCondition"] == {"MaxRuntimeInSeconds": 10800}
    assert json.loads(definition["StaticHyperParameters"]["overrides"])[0] == "epochs=9"


@pytest.mark.parametrize(
    ("typed", "most"),
    [
        (["epochs=3,9,6"], 9),
        (["epochs=interval(2,12)"], 12),
        (["epochs=range"], 10),
        (["++epochs=3,9"], 9),
        (["epochs=3,9", "tuner.max_epochs=5"], 5),
    ],
)
def test_hyperband_max_resource_covers_searched_epochs(typed, most):
    config = request("tuner=hyperband", "lr=range", *typed)["HyperParameterTuningJobConfig"]
    assert config["StrategyConfig"]["HyperbandStrategyConfig"]["MaxResource"] == most + 1


def test_dotted_key_gets_a_safe_name_and_a_mapping():
    definition = request("+model.kwargs.drop_rate=interval(0,0.5)")["TrainingJobDefinition"]
    assert json.loads(definition["StaticHyperParameters"]["keys"]) == {
        "model_kwargs_drop_rate": "+model.kwargs.drop_rate"
    }


def test_resume_requests_remaining_jobs_with_warm_start():
    described = request("lr=range", "name=first") | {"HyperParameterTuningJobStatus": "Stopped"}
    found = resume_request(described, "first-r2", 4)
    assert found["WarmStartConfig"] == {
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "first"}],
        "WarmStartType": "IdenticalDataAndAlgorithm",
    }
    assert found["HyperParameterTuningJobConfig"]["ResourceLimits"] == {
        "MaxNumberOfTrainingJobs": 4,
        "MaxParallelTrainingJobs": 2,
    }
    assert found["TrainingJobDefinition"]["OutputDataConfig"] == {"S3OutputPath": "s3://local/first-r2"}
    assert check_request(OPERATION, found) == []


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("dogs", "dogs-r2"),
        ("dogs-r2", "dogs-r3"),
        ("a-run-r2", "a-run-r3"),
        ("dogs-resnet34-r9", "dogs-resnet34-r10"),
        ("dogs-resnet34", "dogs-resnet34-r2"),
        ("x" * 32, "x" * 27 + "-r2"),
    ],
)
def test_resumed_sweep_is_named_after_the_first(name, again):
    assert resumed_name(name) == again


def test_resumed_grid_has_no_number_of_jobs():
    described = request("tuner=grid", "lr=0.1,0.2", "batch_size=8,16", "name=first")
    found = resume_request(described, "first-r2", 1)
    assert found["HyperParameterTuningJobConfig"]["ResourceLimits"] == {"MaxParallelTrainingJobs": 1}
    assert check_request(OPERATION, found) == []


def test_only_a_training_keeps_its_instance_warm():
    typed = ["instance.keep_alive_minutes=15", "lr=0.01", "name=warm"]
    found = training_request(resolve_defaults(compose("training", typed)), [], LOCAL_TARGET)
    assert found["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 900
    assert check_request("CreateTrainingJob", found) == []
    assert "KeepAlive" not in json.dumps(request("instance.keep_alive_minutes=15", "lr=range"))
    with pytest.raises(UserError, match=r"instance\.spot=false"):
        training_request(resolve_defaults(compose("training", [*typed, "instance.spot=true"])), [], LOCAL_TARGET)
