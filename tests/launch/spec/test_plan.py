"""Overrides to a plan: fixed settings, search space, number of jobs, bound on instance-hours."""

from dataclasses import replace

import pytest

from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.local import LOCAL_TARGET
from launch.spec.requests.tuning import tuning_request
from launch.views.tables import sweep_plan
from launch.views.text import brief, console
from tests.launch.plans import plan_of


def test_plan_of_the_readme_command():
    plan = plan_of(["model=resnet34", "lr=range"])
    assert plan.fixed == ("model=resnet34",)
    assert [r.key for r in plan.parameters] == ["lr"]
    assert (plan.max_jobs, plan.max_parallel_jobs) == (6, 2)
    assert plan.bound_hours == 12
    assert plan.name.startswith("resnet34-")


def test_job_gets_no_settings_of_the_launcher():
    plan = plan_of(
        ["lr=range", "tuner.max_jobs=3", "backend.root=/x", "name=mine", "instance=gpu", "epochs=2", "search=default"]
    )
    assert plan.fixed == ("epochs=2",)
    assert plan.name == "mine"


def test_experiment_sweep_can_be_narrowed():
    plan = plan_of(["experiment=course_b"])
    assert {r.key for r in plan.parameters} == {"model", "batch_size", "lr"}
    assert plan.fixed == ("experiment=course_b",)
    narrowed = plan_of(["experiment=course_b", "model=resnet18", "lr=interval(0.001,0.01)"])
    assert {r.key: r.values for r in narrowed.parameters} == {
        "batch_size": ("128", "256", "512"),
        "lr": ("0.001", "0.01"),
    }
    assert "model=resnet18" in narrowed.fixed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "nothing is searched"),
        (["lr=0.1"], "nothing is searched"),
        (["model=resnet34,resnet43"], "model 'resnet43' is unknown; did you mean resnet34?"),
        (["model=resnet43", "lr=range"], "did you mean resnet34?"),
        (["nosuch=1,2"], "key 'nosuch' is unknown"),
        (["nosuch=1", "lr=range"], "key 'nosuch' is unknown"),
        (["tuner.max_jobs=1,2"], "is a setting of the launcher"),
        (["tuner.max_jobs=0", "lr=range"], "tuner.max_jobs=0"),
        (["tuner=grid", "lr=range"], "lr is an interval: give choices"),
        (["tuner=grid", "tuner.max_jobs=3", "lr=0.1,0.2"], "tuner.max_jobs=3: a grid tries all 2 points"),
        (["batch_size=0,1"], "batch_size=0: must be a whole number"),
        (["lr=-1,2"], "lr=-1: must be a number"),
        (["lr=choice(a,b)"], "lr=a: must be a number"),
        (["label_smoothing=interval(0,2)"], "label_smoothing=2.0: must be a number from 0 to 1"),
        (["data=folder", "lr=range"], "data.url is not set"),
        (["+model.kwargs.a_b=1,2", "+model.kwargs.a.b=1,2"], "model_kwargs_a_b"),
    ],
)
def test_invalid_sweep_is_rejected(overrides, message):
    with pytest.raises(UserError) as error:
        plan_of(overrides)
    assert message in str(error.value)


def test_number_of_jobs_is_limited_by_combinations():
    assert plan_of(["tuner=grid", "model=resnet18,resnet34", "batch_size=8,16,32"]).max_jobs == 6
    small = plan_of(["model=resnet18,resnet34"])
    assert (small.max_jobs, small.max_parallel_jobs) == (2, 2)


def test_bound_counts_instances_and_the_limit_of_the_sweep():
    assert plan_of(["lr=range", "instance.count=2", "instance.max_hours=1"]).bound_hours == 12
    assert plan_of(["lr=range", "tuner.max_hours=0.5"]).bound_hours == 1.0


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_of(["lr=range", "data=folder", "data.url=my dogs", "model.weights=w.pth"])
    assert f"data.url='{tmp_path}/my dogs'" in plan.fixed
    assert f"model.weights={encode_path(tmp_path / 'w.pth')}" in plan.fixed
    remote = plan_of(["lr=range", "data=s3", "data.url=s3://bucket/dogs"])
    assert remote.fixed == ("data=s3", "data.url=s3://bucket/dogs")


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        (["model=timm", "model.name=convnext_atto,resnet26"], ("convnext_atto", "resnet26")),
        (["data=s3", "data.url=s3://dogs/a,s3://dogs/b"], ("s3://dogs/a", "s3://dogs/b")),
        (["model.weights=hub,random,null"], ("hub", "random", "null")),
    ],
)
def test_required_keys_can_be_searched(typed, values):
    plan = plan_of(typed)
    assert [(r.key, r.values) for r in plan.parameters] == [(typed[-1].partition("=")[0], values)]
    assert plan.fixed == tuple(typed[:-1])


def test_searched_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_of(["data=folder", "data.url=pics1,/there/pics2"])
    assert plan.parameters[0].values == (encode_path(tmp_path / "pics1"), encode_path("/there/pics2"))
    assert plan.fixed == ("data=folder",)


def test_plan_table_shows_overrides_unchanged(capsys):
    typed = ["model.name='[bold]'", "+model.kwargs.files=[/tmp/a,/tmp/b]", "data.url='/my [small] dogs/:dog:/[/x]'"]
    plan = plan_of([*typed, "lr=range"])
    console().print(sweep_plan(plan, open_backend(plan.cfg)))
    shown = capsys.readouterr().out
    assert all(word in shown for word in (*typed, "│ /my [small] dogs/:dog:/[/x] "))


@pytest.mark.parametrize(
    ("typed", "shown"), [("0.0012345678", "0.001235"), ("16", "16"), ("1e3", "1000"), ("inf", "inf"), ("a b", "a b")]
)
def test_brief_rounds_numbers(typed, shown):
    assert brief(typed) == shown


def encode_path(path):
    from launch.spec.contract import encode

    return encode(str(path))


def test_sweep_may_be_called_range():
    assert plan_of(["lr=range", "name=range"]).name == "range"


def test_local_jobs_have_no_time_limit_unless_given():
    assert _seconds(LOCAL_TARGET) == 28 * 24 * 3600
    assert _seconds(LOCAL_TARGET, "instance.max_hours=3") == 3 * 3600
    assert _seconds(replace(LOCAL_TARGET, is_local=False)) == 2 * 3600


def _seconds(target, *typed):
    request = tuning_request(plan_of(["lr=range", *typed]), target)
    return request["TrainingJobDefinition"]["StoppingCondition"]["MaxRuntimeInSeconds"]
