"""Every mistake on the command line is one line and exit status 2, before anything starts."""

import sys

import pytest

from dogbreed.cli.command import run_cli
from launch import endpoints, publish, report, status, stop, tune, undeploy


def error_of(main, words, monkeypatch, capsys):
    """Returns the error message of a command."""
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as left:
        run_cli(main, "")
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("trainer=null", "trainer 'null' is unknown; allowed: auto, cpu"),
        ("tuner=null", "tuner 'null' is unknown"),
        ("backend=null", "backend 'null' is unknown; allowed: local, sagemaker"),
        ("instance=null", "instance 'null' is unknown; allowed: cpu, gpu"),
        ("search=3", "search '3' is unknown; allowed: default"),
        ("tuner.max_jobs=inf", "tuner.max_jobs=inf: must be a whole number of at least 1"),
        ("tuner.max_jobs=nan", "tuner.max_jobs=nan: must be a whole number"),
        ("epochs=inf", "epochs=inf: must be a whole number of at least 1"),
        ("batch_size=1e400", "batch_size=inf: must be a whole number"),
        ("batch_size=interval(1,inf)", "'batch_size=interval(1,inf)': both ends must be finite numbers"),
        ("epochs=interval(nan,5)", "both ends must be finite numbers"),
        ("epochs=range(1,inf)", "both ends must be finite numbers"),
        ("batch_size=range(16,64,0)", "the step must not be 0; type 'batch_size=range(16,64)'"),
        ("tuner=hyperband tuner.min_epochs=abc", "tuner.min_epochs=abc: must be a whole number of at least 1"),
        ("tuner=hyperband tuner.max_epochs=null", "tuner.max_epochs=null: must be a whole number"),
        ("tuner.seed=abc", "tuner.seed=abc: must be a whole number of at least 0"),
        ("sweep=3", "sweep=3: give each entry by its name"),
        ("~first_points", "key 'first_points' is needed: omit ~first_points"),
        ("~search", "key 'search' is needed: omit ~search"),
        ("~tuner.strategy", "key 'tuner.strategy' is needed"),
    ],
)
def test_mistake_in_a_sweep(typed, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = typed.split()
    searched = [] if words[0].startswith(("batch_size=r", "batch_size=i", "epochs=r")) else ["lr=range"]
    assert message in error_of(tune.main, [*searched, *words, "dry_run=true"], monkeypatch, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("main", [status.main, stop.main, endpoints.main, undeploy.main])
def test_setting_of_a_training_where_jobs_are_looked_up(main, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    error = error_of(main, ["dogs", "lr=0.1"], monkeypatch, capsys)
    assert "lr=0.1: this command takes only settings of the backend, such as backend=sagemaker" in error


@pytest.mark.parametrize("main", [tune.main, status.main])
def test_mistake_in_the_folder_of_jobs(main, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    error = error_of(main, ["backend.root=null", *(["lr=range"] if main is tune.main else [])], monkeypatch, capsys)
    assert "backend.root=null: must be text" in error


@pytest.mark.parametrize(
    ("main", "words"),
    [(report.main, ["dogs", "debugger.rules.Overfit.patience=[1"]), (publish.main, ["a", "b", "endpoint_url=["])],
)
def test_value_that_is_not_yaml(main, words, monkeypatch, capsys):
    assert words[-1] in error_of(main, words, monkeypatch, capsys)
