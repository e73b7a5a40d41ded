"""Values against shapes of botocore's model."""

import datetime as dt

import pytest
from botocore.exceptions import ParamValidationError
from botocore.validate import validate_parameters

from launch.spec.service_model import check_shape, service_model
from tests.launch.local_jobs import training_request, tuning_request


def check(operation, request):
    return check_shape(service_model().operation_model(operation).input_shape, request)


def changed(request, path, value):
    """Returns the request with the field at `path` (a tuple of keys) set to `value`."""
    head, *rest = path
    if not rest:
        return {**request, head: value} if isinstance(request, dict) else [value]
    inner = request[head] if isinstance(request, list) or head in request else {}
    new = changed(inner, rest, value)
    return [new] if isinstance(request, list) else {**request, head: new}


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("TrainingJobName",), "x" * 64, "TrainingJobName: 64 characters is above the maximum, 63 characters"),
        (("TrainingJobName",), "a_b", "TrainingJobName: 'a_b' does not match the pattern "),
        (("TrainingJobName",), 7, "TrainingJobName: 7 is an int; give a string"),
        (("TrainingJobNam",), "x", "TrainingJobNam: no such field here; did you mean TrainingJobName?"),
        (("RoleArn",), "admin", "RoleArn: 5 characters is below the minimum, 20 characters"),
        (
            ("StoppingCondition", "MaxRuntimeInSeconds"),
            0,
            "StoppingCondition.MaxRuntimeInSeconds: 0 is below the minimum, 1",
        ),
        (
            ("StoppingCondition", "MaxRuntimeInSeconds"),
            "60",
            "StoppingCondition.MaxRuntimeInSeconds: '60' is a str; give an integer",
        ),
        (
            ("StoppingCondition", "MaxRuntimeInSeconds"),
            True,
            "StoppingCondition.MaxRuntimeInSeconds: True is a bool; give an integer",
        ),
        (
            ("ResourceConfig", "InstanceType"),
            "ml.m5.largee",
            "ResourceConfig.InstanceType: 'ml.m5.largee' is not one of its values; did you mean ml.m5.large?",
        ),
        (
            ("AlgorithmSpecification", "MetricDefinitions", 0, "Regex"),
            "x" * 501,
            "AlgorithmSpecification.MetricDefinitions[0].Regex: 501 characters is above the maximum, 500",
        ),
        (("HyperParameters", "lr"), "x" * 2501, "HyperParameters['lr']: 2501 characters is above the maximum, "),
        (("HyperParameters", "x" * 257), "1", "(its name): 257 characters is above the maximum, 256 characters"),
        (("Tags",), [{"Key": "k", "Value": "v"}] * 51, "Tags: 51 entries is above the maximum, 50 entries"),
        (("Tags",), {"team": "dogs"}, "Tags: {'team': 'dogs'} is a dict; give a list"),
        (("AlgorithmSpecification",), {}, "AlgorithmSpecification.TrainingInputMode: missing; it is required"),
    ],
)
def test_each_problem_is_one_line_that_names_the_field(path, value, problem):
    request = training_request("good", {"lr": "0.1"})
    assert check("CreateTrainingJob", request) == []
    (found,) = check("CreateTrainingJob", changed(request, path, value))
    assert problem in found
    assert "\n" not in found


def test_valid_requests_have_no_problem():
    assert check("CreateHyperParameterTuningJob", tuning_request("good")) == []
    assert check("ListTrainingJobs", {"CreationTimeAfter": dt.datetime.now(dt.timezone.utc), "MaxResults": 100}) == []
    # A pattern that Python's re cannot compile is left to AWS.
    assert check("CreateTrainingJob", training_request("good", Tags=[{"Key": "\u00e9t\u00e9", "Value": "x y"}])) == []


def test_everything_that_botocore_rejects_is_rejected():
    shape = service_model().operation_model("CreateTrainingJob").input_shape
    for change in ({"TrainingJobName": 1}, {"Unknown": 1}, {"RoleArn": ""}, {"StoppingCondition": []}):
        request = training_request("good") | change
        with pytest.raises(ParamValidationError):
            validate_parameters(request, shape)
        assert len(check_shape(shape, request)) == 1
