"""Search strategies: points, strings, early stopping and warm start, without any process."""

import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.local.tuning.distributions import parse_ranges
from launch.local.tuning.search import PastJob, Search
from tests.launch.local_jobs import categorical, continuous

LR = {"ContinuousParameterRanges": [continuous("lr", "0.001", "0.1", "Logarithmic")]}
MIXED = {
    "ContinuousParameterRanges": [
        continuous("lr", "0.0001", "0.1"),
        continuous("m", "0.5", "0.99", "ReverseLogarithmic"),
    ],
    "IntegerParameterRanges": [continuous("depth", "1", "5"), continuous("width", "1", "1000")],
    **categorical("model", "resnet18", "resnet34"),
}


def config(strategy="Random", ranges=LR, jobs=20, seed=0, goal="Maximize", **more):
    objective = {"Type": goal, "MetricName": "val/accuracy"}
    limits = {"MaxNumberOfTrainingJobs": jobs, "MaxParallelTrainingJobs": 1}
    found = {
        "Strategy": strategy,
        "HyperParameterTuningJobObjective": objective,
        "ResourceLimits": limits,
        "ParameterRanges": ranges,
        **more,
    }
    return found if seed is None else found | {"RandomSeed": seed}


def run(search, count, value=lambda point: 0.5, epochs=1):
    """Returns the points of `count` jobs run one after the other, and how many epochs each was trained."""
    points, trained = [], []
    for _ in range(count):
        proposal = search.ask()
        if proposal is None:
            break
        points.append(proposal.point)
        final = value(proposal.point)
        stopped = None
        for epoch in range(1, epochs + 1):
            stopped = search.report(proposal.number, final * epoch / epochs)
            if stopped:
                break
        trained.append(epoch)
        search.tell(proposal.number, final * epoch / epochs, completed=stopped is None)
    return points, trained


@pytest.mark.parametrize("strategy", ["Random", "Bayesian"])
def test_points_are_text_within_their_ranges(strategy):
    points, _ = run(Search(config(strategy, MIXED)), 30, value=lambda point: float(point["lr"]))
    assert len({tuple(point.values()) for point in points}) == 30
    for point in points:
        assert 0.0001 <= float(point["lr"]) <= 0.1
        assert point["lr"] == repr(float(point["lr"]))
        assert 0.5 <= float(point["m"]) <= 0.99
        assert point["depth"] in {"1", "2", "3", "4", "5"}
        assert 1 <= int(point["width"]) <= 1000
        assert point["model"] in {"resnet18", "resnet34"}


@pytest.mark.parametrize("strategy", ["Random", "Bayesian", "Hyperband"])
def test_same_seed_gives_same_points(strategy):
    more = {"StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 3}}}
    settings = config(strategy, MIXED, **more if strategy == "Hyperband" else {})
    first, _ = run(Search(settings), 15, value=lambda point: float(point["lr"]), epochs=3)
    again, _ = run(Search(settings), 15, value=lambda point: float(point["lr"]), epochs=3)
    other, _ = run(Search(settings | {"RandomSeed": 1}), 15, value=lambda point: float(point["lr"]), epochs=3)
    assert first == again
    assert first != other


def test_no_seed_gives_different_points():
    assert run(Search(config(seed=None)), 3) != run(Search(config(seed=None)), 3)


def test_bayesian_search_improves_the_objective():
    def value(point):
        return -abs(math.log10(float(point["lr"])) + 2)

    points, _ = run(Search(config("Bayesian", jobs=40)), 40, value)
    late = [value(point) for point in points[20:]]
    early = [value(point) for point in points[:10]]
    assert sum(late) / 20 > sum(early) / 10


@pytest.mark.parametrize("strategy", ["Random", "Bayesian"])
def test_small_space_is_exhausted_without_repeats(strategy):
    ranges = {**categorical("model", "a", "b", "c"), "IntegerParameterRanges": [continuous("n", "1", "4")]}
    points, _ = run(Search(config(strategy, ranges, jobs=50)), 50)
    assert len(points) == len({tuple(point.items()) for point in points}) == 12


def test_grid_yields_every_combination_in_order():
    ranges = {"CategoricalParameterRanges": [{"Name": n, "Values": ["1", "2"]} for n in ("a", "b")]}
    points, _ = run(Search(config("Grid", ranges, jobs=4)), 9)
    assert [(point["a"], point["b"]) for point in points] == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]


@pytest.mark.parametrize(
    ("scaling", "low", "high", "log"),
    [
        ("Auto", "0.001", "0.1", True),
        ("Auto", "0.01", "0.1", False),
        ("Auto", "0", "1000", False),
        ("Linear", "0.001", "0.1", False),
        ("Logarithmic", "0.01", "0.02", True),
    ],
)
def test_scaling_selects_log_distribution(scaling, low, high, log):
    (parameter,) = parse_ranges({"ContinuousParameterRanges": [continuous("x", low, high, scaling)]}).parameters
    assert parameter.distribution.log == log


