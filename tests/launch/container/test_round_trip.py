"""Every plan that the launcher accepts becomes a request that AWS accepts, and its points reach jobs unchanged.

plan -> request -> a trial's hyperparameters -> hyperparameters.json -> launch.container.entry -> composed config
"""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dogbreed.cli.overrides import parse
from dogbreed.errors import UserError
from launch.backends.local import LOCAL_TARGET
from launch.local.tuning.trials import trial_request
from launch.spec.contract import encode, job_overrides
from launch.spec.limits import check_request
from launch.spec.requests.tuning import tuning_request
from launch.spec.settings import compose
from tests.launch.cloud import EXPLICIT
from tests.launch.plans import plan_of
from tests.launch.spec.requests.test_training import SITE

GROUPS = {"model": ("resnet18", "resnet34", "mobilenetv2"), "optimizer": ("adam", "adamw", "sgd")}
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9).filter(lambda word: "${" not in word)
values = st.one_of(words, st.booleans(), st.none(), st.integers(-99, 99), st.floats(-9, 9, allow_nan=False))


def choice(key, options):
    return st.lists(options, min_size=2, max_size=3, unique_by=encode).map(
        lambda chosen: f"{key}={','.join(map(encode, chosen))}"
    )


def interval(key, low, high, log=False):
    text = st.tuples(st.floats(low, high), st.floats(low, high)).filter(lambda pair: pair[0] < pair[1])
    kind = "tag(log,interval({!r},{!r}))" if log else "interval({!r},{!r})"
    return text.map(lambda pair: f"{key}=" + kind.format(*pair))


ranges = st.tuples(
    interval("lr", 1e-6, 1.0, log=True),
    choice("batch_size", st.integers(1, 512)),
    st.tuples(st.integers(1, 5), st.integers(6, 99)).map(lambda pair: f"epochs=interval{pair}".replace(" ", "")),
    interval("label_smoothing", 0.0, 1.0),
    choice("model", st.sampled_from(GROUPS["model"])),
    choice("optimizer", st.sampled_from(GROUPS["optimizer"])),
    choice("+model.kwargs.free", values),
    choice("finetune", st.sampled_from(["head", "full"])),
).flatmap(lambda every: st.lists(st.sampled_from(every), min_size=1, max_size=5, unique=True))
more = st.lists(
    st.sampled_from(
        ["tuner=bayesian", "instance.spot=true", "instance.retries=3", "tuner.patience=4", "tuner.max_hours=2",
         "tuner.early_stopping=true", "instance=gpu", "instance.count=3", "+backend.tags.owner=me", "seed=7",
         "tuner.until_converged=true", "objective.metric=val/loss", "++data.augment=false"]
    ),
    max_size=4, unique=True,
)  # fmt: skip


def points(plan):
    """Returns the first and the last point of a plan's space, as a tuning job would give them."""
    for end in (0, -1):
        yield {r.name: r.values[end] for r in plan.parameters}


def meant(text):
    return parse([f"key={text}"])[0].value()


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(ranges, more, st.booleans())
def test_accepted_plan_is_valid_and_its_points_arrive(ranges, more, at_aws):
    typed = [*ranges, *more, "name=trip", *(EXPLICIT if at_aws else [])]
    try:
        plan = plan_of(typed)
    except UserError:
        return  # rejected in one line
    request = tuning_request(plan, SITE if at_aws else LOCAL_TARGET)
    assert check_request("CreateHyperParameterTuningJob", request) == []
    sent = json.loads(json.dumps(request))
    for point in points(plan):
        hyperparameters = trial_request(sent, "trip-001-00000000", point)["HyperParameters"]
        cfg = compose("train", job_overrides(json.loads(json.dumps(hyperparameters))))
        for r in plan.parameters:
            key, value = r.key.lstrip("+"), meant(point[r.name])
            if key in GROUPS:
                assert (
                    cfg.model.name.startswith(value) if key == "model" else value in cfg.optimizer._target_.lower()
                ), key
            else:
                arrived = OmegaConf.select(cfg, key)
                assert arrived == value and type(arrived) is type(value), key


@pytest.mark.parametrize(
    "text", ["'it\\'s'", "null", "'null'", "'1e-3'", "1e-05", "true", "'true'", "'a.b/c d'", "'é→狗'"]
)
def test_text_that_looks_like_other_types_stays_text(text):
    plan = plan_of([f"+model.kwargs.free={text},plain"])
    hyperparameters = trial_request(tuning_request(plan, LOCAL_TARGET), "t-001-00000000", next(points(plan)))
    cfg = compose("train", job_overrides(hyperparameters["HyperParameters"]))
    value = meant(text)
    assert cfg.model.kwargs.free == value and type(cfg.model.kwargs.free) is type(value)
