"""`hydra/sweeper=sagemaker`: the multirun of another Hydra application becomes a tuning job."""

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from launch.container.hydra_callback import PrintReturned
from tests.documents import commands
from tests.paths import ROOT

APP = ROOT / "examples" / "quadratic.py"


def run(folder, *words, app=APP):
    command = [sys.executable, str(app), "--multirun", *words]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environ)


def given(*settings):
    return [f"++hydra.sweeper.launch.{setting}" for setting in settings]


def test_example_finds_minimum_and_prints_command(tmp_path):
    done = run(tmp_path, "x=interval(-4.0,4.0)", "shift=0,1", *given("tuner.max_jobs=6", "name=curve"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "outputs" / "curve" / "results.json").read_text())
    assert (found["metric"], found["goal"], len(found["trials"])) == ("objective", "minimize", 6)
    for trial in found["trials"]:
        x, shift = (float(trial["hyperparameters"][key]) for key in ("x", "shift"))
        assert trial["objective"] == pytest.approx((x - 1) ** 2 + shift, rel=1e-4)
    assert re.search(rf"train the best: python {APP} shift=[01] x=\S+", done.stdout)
    assert len(APP.read_text().splitlines()) <= 22


def test_readme_command_runs(tmp_path):
    (line,) = [line.partition("quadratic.py ")[2] for line in commands() if "examples/quadratic.py" in line]
    done = run(tmp_path, *shlex.split(line)[1:])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0.25, "0.25"), (1, "1.0"), (np.float32(0.25), "0.25"), (torch.tensor(0.25), "0.25"),
        (1234567.25, "1234567.25"),
        ("word", ""), (None, ""), ((1.0, 2.0), ""), (np.ones(2), ""),
    ],
)  # fmt: skip
def test_numeric_return_value_is_the_objective(value, printed, capsys):
    job = JobReturn(status=JobStatus.COMPLETED)
    job.return_value = value
    PrintReturned().on_job_end(OmegaConf.create(), job)
    line = capsys.readouterr().out
    if printed:
        assert line == f"\nmetrics epoch=0 objective={printed}\n"
    else:
        assert line.startswith("\nno objective: the task returned ")


def test_trials_use_the_chosen_config(tmp_path):
    app = tmp_path / "app.py"
    app.write_text(APP.read_text().replace("return (cfg.x - 1) ** 2 + cfg.shift", "print(cfg.shift + cfg.more.by)"))
    config = APP.with_suffix(".yaml").read_text()
    (tmp_path / "quadratic.yaml").write_text(config)
    (tmp_path / "other.yaml").write_text(config.replace("shift: 0", "shift: 10"))
    (tmp_path / "extra" / "more").mkdir(parents=True)
    (tmp_path / "extra" / "more" / "much.yaml").write_text("by: 100\n")
    flags = ["--config-name", "other", "-cd", "extra", "+more=much"]
    done = run(tmp_path, *flags, "x=1.0,2.0", *given("dry_run=true"), app=app)
    assert done.returncode == 0, done.stderr
    words = json.loads(json.loads(done.stdout)["TrainingJobDefinition"]["StaticHyperParameters"]["overrides"])
    (job := tmp_path / "job").mkdir()
    trial = subprocess.run([sys.executable, app, *words, "x=1.0"], capture_output=True, text=True, check=True, cwd=job)
    assert trial.stdout == "110\n"


def test_config_outside_the_archive_is_rejected(tmp_path):
    done = run(tmp_path, "-cd", str(tmp_path), "x=1.0,2.0", *given("backend=sagemaker"))
    assert done.returncode == 2
    assert f"--config-dir={tmp_path}: only files next to the script" in done.stderr


