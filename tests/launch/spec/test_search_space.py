"""One override to one search parameter: accepted sweeps, and the error message of each invalid one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.cli.overrides import parse
from dogbreed.errors import UserError
from launch.spec.contract import APP, FIRST_POINTS, KEYS, OVERRIDES, encode
from launch.spec.requests.tuning import parameter_ranges
from launch.spec.search_space import SearchParameter, split_overrides

DECLARED = {"lr": "tag(log,interval(1e-4,1e-1))", "model": "choice(resnet18,resnet34)"}


def split(*overrides):
    fixed, parameters = split_overrides(
        parse(overrides), DECLARED, lambda group: ["resnet18", "resnet34", "vgg"], lambda key: key == "batch_size"
    )
    return [override.input_line for override in fixed], parameters


@pytest.mark.parametrize(
    ("override", "kind", "values", "scaling"),
    [
        ("model=resnet18,resnet34", "Categorical", ("resnet18", "resnet34"), "Auto"),
        ("batch_size=choice(16,32)", "Categorical", ("16", "32"), "Auto"),
        ("x=choice(1,2.5,true,word,'1','a b')", "Categorical", ("1", "2.5", "true", "word", "'1'", "'a b'"), "Auto"),
        ("x=[1,2],[3]", "Categorical", ("[1,2]", "[3]"), "Auto"),
        ("x=null,1", "Categorical", ("null", "1"), "Auto"),
        ("x=str(choice(1,2))", "Categorical", ("'1'", "'2'"), "Auto"),
        ("x=sort(3,1,2)", "Categorical", ("1", "2", "3"), "Auto"),
        ("x=range(1,10,3)", "Categorical", ("1", "4", "7"), "Auto"),
        ("x=a,b,a", "Categorical", ("a", "b"), "Auto"),
        ("model=glob(resnet*)", "Categorical", ("resnet18", "resnet34"), "Auto"),
        ("model=glob(*,exclude=vgg)", "Categorical", ("resnet18", "resnet34"), "Auto"),
        ("lr=interval(0.001,0.1)", "Continuous", ("0.001", "0.1"), "Auto"),
        ("lr=tag(log,interval(1e-5,1))", "Continuous", ("1e-05", "1.0"), "Logarithmic"),
        ("lr=tag(linear,interval(0,1))", "Continuous", ("0.0", "1.0"), "Linear"),
        ("lr=tag(reverse_log,interval(0,0.9))", "Continuous", ("0.0", "0.9"), "ReverseLogarithmic"),
        ("x=int(interval(1,8))", "Integer", ("1", "8"), "Auto"),
        ("x=tag(log,int(interval(1,64)))", "Integer", ("1", "64"), "Logarithmic"),
        ("batch_size=interval(16,128)", "Integer", ("16", "128"), "Auto"),
        ("lr=range", "Continuous", ("0.0001", "0.1"), "Logarithmic"),
        ("model=range", "Categorical", ("resnet18", "resnet34"), "Auto"),
        ("+model.kwargs.drop_rate=interval(0,0.5)", "Continuous", ("0.0", "0.5"), "Auto"),
    ],
)
def test_override_becomes_search_parameter(override, kind, values, scaling):
    fixed, (found,) = split(override)
    assert fixed == []
    assert (found.kind, found.values, found.scaling) == (kind, values, scaling)
    assert found.key == override.partition("=")[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lr=interval(1,0)"], "type 'lr=interval(0,1)'"),
        (["lr=interval(0.1,0.1)"], "type 'lr=0.1'"),
        (["x=" + ",".join(map(str, range(31)))], "31 choices, SageMaker searches at most 30"),
        (["x=range(0,100)"], "'x=interval(0,99)'"),
        (["x=" + "a" * 257 + ",b"], "256 characters"),
        (["lr=tag(log,interval(0,1))"], "log scale needs a lowest value above 0"),
        (["lr=tag(reverse_log,interval(0,1))"], "0 <= lowest < highest < 1"),
        (["lr=tag(logarithmic,interval(1,2))"], "tags: linear, log, reverse_log"),
        (["lr=tag(log,linear,interval(1,2))"], "not several"),
        (["batch_size=interval(1.5,3.2)"], "batch_size=interval(2,3)"),
        (["seed=range"], "no range is declared for seed"),
        (["model=glob(foo*)"], "matches nothing"),
        (["lr=range", "lr=1,2"], "lr is searched twice"),
        (["lr=interval("], "cannot read"),
        ([f"{APP}=1,2"], "app cannot be searched: jobs have another hyperparameter app; rename the key"),
        ([f"{KEYS}=1,2"], "keys cannot be searched"),
        ([f"{OVERRIDES}=1,2"], "overrides cannot be searched"),
        ([f"+{FIRST_POINTS}=interval(1,2)"], "first_points cannot be searched"),
        (["sagemaker.x=1,2"], "jobs have another hyperparameter sagemaker_x"),
    ],
)
def test_invalid_range_error_contains_the_correction(overrides, message):
    with pytest.raises(UserError) as error:
        split(*overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_range_replaces_fixed_override_of_the_same_key():
    fixed, ranges = split("seed=3", "+model.kwargs.name='a b'", "~x", "lr=0.1", "lr=1,2")
    assert fixed == ["seed=3", "+model.kwargs.name='a b'", "~x"]
    assert [r.key for r in ranges] == ["lr"]


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).filter(lambda w: "${" not in w)
scalars = st.one_of(
    words, st.booleans(), st.none(), st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False)
)


@given(st.one_of(scalars, st.lists(scalars, max_size=3)))
def test_value_parses_the_same_in_the_job(value):
    back = parse([f"key={encode(value)}"])[0].value()
    assert back == value
    assert type(back) is type(value)


def test_hyperparameter_names_are_safe():
    assert SearchParameter("lr", "Continuous", ("0", "1")).name == "lr"
    assert SearchParameter("+model.kwargs.drop_rate", "Continuous", ("0", "1")).name == "model_kwargs_drop_rate"
    assert SearchParameter("optimizer@other", "Categorical", ("a",)).name == "optimizer_other"


def test_ranges_become_api_dicts_of_strings():
    _, ranges = split("lr=range", "batch_size=interval(16,128)", "model=a,b")
    assert parameter_ranges(ranges) == {
        "ContinuousParameterRanges": [
            {"Name": "lr", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}
        ],
        "IntegerParameterRanges": [{"Name": "batch_size", "MinValue": "16", "MaxValue": "128", "ScalingType": "Auto"}],
        "CategoricalParameterRanges": [{"Name": "model", "Values": ["a", "b"]}],
    }
