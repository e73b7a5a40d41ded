"""A sweep from its command line to the table, the files and the exit status.

Most sweeps here run a stand-in for a training: a real process under the real container contract, which reads its
hyperparameters and prints metric lines. One sweep trains a network.
"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from dogbreed.errors import UserError
from launch import status, tune
from launch.backends import open_backend
from launch.backends.local import LocalBackend
from launch.local.api.boto_client import local_client
from launch.runs.results import read_sweep
from launch.spec.settings import compose
from tests.launch.cloud import STAND_IN, interrupt_create
from tests.paths import ROOT

SMALL = [
    "model=timm",
    "model.name=test_resnet",
    "data.url='demo://?classes=2&train=6&valid=3&test=3&size=32'",
    "epochs=1",
]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs `launch.tune` in this process with stand-in jobs; returns its exit status."""
    monkeypatch.setattr(LocalBackend, "client", lambda self: local_client(self.root, command=STAND_IN))
    return lambda *typed: tune.main([*typed, f"backend.root={tmp_path}/outputs"])


def interrupt_after(trials, folder):
    """Sends Ctrl-C from a thread once a number of trials of the sweep in `folder` have printed their first epoch."""

    def interrupt():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            running = [p for p in folder.glob("*/log.txt") if "epoch=0" in p.read_text()]
            if len(running) >= trials:
                break
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


def results(tmp_path, name):
    return json.loads((tmp_path / "outputs" / name / "results.json").read_text())


def test_sweep_ends_with_table_files_plot_and_train_command(sweep, tmp_path, capsys):
    typed = ["lr=range", "batch_size=16,32", "epochs=7", "tuner=random", "tuner.max_jobs=5"]
    assert sweep(*typed, "name=first", "logs=true") == 0
    printed = capsys.readouterr().out
    assert [printed.count(f"    00{n} | metrics epoch=2 val/accuracy=") for n in range(1, 6)] == [1] * 5
    assert "search lr" in printed and "this machine" in printed
    found = results(tmp_path, "first")
    assert len(found["trials"]) == 5
    objectives = [trial["objective"] for trial in found["trials"]]
    assert objectives == sorted(objectives, reverse=True)
    best = found["best"]
    assert best == found["trials"][0]
    assert f"best: {best['name']}" in printed
    assert f"train the best: python -m launch.train from_tuning=first backend.root={tmp_path}/outputs" in printed
    assert found["train_the_best"][:4] == ["python", "-m", "launch.train", "from_tuning=first"]
    assert {"epochs=7", f"lr={best['hyperparameters']['lr']}"} <= set(found["overrides"])
    with (tmp_path / "outputs/first/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val/accuracy"]) for row in rows] == objectives
    assert (tmp_path / "outputs/first/sweep.png").read_bytes().startswith(b"\x89PNG")
    assert len(re.findall(r"\d/5  val/accuracy", printed)) == 5


def test_same_seed_tries_the_same_points(sweep, tmp_path):
    for name in ("one", "two"):
        sweep("lr=range", f"name={name}", "tuner=random", "tuner.max_jobs=3")
    points = [sorted(t["hyperparameters"]["lr"] for t in results(tmp_path, name)["trials"]) for name in ("one", "two")]
    assert points[0] == points[1]


def test_sweep_continues_after_failed_trial_and_shows_reason(sweep, tmp_path, capsys, stand_in_does):
    stand_in_does("large_lr_fails")
    assert sweep("lr=choice(0.001,0.1)", "name=mixed") == 0
    trials = {trial["hyperparameters"]["lr"]: trial for trial in results(tmp_path, "mixed")["trials"]}
    assert trials["0.001"]["status"] == "Completed"
    assert (trials["0.1"]["status"], trials["0.1"]["objective"]) == ("Failed", None)
    assert "lr=0.1 is too large" in trials["0.1"]["reason"]
    assert "lr=0.1 is too large, see [/data/x]" in capsys.readouterr().out


def test_sweep_of_failed_trials_has_exit_status_1(sweep, tmp_path, capsys, stand_in_does):
    stand_in_does("out_of_memory")
    assert sweep("lr=choice(0.001,0.1)", "name=none") == 1
    printed = capsys.readouterr().out
    assert "CUDA error: out of memory" in printed
    assert "no trial gave a result" in printed