def test_aws_archive_contains_the_application(tmp_path):
    app = tmp_path / "quadratic.py"
    app.write_text(APP.read_text())
    settings = {
        "name": "far", "dry_run": True, "backend": "sagemaker", "backend.region": "us-east-1",
        "backend.bucket": "some-bucket", "backend.role": "arn:aws:iam::123456789012:role/jobs",
        "backend.image": "1.dkr.ecr.us-east-1.amazonaws.com/a:b", "tuner": "bayesian", "tuner.max_jobs": 2,
    }  # fmt: skip
    config = {"defaults": ["_self_", {"override hydra/sweeper": "sagemaker"}], "x": 0.0, "shift": 0}
    config["hydra"] = {"sweeper": {"launch": settings}}
    OmegaConf.save(OmegaConf.create(config), tmp_path / "quadratic.yaml")
    done = run(tmp_path, "x=-1.0,1.0", app=app)
    assert done.returncode == 0, done.stderr
    definition = json.loads(done.stdout)["TrainingJobDefinition"]
    assert definition["StaticHyperParameters"]["app"] == "quadratic.py"
    assert [m["Name"] for m in definition["AlgorithmSpecification"]["MetricDefinitions"]] == ["objective"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["tuner=random", "tuner.max_jobs=3"], ("Random", 3, "mine")),
        (["tuner=random", "name=${hydra.job.name}-1"], ("Random", 4, "quadratic-1")),  # max_jobs of quadratic.yaml
        (["tuner.max_parallel_jobs=1", "tuner.early_stopping=false"], ("Bayesian", 4, "mine")),
    ],
)
def test_group_choice_and_its_key_both_apply(tmp_path, typed, expected):
    done = run(tmp_path, "x=interval(-4.0,4.0)", *given("dry_run=true", "name=mine", *typed))
    assert done.returncode == 0, done.stderr
    request = json.loads(done.stdout)
    config = request["HyperParameterTuningJobConfig"]
    jobs = config["ResourceLimits"]["MaxNumberOfTrainingJobs"]
    assert (config["Strategy"], jobs, request["HyperParameterTuningJobName"]) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x=interval(2.0,1.0)"], "the lower end comes first"),
        (["x=1.0"], "nothing is searched"),
        (["x=1.0,2.0", "++hydra.sweeper.launch.instance=gpus"], "did you mean gpu"),
    ],
)
def test_invalid_override_is_one_line(tmp_path, words, message):
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_failing_application_is_a_failed_trial(tmp_path):
    app = tmp_path / "app.py"
    app.write_text(APP.read_text().replace("return (cfg.x", "return 1 / 0 + (cfg.x"))
    (tmp_path / "quadratic.yaml").write_text(APP.with_suffix(".yaml").read_text())
    done = run(tmp_path, "x=1.0,2.0", *given("tuner.max_jobs=1"), app=app)
    assert done.returncode == 1
    assert "division by zero" in " ".join(done.stdout.split())


APPS = {
    "decorated": {
        "wrappers.py": """
            import functools
            def timed(function):
                @functools.wraps(function)
                def run(*args): return function(*args)
                return run
        """,
        "app.py": "from wrappers import timed\n@hydra.main(version_base=None)\n@timed\n"
        "def main(cfg): return cfg.x\nmain()",
    },
    "imported": {
        "pk/__init__.py": "",
        "pk/tasks.py": "@hydra.main(version_base=None, config_path='.')\ndef main(cfg): return cfg.x",
        "app.py": "from pk.tasks import main\nmain()",
    },
    "package": {
        "pkg/__init__.py": "",
        "pkg/lib.py": "def f(x): return x",
        "pkg/app.py": "from .lib import f\n@hydra.main(version_base=None)\ndef main(cfg): return f(cfg.x)\nmain()",
    },
    "progress bar": {
        "app.py": "@hydra.main(version_base=None)\ndef main(cfg): print('\\r 99 %', end=''); return cfg.x\nmain()",
    },
    "numbered": {
        "app.py": "@hydra.main(version_base=None)\n"
        "def main(cfg):\n    from hydra.core.hydra_config import HydraConfig\n"
        "    assert HydraConfig.get().job.num in (0, 1)\n    return cfg.x\nmain()",
    },
}


@pytest.mark.parametrize("kind", APPS)
def test_any_application_has_an_objective(tmp_path, kind):
    for name, text in APPS[kind].items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text) if "hydra" not in text else "import hydra\n" + text)
    program = ["-m", "pkg.app"] if kind == "package" else ["app.py"]
    words = ["++x=0.5,2.0", "hydra/sweeper=sagemaker", *given("name=found", "tuner.max_jobs=2")]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *program, "--multirun", *words],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "outputs" / "found" / "results.json").read_text())
    assert sorted(trial["objective"] for trial in found["trials"]) == [0.5, 2.0]


def test_settings_of_hydra_reach_the_trials(tmp_path):
    (tmp_path / "extra" / "db").mkdir(parents=True)
    (tmp_path / "extra" / "db" / "mysql.yaml").write_text("port: 3306\n")
    (tmp_path / "app.py").write_text(
        "import hydra, os\n@hydra.main(version_base=None)\n"
        "def main(cfg): return cfg.x + cfg.db.port + int(os.environ['FOO'])\nmain()"
    )
    own = [f"hydra.searchpath=[file://{tmp_path}/extra]", "+hydra.job.env_set.FOO='1000'"]
    words = ["++x=0.5,2.0", "+db=mysql", "hydra/sweeper=sagemaker", *own, *given("name=found", "tuner.max_jobs=2")]
    done = run(tmp_path, *words, app=tmp_path / "app.py")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "outputs" / "found" / "results.json").read_text())
    assert sorted(trial["objective"] for trial in found["trials"]) == [4306.5, 4308.0]
