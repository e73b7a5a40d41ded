"""AMT's documented limits: a request within them is valid, one step beyond is one problem that names the field."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.spec.limits import check_request, quota_warnings, warm_start_problems
from tests.launch.local_jobs import categorical, continuous, training_request, tuning_request, warm_start

OPERATION = "CreateHyperParameterTuningJob"
CONFIG = "HyperParameterTuningJobConfig"
LIMITS = f"{CONFIG}.ResourceLimits"
CONTINUOUS = f"{CONFIG}.ParameterRanges.ContinuousParameterRanges"
INTEGER = f"{CONFIG}.ParameterRanges.IntegerParameterRanges"
CATEGORICAL = f"{CONFIG}.ParameterRanges.CategoricalParameterRanges"
HYPERBAND = f"{CONFIG}.StrategyConfig.HyperbandStrategyConfig"


def floats(*items):
    return {"ContinuousParameterRanges": [continuous(*item) for item in items]}


def integers(*items):
    return {"IntegerParameterRanges": [continuous(*item) for item in items]}


def hyperband(low=1, high=9):
    return {"HyperbandStrategyConfig": {"MinResource": low, "MaxResource": high}}


def definition(request, **changes):
    request["TrainingJobDefinition"].update(changes)
    return request


def only_problem(request, operation=OPERATION):
    (problem,) = check_request(operation, request)
    assert "\n" not in problem
    return problem


@st.composite
def names(draw, least=1, most=6):
    return draw(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=least, max_size=most, unique=True))


@st.composite
def good_requests(draw):
    """Draws the arguments of `tuning_request` for a request within all limits."""
    low = draw(st.floats(1e-6, 0.4))
    high = draw(st.floats(0.5, 0.99))
    scaling = draw(st.sampled_from(["Auto", "Linear", "Logarithmic", "ReverseLogarithmic"]))
    searched, static = draw(names()), draw(names(0))
    items = {"ContinuousParameterRanges": [continuous(name, repr(low), repr(high), scaling) for name in searched]}
    items["IntegerParameterRanges"] = [continuous("steps-of-it", "1", str(draw(st.integers(2, 10**6))), "Logarithmic")]
    items |= categorical("kind-of-it", *draw(names(1, 30)))
    jobs = draw(st.integers(1, 750))
    strategy = draw(st.sampled_from(["Random", "Bayesian", "Hyperband"]))
    more = {"StrategyConfig": hyperband(1, draw(st.integers(1, 20_000)))} if strategy == "Hyperband" else {}
    return {
        "ranges": items,
        "jobs": jobs,
        "parallel": draw(st.integers(1, min(10, jobs))),
        "strategy": strategy,
        "static": {name: "1" for name in static if name not in searched},
        **more,
    }


@settings(max_examples=50)
@given(good_requests())
def test_request_within_the_limits_has_no_problem(arguments):
    assert check_request(OPERATION, tuning_request("good", **arguments)) == []


@settings(max_examples=50)
@given(good_requests(), st.data())
def test_one_step_beyond_a_limit_is_one_problem(arguments, data):
    request = tuning_request("good", **arguments)
    config = request[CONFIG]
    first = config["ParameterRanges"]["ContinuousParameterRanges"][0]

    def empty_range():
        first["MinValue"] = first["MaxValue"]
        return f"{CONTINUOUS}[0].MinValue"

    def no_number():
        first["MaxValue"] = data.draw(st.sampled_from(["", "big", "nan", "inf", "0x1"]))
        return f"{CONTINUOUS}[0].MaxValue"

    def fixed_and_searched():
        request["TrainingJobDefinition"]["StaticHyperParameters"][first["Name"]] = "1"
        return f"TrainingJobDefinition.StaticHyperParameters['{first['Name']}']"

    def searched_twice():
        config["ParameterRanges"]["IntegerParameterRanges"][0]["Name"] = "kind-of-it"
        return None

    def long_name():
        request["HyperParameterTuningJobName"] = "x" * data.draw(st.integers(33, 100))
        return "HyperParameterTuningJobName"

    mutate = data.draw(st.sampled_from([empty_range, no_number, fixed_and_searched, searched_twice, long_name]))
    field = mutate()
    problems = check_request(OPERATION, request)
    if field is None:
        assert len(problems) == 2
        assert all("kind-of-it is searched more than once" in problem for problem in problems)
    else:
        assert len(problems) == 1
        assert problems[0].startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("ranges", "field", "words"),
    [
        (floats(("lr", "0.1", "0.1")), f"{CONTINUOUS}[0].MinValue", "0.1 of lr is not less than MaxValue, 0.1"),
        (floats(("lr", "0", "0.1", "Logarithmic")), f"{CONTINUOUS}[0].MinValue", "above 0 on a logarithmic scale"),
        (floats(("m", "-0.1", "0.9", "ReverseLogarithmic")), f"{CONTINUOUS}[0].MinValue", "outside 0 <= x < 1"),
        (floats(("m", "0.1", "1", "ReverseLogarithmic")), f"{CONTINUOUS}[0].MaxValue", "outside 0 <= x < 1"),
        (integers(("n", "1", "2.5")), f"{INTEGER}[0].MaxValue", "'2.5' of n is not an integer"),
        (integers(("n", "0", "2", "ReverseLogarithmic")), f"{INTEGER}[0].ScalingType", "continuous ranges only"),
        (integers(("n", "0", "2", "Logarithmic")), f"{INTEGER}[0].MinValue", "above 0 on a logarithmic scale"),
        (categorical("model", "a", "b", "a"), f"{CATEGORICAL}[0].Values", "'a' of model occurs 2 times"),
        (categorical("model", *map(str, range(31))), f"{CATEGORICAL}[0].Values", "31 entries is above the maximum"),
        (floats(*((f"x{i}", "0", "1") for i in range(31))), CONTINUOUS, "31 entries is above the maximum, 30"),
        (
            floats(*((f"x{i}", "0", "1") for i in range(20))) | integers(*((f"n{i}", "0", "1") for i in range(11))),
            f"{CONFIG}.ParameterRanges",
            "31 hyperparameters to search, at most 30 are allowed in all",
        ),
        ({"CategoricalParameterRanges": []}, f"{CONFIG}.ParameterRanges", "empty; give at least one"),
    ],
)
def test_invalid_range_is_one_problem(ranges, field, words):
    problem = only_problem(tuning_request("x", ranges=ranges))
    assert problem.startswith(f"{field}: ")
    assert words in problem


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"jobs": 2, "parallel": 3}, f"{LIMITS}.MaxParallelTrainingJobs", "more than the 2 jobs in all; give 2"),
        ({"strategy": "Optuna"}, f"{CONFIG}.Strategy", "'Optuna' is not one of its values"),
        ({"strategy": "random"}, f"{CONFIG}.Strategy", "did you mean Random?"),
        ({"strategy": "Grid"}, f"{CONTINUOUS}[0]", "lr is a range, and Strategy Grid takes lists of values only"),
        (
            {"strategy": "Grid", "ranges": categorical("a", "1", "2", "3"), "jobs": 4},
            f"{LIMITS}.MaxNumberOfTrainingJobs",
            "4 jobs, but the grid has 3 points; give 3 or leave it out",
        ),
        ({"strategy": "Hyperband"}, f"{HYPERBAND}.MaxResource", "missing; Hyperband needs the most epochs"),
        ({"strategy": "Hyperband", "StrategyConfig": hyperband(9, 3)}, f"{HYPERBAND}.MinResource", "give 3 or less"),
        ({"strategy": "Hyperband", "StrategyConfig": hyperband(1, 20_001)}, f"{HYPERBAND}.MaxResource", "20000"),
        (
            {"strategy": "Hyperband", "StrategyConfig": hyperband(), "TrainingJobEarlyStoppingType": "Auto"},
            f"{CONFIG}.TrainingJobEarlyStoppingType",
            "must be Off",
        ),
        ({"StrategyConfig": hyperband()}, HYPERBAND, "only for Strategy Hyperband, here it is Random"),
        ({"seed": -1}, f"{CONFIG}.RandomSeed", "-1 is below the minimum, 0"),
        (
            {"TuningJobCompletionCriteria": {"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 2}}},
            f"{CONFIG}.TuningJobCompletionCriteria.BestObjectiveNotImproving.MaxNumberOfTrainingJobsNotImproving",
            "2 is below the minimum, 3",
        ),
        (
            {"static": {f"x{i}": "1" for i in range(99)}},
            "TrainingJobDefinition.StaticHyperParameters",
            "100 with the searched ones, at most 99 in all",
        ),
    ],
)
def test_invalid_search_setting_is_one_problem(arguments, field, words):
    problem = only_problem(tuning_request("x", **arguments))
    assert problem.startswith(f"{field}: ")
    assert words in problem


def test_grid_may_omit_its_number_of_jobs():
    request = tuning_request("x", strategy="Grid", ranges=categorical("a", "1", "2"), jobs=2)
    assert check_request(OPERATION, request) == []
    del request[CONFIG]["ResourceLimits"]["MaxNumberOfTrainingJobs"]
    assert check_request(OPERATION, request) == []
    request[CONFIG]["Strategy"] = "Random"
    assert only_problem(request).startswith(f"{LIMITS}.MaxNumberOfTrainingJobs: missing")


def test_hyperband_infers_max_resource_from_static_epochs():
    assert check_request(OPERATION, tuning_request("x", strategy="Hyperband", static={"epochs": "9"})) == []


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"Environment": {f"X{i}": "1" for i in range(49)}}, "Environment", "49 entries is above the maximum, 48"),
        ({"DebugHookConfig": {"S3OutputPath": "s3://b"}}, "DebugHookConfig", "no such field here"),
        ({"EnableManagedSpotTraining": True}, "StoppingCondition.MaxWaitTimeInSeconds", "missing; spot training needs"),
        (
            {"StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 90}},
            "StoppingCondition.MaxWaitTimeInSeconds",
            "only for spot training",
        ),
        (
            {
                "EnableManagedSpotTraining": True,
                "StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 50},
            },
            "StoppingCondition.MaxWaitTimeInSeconds",
            "50 is less than MaxRuntimeInSeconds; give 60 or more",
        ),
        (
            {"AlgorithmSpecification": {"TrainingImage": "dogbreed", "TrainingInputMode": "File"}},
            "AlgorithmSpecification.MetricDefinitions",
            "the objective 'val/accuracy' is not among them (none given)",
        ),
        (
            {"HyperParameterTuningResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1}},
            "ResourceConfig",
            "give exactly one of",
        ),
    ],
)
def test_invalid_definition_is_one_problem(changes, field, words):
    problem = only_problem(definition(tuning_request("x"), **changes))
    assert problem.startswith(f"TrainingJobDefinition.{field}: ")
    assert words in problem


def test_image_and_algorithm_are_exclusive():
    request = tuning_request("x")
    request["TrainingJobDefinition"]["AlgorithmSpecification"]["AlgorithmName"] = "mine"
    assert only_problem(request).startswith("TrainingJobDefinition.AlgorithmSpecification: give exactly one of")


def test_one_and_several_definitions_are_exclusive():
    request = tuning_request("x")
    request["TrainingJobDefinitions"] = [
        {
            **request["TrainingJobDefinition"],
            "DefinitionName": "a",
            "TuningObjective": {"Type": "Maximize", "MetricName": "val/accuracy"},
            "HyperParameterRanges": floats(("lr", "1", "0")),
        }
    ]
    first, second = check_request(OPERATION, request)
    assert first.startswith("TrainingJobDefinition: give exactly one of")
    assert second.startswith("TrainingJobDefinitions[0].HyperParameterRanges.ContinuousParameterRanges[0].MinValue: ")


@pytest.mark.parametrize(("count", "words"), [(0, "below the minimum, 1"), (6, "above the maximum, 5")])
def test_number_of_parents_is_one_to_five(count, words):
    request = tuning_request("x") | {"WarmStartConfig": warm_start(*(f"p{i}" for i in range(count)))}
    problem = only_problem(request)
    assert problem.startswith("WarmStartConfig.ParentHyperParameterTuningJobs: ")
    assert words in problem


def test_spot_training_job_needs_waiting_time():
    request = training_request("x", EnableManagedSpotTraining=True)
    assert only_problem(request, "CreateTrainingJob").startswith("StoppingCondition.MaxWaitTimeInSeconds: missing")
    request["StoppingCondition"]["MaxWaitTimeInSeconds"] = 200
    assert check_request("CreateTrainingJob", request) == []


def test_other_operations_are_checked_against_the_model():
    assert check_request("DescribeTrainingJob", {"TrainingJobName": "x"}) == []
    assert check_request("DescribeTrainingJob", {}) == ["TrainingJobName: missing; it is required"]


def test_more_than_a_default_quota_is_a_warning():
    request = tuning_request("dogs", jobs=751, parallel=11)
    assert check_request("CreateHyperParameterTuningJob", request) == []
    assert [warning.split(" is over")[0] for warning in quota_warnings(request)] == [
        "MaxNumberOfTrainingJobs=751", "MaxParallelTrainingJobs=11"]  # fmt: skip
    assert quota_warnings(tuning_request("dogs", jobs=750, parallel=10)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"static": {"overrides": "[]", "first_points": "[]"}}, None),
        ({"static": {"overrides": "[]", "_tuning_objective_metric": "val/accuracy"}}, None),
        ({"ranges": {"ContinuousParameterRanges": [continuous("lr", "0.1", "0.2")]}}, None),
        (
            {"ranges": {"ContinuousParameterRanges": [continuous("wd", "0.1", "0.2")]}},
            r"\(not in old: wd; only in old: lr\)",
        ),
        ({"static": {"overrides": "[]", "keys": "{}"}}, r"\(not in old: keys\)"),
        ({"HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "val/accuracy"}}, "another objective"),
    ],
)
def test_warm_start_needs_the_names_and_objective_of_its_parent(change, problem):
    parent = tuning_request("old", static={"overrides": "[]"})
    found = warm_start_problems(tuning_request("new", **{"static": {"overrides": "[]"}, **change}), parent)
    assert found == [] if problem is None else re.search(problem, *found)