@pytest.mark.slow
def test_ctrl_c_keeps_results_and_resume_repeats_nothing(sweep, tmp_path, capsys, stand_in_does):
    stand_in_does("large_lr_slow")
    typed = ["lr=choice(0.001,0.002,0.01,0.02,0.03,0.04)", "name=broken", "tuner.max_parallel_jobs=2"]
    thread = interrupt_after(3, tmp_path / "outputs" / "broken")
    assert sweep(*typed) == 130
    thread.join()
    assert "resume with: python -m launch.tune resume=broken" in capsys.readouterr().out
    before = results(tmp_path, "broken")
    finished = {t["hyperparameters"]["lr"]: t["name"] for t in before["trials"] if t["status"] == "Completed"}
    assert 0 < len(finished) < 6
    assert not [t for t in before["trials"] if t["status"] in ("InProgress", "Stopping")]
    stand_in_does("")
    assert sweep("resume=broken") == 0
    after = results(tmp_path, "broken-r2")
    assert sorted(t["hyperparameters"]["lr"] for t in after["trials"] if t["status"] == "Completed") == [
        "0.001", "0.002", "0.01", "0.02", "0.03", "0.04",
    ]  # fmt: skip
    kept = {t["hyperparameters"]["lr"]: t["name"] for t in after["trials"]}
    assert all(kept[lr] == name for lr, name in finished.items())
    with pytest.raises(UserError, match=r"has its 6 trials: ask for more with tuner\.max_jobs"):
        sweep("resume=broken-r2")


def test_interrupted_grid_resumes_with_missing_points(sweep, tmp_path, capsys, stand_in_does):
    stand_in_does("large_lr_slow")
    thread = interrupt_after(2, tmp_path / "outputs" / "grid")
    assert sweep("tuner=grid", "lr=0.001,0.01,0.02,0.03", "name=grid", "tuner.max_parallel_jobs=1") == 130
    thread.join()
    stand_in_does("")
    capsys.readouterr()
    with pytest.raises(UserError, match=r"tuner\.max_jobs: sweep grid is a grid, with 4 trials in all"):
        sweep("resume=grid", "tuner.max_jobs=8")
    assert sweep("resume=grid") == 0
    printed = capsys.readouterr().out
    assert re.findall(r"([1-9]/\d)  val/accuracy", printed)[-3:] == ["2/4", "3/4", "4/4"]
    assert set(re.findall(r"│ (\S+) +│ Completed", printed)) == {"001", "r2-001", "r2-002", "r2-003"}
    trials = results(tmp_path, "grid-r2")["trials"]
    assert sorted(t["hyperparameters"]["lr"] for t in trials) == ["0.001", "0.01", "0.02", "0.03"]
    assert [t["hyperparameters"]["lr"] for t in trials if not t["name"].startswith("grid-r2-")] == ["0.001"]


def test_ctrl_c_during_create_request_stops_the_sweep(sweep, tmp_path, capsys, monkeypatch, stand_in_does):
    stand_in_does("slow")
    interrupt_create(monkeypatch, LocalBackend)
    assert sweep("lr=0.01,0.02", "name=early") == 130
    printed = capsys.readouterr().out
    assert "SIGINT: stopping" in printed and "sweep early: Stopped" in printed
    assert "resume with: python -m launch.tune resume=early" in printed


def test_resume_accepts_a_name_and_rejects_other_overrides(sweep, tmp_path):
    typed = ["lr=range", "tuner=random", "tuner.max_jobs=1"]
    sweep(*typed, "name=dogs-first")
    more = ["resume=dogs-first", "tuner.max_jobs=2"]
    with pytest.raises(
        UserError, match=r"^tuner\.max_parallel_jobs, epochs, lr: cannot be changed when resuming .*=\[dogs-first\]$"
    ):
        sweep(*more, "tuner.max_parallel_jobs=1", "epochs=20", "lr=0.1,0.2", "name=dogs")
    (tmp_path / "outputs" / "dogs-first-r2").mkdir()
    with pytest.raises(UserError, match=r"dogs-first-r2.*choose another name with name=NAME"):
        sweep(*more)
    assert sweep(*more, "name=dogs") == 0
    found = read_sweep(local_client(tmp_path / "outputs"), "dogs")
    assert (len(found.trials), len(found.own_trials)) == (2, 1)


def test_two_parallel_sweeps_are_independent(sweep, tmp_path):
    typed = ["lr=range", "tuner=random", "tuner.max_jobs=3"]
    client = open_backend(compose("tune", [f"backend.root={tmp_path}/outputs"])).client()
    from launch.backends.local import LOCAL_TARGET
    from launch.spec.requests.tuning import tuning_request
    from tests.launch.plans import plan_of

    client.create_hyper_parameter_tuning_job(**tuning_request(plan_of([*typed, "name=other"]), LOCAL_TARGET))
    assert sweep(*typed, "name=mine") == 0
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        answer = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="other")
        if answer["HyperParameterTuningJobStatus"] == "Completed":
            break
        time.sleep(0.2)
    assert answer["TrainingJobStatusCounters"]["Completed"] == 3
    assert len(results(tmp_path, "mine")["trials"]) == 3