def test_reverse_logarithmic_is_dense_near_one():
    ranges = {"ContinuousParameterRanges": [continuous("m", "0", "0.999", "ReverseLogarithmic")]}
    points, _ = run(Search(config(ranges=ranges, jobs=200)), 200)
    assert sum(float(point["m"]) > 0.9 for point in points) > 80


@given(st.floats(0, 0.99), st.floats(0.001, 0.009), st.floats(0, 1), st.sampled_from(["Linear", "ReverseLogarithmic"]))
def test_parameter_text_round_trips(low, width, share, scaling):
    (parameter,) = parse_ranges(
        {"ContinuousParameterRanges": [continuous("x", repr(low), repr(low + width), scaling)]}
    ).parameters
    bounds = parameter.distribution
    text = parameter.text(bounds.low + share * (bounds.high - bounds.low))
    value = parameter.value(text)
    assert value is not None
    assert parameter.text(value) == text or math.isclose(float(parameter.text(value)), float(text), rel_tol=1e-9)


def test_parse_rejects_points_outside_the_space():
    space = parse_ranges(MIXED)
    good = {"lr": "0.01", "m": "0.9", "depth": "3", "width": "7", "model": "resnet18"}
    assert space.parse(good) is not None
    for name, text in [("lr", "1.0"), ("m", "0.999"), ("depth", "2.5"), ("width", "x"), ("model", "resnet50")]:
        assert space.parse(good | {name: text}) is None
    assert space.parse({"lr": "0.01"}) is None


def test_resumed_search_tries_interrupted_points_first():
    ranges = categorical("model", "a", "b", "c", "d", "e")
    past = [
        PastJob({"model": "a"}, 0.5, interrupted=False),
        PastJob({"model": "b"}, None, interrupted=False),
        PastJob({"model": "c"}, 0.4, interrupted=True),
    ]
    points, _ = run(Search(config(ranges=ranges, seed=None), past=past, same_data=True), 9)
    assert points[0] == {"model": "c"}
    assert sorted(point["model"] for point in points) == ["c", "d", "e"]


def test_resumed_search_with_same_seed_continues_the_sequence():
    first, _ = run(Search(config()), 5)
    past = [PastJob(point, 0.5, interrupted=False) for point in first]
    assert run(Search(config(), past=past, same_data=True), 3)[0] == run(Search(config()), 8)[0][5:]


@pytest.mark.parametrize("strategy", ["Random", "Bayesian"])
def test_huge_integer_range_is_not_enumerated(strategy):
    ranges = {"IntegerParameterRanges": [continuous("seed", "0", str(2**32 - 1))]}
    tracemalloc.start()
    search = Search(config(strategy, ranges, jobs=5))
    points, _ = run(search, 5, value=lambda point: float(point["seed"]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert search.space.size == 2**32
    assert len({point["seed"] for point in points}) == 5
    assert peak < 50e6


def test_transfer_learning_may_repeat_points():
    ranges = categorical("model", "a", "b")
    past = [PastJob({"model": name}, 0.5, interrupted=False) for name in "ab"]
    assert len(run(Search(config(ranges=ranges), past=past), 5)[0]) == 2


@pytest.mark.parametrize("goal", ["Maximize", "Minimize"])
def test_early_stopping_uses_median_of_running_averages(goal):
    sign = 1 if goal == "Maximize" else -1
    search = Search(config(goal=goal, TrainingJobEarlyStoppingType="Auto"))

    def job(values):
        """Reports values until the search stops the job; returns the number of reports."""
        number = search.ask().number
        for count, value in enumerate(values, start=1):
            if search.report(number, sign * value):
                search.tell(number, sign * value, completed=False)
                return count
        search.tell(number, sign * values[-1], completed=True)
        return len(values)

    assert job([0, 0, 0]) == 3  # nothing to compare with
    assert job([2, 4, 6]) == 3
    assert job([4, 8, 12]) == 3
    # Running averages after two epochs: 0, 3, 6; a fourth job is compared with 3, although the others have 4 there.
    assert job([3, 3.1, 3.2]) == 3
    assert job([3, 2.9, 9]) == 2
    # At the last epoch a stop would save nothing, so the job continues.
    assert job([3, 3.1, 0]) == 3


def test_early_stopping_is_off_by_default():
    _, trained = run(Search(config()), 12, value=lambda point: float(point["lr"]), epochs=4)
    assert set(trained) == {4}


def test_hyperband_saves_epochs_and_keeps_the_best():
    settings = {"StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 9}}}
    points, trained = run(
        Search(config("Hyperband", jobs=30, **settings)), 30, value=lambda point: float(point["lr"]), epochs=9
    )
    assert sum(trained) < 0.7 * 9 * 30
    assert min(trained) < 9
    best = max(range(30), key=lambda index: float(points[index]["lr"]))
    assert trained[best] == 9


def test_hyperband_stops_job_beyond_max_resource():
    settings = {"StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 3, "MaxResource": 3}}}
    _, trained = run(Search(config("Hyperband", **settings)), 3, epochs=9)
    assert trained == [4, 4, 4]
    _, trained = run(Search(config("Hyperband"), static={"epochs": "2"}), 1, epochs=9)
    assert trained == [3]
