"""The strategy that `tuner=auto` selects, and the points that are tried first."""

import json
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from dogbreed.cli.config import resolve_defaults
from dogbreed.errors import UserError
from launch.backends.local import LOCAL_TARGET
from launch.local.tuning.search import PastJob, Search
from launch.spec.contract import FIRST_POINTS
from launch.spec.limits import check_request
from launch.spec.requests.tuning import parameter_ranges, tuning_request
from launch.spec.search_space import SearchParameter
from launch.spec.settings import compose
from launch.spec.strategy import first_points, resolve_strategy
from tests.launch.plans import plan_of

RANGES = {
    "lr": SearchParameter("lr", "Continuous", ("0.0001", "0.1"), "Logarithmic"),
    "batch_size": SearchParameter("batch_size", "Categorical", ("20", "50")),
    "optimizer": SearchParameter("optimizer", "Categorical", ("sgd", "adamw")),
    "model": SearchParameter("model", "Categorical", ("resnet34", "resnet50")),
    "epochs": SearchParameter("epochs", "Integer", ("3", "9")),
    "dropout": SearchParameter("+model.kwargs.drop_rate", "Continuous", ("0.0", "0.5")),
}
OBJECTIVE = {"Type": "Maximize", "MetricName": "val/accuracy"}


@pytest.fixture(scope="module")
def conf():
    """The config of `launch.tune finetune=head epochs=7`."""
    return resolve_defaults(compose("tune", ["finetune=head", "epochs=7"]))


@pytest.mark.parametrize(
    ("searched", "changed", "strategy", "jobs", "stopping"),
    [
        (["lr"], {}, "Hyperband", 12, False),
        (["lr"], {"tuner.max_jobs": 30}, "Hyperband", 30, False),
        (["lr", "epochs"], {}, "Bayesian", 6, True),  # epochs of different sizes are not comparable
        (["lr"], {"epochs": 2}, "Bayesian", 6, True),
        (["lr"], {"finetune": "full"}, "Bayesian", 6, True),  # its first epoch does not predict its last
        (["lr"], {"tuner.early_stopping": True}, "Bayesian", 6, True),
        (["optimizer", "model"], {}, "Random", 6, False),  # all points, each to its end
        (["optimizer", "model", "batch_size"], {}, "Hyperband", 12, False),
        (["lr"], {"tuner.strategy": "Random"}, "Random", 6, False),
    ],
)
def test_default_strategy_depends_on_the_search_space(conf, searched, changed, strategy, jobs, stopping):
    cfg = conf.copy()
    for key, value in changed.items():
        OmegaConf.update(cfg, key, value)
    cfg = resolve_strategy(cfg, [RANGES[name] for name in searched])
    assert (cfg.tuner.strategy, cfg.tuner.max_jobs, cfg.tuner.early_stopping) == (strategy, jobs, stopping)


def test_other_application_is_not_stopped_early(conf):
    cfg = conf.copy()
    cfg = resolve_strategy(cfg, [RANGES["lr"]], app=True)
    assert cfg.tuner.strategy == "Bayesian"


@pytest.mark.parametrize("typed", [[], ["epochs=9", "epochs=range", "batch_size=range"]])
def test_default_request_is_valid_and_its_resource_is_epochs(typed):
    found = tuning_request(plan_of(["finetune=head", "lr=range", "name=sweep", *typed]), LOCAL_TARGET)
    assert check_request("CreateHyperParameterTuningJob", found) == []
    resource = found["HyperParameterTuningJobConfig"].get("StrategyConfig")
    assert resource == (None if typed else {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 5}})


def first(conf, *searched, **fixed):
    cfg = conf.copy()
    for key, value in fixed.items():
        OmegaConf.update(cfg, key, value)
    return first_points(cfg, [RANGES[name] for name in searched])