def test_taken_name_and_unknown_sweep_are_rejected(sweep):
    assert sweep("lr=range", "tuner.max_jobs=1", "name=taken") == 0
    with pytest.raises(UserError, match=r"taken.*choose another name"):
        sweep("lr=range", "tuner.max_jobs=1", "name=taken")
    with pytest.raises(UserError, match="nosuch"):
        sweep("resume=nosuch")
    with pytest.raises(UserError, match=r"^no such name .*python -m launch\.status"):
        sweep("resume=")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["lr=interval(1,0)"], "type 'lr=interval(0,1)'"),
        (["lr=interval(0.1,0.1)"], "type 'lr=0.1'"),
        (["model=resnet43", "lr=range"], "did you mean resnet34?"),
        (["batch_size=" + ",".join(map(str, range(1, 32)))], "31 choices"),
        (["nosuch=1", "lr=range"], "key 'nosuch' is unknown"),
        (["name=under_score", "lr=range"], "HyperParameterTuningJobName"),
        (["name=" + "x" * 33, "lr=range"], "HyperParameterTuningJobName"),
        (["instance.type=ml.g5.xlarg", "lr=range"], "ml.g5.xlarge"),
    ],
)
def test_mistake_starts_nothing(sweep, tmp_path, typed, message):
    with pytest.raises(UserError) as error:
        sweep(*typed)
    assert message in str(error.value)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["data=folder", "data.url=/no/such/place"], "/no/such/place"),
        (["data=folder", "data.url={folder}"], "no images"),
        (["model.weights=/no/such.pth"], "model.weights=/no/such.pth: no such file"),
    ],
)
def test_missing_files_are_reported_before_anything_starts(sweep, tmp_path, typed, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=re.escape(message)):
        sweep("lr=range", *[word.format(folder=tmp_path / "empty") for word in typed])
    assert not (tmp_path / "outputs").exists()


def test_unwritable_root_is_one_line(sweep, tmp_path):
    (tmp_path / "outputs").write_text("a file, not a folder")
    with pytest.raises(UserError, match="outputs"):
        sweep("lr=range")


def test_dry_run_prints_only_the_request_on_stdout(capsys):
    assert tune.main(["lr=range", "name=dry", "dry_run=true"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["HyperParameterTuningJobName"] == "dry"
    assert "search lr" in printed.err


def test_status_lists_sweeps_and_shows_one(sweep, tmp_path, capsys):
    root = f"backend.root={tmp_path}/outputs"
    assert status.main([root]) == 0
    assert "nothing yet" in capsys.readouterr().out
    sweep("lr=range", "tuner.max_jobs=2", "name=seen")
    capsys.readouterr()
    assert status.main([root]) == 0
    assert re.search(r"seen .*sweep .*Completed .*2/2", capsys.readouterr().out)
    assert status.main(["seen", root]) == 0
    assert len(re.findall(r"00[12] .*Completed", capsys.readouterr().out)) == 2
    trial = results(tmp_path, "seen")["trials"][0]["name"]
    assert status.main([trial, root]) == 0
    assert "val/accuracy" in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean seen"):
        status.main(["sen", root])


def test_real_sweep_from_the_command_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "launch.tune",
        *SMALL,
        "lr=choice(0.001,0.01)",
        "name=real",
        f"backend.root={tmp_path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "real" / "results.json").read_text())
    assert [trial["status"] for trial in found["trials"]] == ["Completed", "Completed"]
    assert all(0 <= trial["metrics"]["test/accuracy"] <= 1 for trial in found["trials"])
    for trial in found["trials"]:
        folder = tmp_path / "real" / trial["name"]
        assert (folder / "output" / "model.tar.gz").is_file()
        assert (folder / "ml" / "output" / "data" / "metrics.csv").is_file()
        assert "demo://" in (folder / "log.txt").read_text()


def test_data_without_pretrained_weights_fails_with_advice(tmp_path):
    folder = tmp_path / "dogs" / "train"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            (folder / name / f"{number}.jpg").write_bytes(b"")
    command = [
        sys.executable, "-m", "launch.tune", "lr=0.1,0.01", "data=folder", f"data.url={tmp_path}/dogs", "name=own",
        f"backend.root={tmp_path}/outputs", "tuner.max_jobs=1",
    ]  # fmt: skip
    environ = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=ROOT)
    assert done.returncode == 1
    assert "model.weights=PATH.safetensors" in done.stdout.replace("\n", " ")