def test_first_points_match_fixed_settings_and_ranges(conf):
    assert first(conf, "lr") == [{"lr": "0.001"}]
    assert first(conf, "lr", optimizer={"_target_": "torch.optim.SGD"}) == [{"lr": "0.01"}]
    assert first(conf, "optimizer", "lr", "batch_size") == [
        {"optimizer": "adamw", "lr": "0.001", "batch_size": "50"},  # the nearest of the choices
        {"optimizer": "sgd", "lr": "0.01", "batch_size": "50"},
    ]
    # Keys that no entry sets get the config's value, or the first choice if they are text.
    assert first(conf, "lr", "epochs", "model") == [{"lr": "0.001", "epochs": "7", "model": "resnet34"}]
    assert first(conf, "lr", "dropout") == []  # it has no usual value
    assert first_points(conf, [SearchParameter("lr", "Continuous", ("0.01", "0.1"))]) == []


def test_first_points_can_be_set_and_need_a_local_search(conf):
    assert first(conf, "lr", first_points=[{"lr": 0.02}]) == [{"lr": "0.02"}]
    assert first(conf, "lr", first_points=[]) == []
    with pytest.raises(UserError, match=r"type 'first_points=\[\{lr:0.01\}\]'"):
        first(conf, "lr", first_points=[0.01])
    assert plan_of(["lr=range"]).first
    assert plan_of(["lr=range", "tuner=random"]).first == ()
    aws = ["backend=sagemaker", "data=s3", "data.url=s3://b/dogs"]
    on_aws = tuning_request(plan_of(["lr=range", *aws]), replace(LOCAL_TARGET, is_local=False))
    assert FIRST_POINTS not in on_aws["TrainingJobDefinition"]["StaticHyperParameters"]


def search(points=(), epochs=4, **past):
    ranges = parameter_ranges([RANGES["lr"], RANGES["optimizer"]])
    config = {
        "Strategy": "Hyperband",
        "StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": epochs + 1}},
        "HyperParameterTuningJobObjective": OBJECTIVE,
        "ResourceLimits": {"MaxNumberOfTrainingJobs": 12, "MaxParallelTrainingJobs": 2},
        "ParameterRanges": ranges,
        "RandomSeed": 7,
    }
    return Search(config, {FIRST_POINTS: json.dumps(points)}, **past)


GOOD = [{"optimizer": "adamw", "lr": "0.001"}, {"optimizer": "sgd", "lr": "0.01"}]


def past(lr, *curve, completed=True):
    return PastJob({"optimizer": "sgd", "lr": lr}, curve[-1], interrupted=False, curve=curve, completed=completed)


def test_first_points_are_tried_first_and_once():
    asked = search([*GOOD, {"optimizer": "sgd", "lr": "5.0"}])
    assert [asked.ask().point for _ in GOOD] == GOOD
    resumed = search(GOOD, past=[PastJob(GOOD[0], 0.5, interrupted=False)], same_data=True)
    assert resumed.ask().point == GOOD[1]
    assert resumed.ask().point not in GOOD


def test_best_point_of_other_data_is_tried_first():
    found = search(GOOD, past=[past("0.002", 0.4), past("0.03", 0.8), past("0.04", 0.7)])
    assert found.ask().point == {"optimizer": "sgd", "lr": "0.03"}
    assert found.ask().point == GOOD[0]


def test_resumed_hyperband_uses_curves_of_its_parent():
    earlier = [past(lr, 0.5, 0.7, 0.8) for lr in ("0.001", "0.002", "0.003")] + [past("0.09", 0.1, completed=False)]
    resumed = search(past=earlier, same_data=True)
    stopped = resumed.report(resumed.ask().number, 0.4)
    assert stopped == "Hyperband: the objective after epoch 1, 0.4, is worse than that of other jobs"
    assert resumed.report(resumed.ask().number, 0.6) is None
    other_data = search(past=earlier)
    assert other_data.report(other_data.ask().number, 0.4) is None


@pytest.mark.parametrize("epochs", [3, 4, 9])
def test_hyperband_does_not_stop_after_the_last_epoch(epochs):
    found = search(epochs=epochs)
    best, late = found.ask().number, found.ask().number
    assert [found.report(best, number / 10) for number in range(1, epochs + 1)] == [None] * epochs
    stopped = [found.report(late, number / 10 - 0.01) is not None for number in range(1, epochs + 2)]
    assert stopped == [number in (1, 3) and number < epochs for number in range(1, epochs + 2)]
    assert found.report(best, epochs / 10) is None
