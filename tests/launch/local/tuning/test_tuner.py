"""Tuning jobs: a supervisor process, its training jobs, and cleanup after any of them is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from launch.local.job_store import TUNER_LOG, TUNING, create_folder, new_state
from launch.local.jobs.process import start_supervisor
from tests.launch.local_jobs import (
    PROGRAM,
    categorical,
    continuous,
    eventually,
    is_running,
    make_client,
    points,
    run_tuning,
    state_of,
    trials,
    tuning_request,
    wait_tuning,
    warm_start,
)

MODES = ("train", "fail", "silent")


@pytest.fixture
def client(tmp_path):
    return make_client(tmp_path)


def running_pids(tuning):
    """Returns the process ids of a tuning job's running training jobs."""
    states = [state_of(folder) for folder in tuning.glob(f"{tuning.name}-*")]
    return [state["pid"] for state in states if "pid" in state and is_running(state["pid"])]


def test_sweep_reports_counts_and_best_job(client, tmp_path):
    request = tuning_request("sweep", jobs=5, static={"epochs": "2"})
    job = run_tuning(client, request)
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert job["TrainingJobStatusCounters"] == {
        "Completed": 5,
        "InProgress": 0,
        "RetryableError": 0,
        "NonRetryableError": 0,
        "Stopped": 0,
    }
    assert job["ObjectiveStatusCounters"] == {"Succeeded": 5, "Pending": 0, "Failed": 0}
    assert job["HyperParameterTuningEndTime"] >= job["CreationTime"]
    assert job["HyperParameterTuningJobConfig"] == request["HyperParameterTuningJobConfig"]
    static = job["TrainingJobDefinition"]["StaticHyperParameters"]
    assert static == {"epochs": "2", "_tuning_objective_metric": "val/accuracy"}
    found = trials(client, "sweep")
    assert [trial["TrainingJobName"][:10] for trial in found] == [f"sweep-00{number}-" for number in range(1, 6)]
    best = max(found, key=lambda trial: trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"])
    assert job["BestTrainingJob"] == best
    assert "OverallBestTrainingJob" not in job
    described = client.describe_training_job(TrainingJobName=best["TrainingJobName"])
    assert described["TuningJobArn"] == job["HyperParameterTuningJobArn"]
    assert described["HyperParameters"] == {**static, **best["TunedHyperParameters"]}
    uri = described["ModelArtifacts"]["S3ModelArtifacts"]
    assert (tmp_path / uri.removeprefix("s3://local/")).is_file()


def test_parallel_jobs_overlap_and_share_cpus(client, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run_tuning(client, tuning_request("pair", jobs=2, parallel=2, static={"epochs": "2", "epoch_s": "1"}))
    first, second = trials(client, "pair")
    assert second["TrainingStartTime"] < first["TrainingEndTime"]
    path = tmp_path / "pair" / first["TrainingJobName"] / "ml/output/data/environment.json"
    threads = int(json.loads(path.read_text())["OMP_NUM_THREADS"])
    assert threads == max(1, len(os.sched_getaffinity(0)) // 2)


def test_sweep_continues_after_failed_jobs(client):
    job = run_tuning(client, tuning_request("mixed", ranges=categorical("mode", *MODES), strategy="Grid", jobs=3))
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert job["TrainingJobStatusCounters"]["NonRetryableError"] == 1
    assert job["ObjectiveStatusCounters"] == {"Succeeded": 1, "Pending": 0, "Failed": 2}
    failed, silent = (
        next(t for t in trials(client, "mixed") if t["TunedHyperParameters"]["mode"] == m) for m in MODES[1:]
    )
    assert failed["FailureReason"] == "AlgorithmError: exit code 3; last line of the log: about to fail"
    assert (silent["TrainingJobStatus"], silent["ObjectiveStatus"]) == ("Completed", "Failed")


def test_sweep_fails_after_five_failed_jobs(client):
    job = run_tuning(client, tuning_request("doomed", jobs=20, parallel=1, static={"mode": "fail"}))
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("No training job succeeded after 5 attempts")
    assert len(trials(client, "doomed")) == 5
    assert "BestTrainingJob" not in job


def test_sweep_without_objective_fails(client):
    job = run_tuning(client, tuning_request("mute", jobs=2, static={"mode": "silent"}))
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("No objective metrics found after running 2 training jobs")


def test_sweep_continues_after_killed_training(client, tmp_path):
    client.create_hyper_parameter_tuning_job(
        **tuning_request("kill", ranges=categorical("epoch_s", "30", "0", "0.001"), strategy="Grid", jobs=3, parallel=1)
    )
    os.kill(eventually(lambda: running_pids(tmp_path / "kill"))[0], signal.SIGKILL)
    job = wait_tuning(client, "kill")
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert [trial["TrainingJobStatus"] for trial in trials(client, "kill")] == ["Failed", "Completed", "Completed"]


def test_sweep_continues_after_killed_supervisor(client, tmp_path):
    client.create_hyper_parameter_tuning_job(
        **tuning_request("watch", ranges=categorical("epoch_s", "30", "0"), strategy="Grid", jobs=2, parallel=1)
    )
    (pid,) = eventually(lambda: running_pids(tmp_path / "watch"))
    (folder,) = (tmp_path / "watch").glob("watch-001-*")
    os.kill(state_of(folder)["supervisor_pid"], signal.SIGKILL)
    job = wait_tuning(client, "watch")
    assert job["TrainingJobStatusCounters"]["NonRetryableError"] == 1
    assert job["TrainingJobStatusCounters"]["Completed"] == 1
    eventually(lambda: not is_running(pid))


def test_killed_tuner_leaves_no_process(client, tmp_path):
    client.create_hyper_parameter_tuning_job(
        **tuning_request("dead", jobs=9, static={"epochs": "1000", "epoch_s": "0.1"})
    )
    pids = eventually(lambda: len(found := running_pids(tmp_path / "dead")) == 2 and found)
    os.kill(state_of(tmp_path / "dead")["supervisor_pid"], signal.SIGKILL)
    job = wait_tuning(client, "dead")
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert "the supervisor process died" in job["FailureReason"]
    eventually(lambda: not any(map(is_running, pids)), seconds=10)
    eventually(lambda: {trial["TrainingJobStatus"] for trial in trials(client, "dead")} == {"Stopped"})


def test_stop_keeps_results_and_resume_repeats_nothing(client):
    # Two jobs end, the other two are long: they are interrupted by the stop.
    ranges = {"CategoricalParameterRanges": [{"Name": "epoch_s", "Values": ["0", "0.001", "30", "31", "0.002"]}]}
    request = tuning_request("first", ranges=ranges, strategy="Grid", jobs=5, static={"epochs": "2"})
    client.create_hyper_parameter_tuning_job(**request)

    def two_ended_two_running():
        statuses = [trial["TrainingJobStatus"] for trial in trials(client, "first")]
        return statuses == ["Completed", "Completed", "InProgress", "InProgress"]

    eventually(two_ended_two_running)
    client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="first")
    described = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="first")
    assert described["HyperParameterTuningJobStatus"] in {"Stopping", "Stopped"}
    job = wait_tuning(client, "first")
    assert job["HyperParameterTuningJobStatus"] == "Stopped"
    assert job["TrainingJobStatusCounters"]["Stopped"] == 2
    finished = [t for t in trials(client, "first") if t["TrainingJobStatus"] == "Completed"]
    assert len(finished) == 2
    assert job["BestTrainingJob"]["ObjectiveStatus"] == "Succeeded"

    second = tuning_request("second", ranges=ranges, jobs=3, parallel=3, static={"epochs": "0"})
    job = run_tuning(client, second, WarmStartConfig=warm_start("first"))
    assert {point["epoch_s"] for point in points(client, "second")} == {"30", "31", "0.002"}
    assert [point["epoch_s"] for point in points(client, "second")][:2] == ["30", "31"]
    assert job["HyperParameterTuningJobStatus"] == "Failed"  # without epochs no job has an objective
    assert job["OverallBestTrainingJob"]["TuningJobName"] == "first"

    third = tuning_request("third", ranges=ranges, jobs=1, parallel=1, static={"epochs": "2"})
    job = run_tuning(client, third, WarmStartConfig=warm_start("second"))
    assert points(client, "third") == []  # all points were tried by the sweep before, or by the one before that
    assert job["HyperParameterTuningJobStatus"] == "Completed"


def test_stop_of_ended_sweep_is_rejected(client):
    run_tuning(client, tuning_request("over", jobs=1, parallel=1))
    with pytest.raises(client.exceptions.ClientError, match="in status Completed") as error:
        client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="over")
    assert error.value.response["Error"]["Code"] == "ValidationException"


def test_sigterm_to_tuner_stops_the_sweep(client, tmp_path):
    client.create_hyper_parameter_tuning_job(
        **tuning_request("term", jobs=2, parallel=1, static={"epochs": "1000", "epoch_s": "0.1"})
    )
    eventually(lambda: running_pids(tmp_path / "term"))
    os.kill(state_of(tmp_path / "term")["supervisor_pid"], signal.SIGTERM)
    assert wait_tuning(client, "term")["HyperParameterTuningJobStatus"] == "Stopped"
    assert [trial["TrainingJobStatus"] for trial in trials(client, "term")] == ["Stopped"]


def test_resume_retries_job_lost_with_its_supervisor(client, tmp_path):
    values = categorical("epoch_s", "30", "0")
    request = tuning_request("lost", ranges=values, strategy="Grid", jobs=2, parallel=2, static={"epochs": "3"})
    client.create_hyper_parameter_tuning_job(**request)
    eventually(lambda: running_pids(tmp_path / "lost"))
    (folder,) = (tmp_path / "lost").glob("lost-001-*")
    os.kill(eventually(lambda: state_of(folder).get("supervisor_pid")), signal.SIGKILL)
    assert wait_tuning(client, "lost")["TrainingJobStatusCounters"]["NonRetryableError"] == 1
    again = tuning_request("again", ranges=values, jobs=1, parallel=1, static={"epochs": "0"})
    run_tuning(client, again, WarmStartConfig=warm_start("lost"))
    assert points(client, "again") == [{"epoch_s": "30"}]


def test_two_parallel_sweeps_with_same_seed_match(tmp_path):
    clients = [make_client(tmp_path), make_client(tmp_path)]
    for client, name in zip(clients, ("left", "right"), strict=True):
        client.create_hyper_parameter_tuning_job(**tuning_request(name, jobs=3, static={"epoch_s": "0.05"}))
    for client, name in zip(clients, ("right", "left"), strict=True):
        assert wait_tuning(client, name)["TrainingJobStatusCounters"]["Completed"] == 3
    assert points(clients[0], "left") == points(clients[0], "right")


def test_early_stopping_ends_bad_jobs(client, tmp_path):
    # One at a time, best first: all later jobs are worse than the median and stop after an epoch or two.
    values = {"CategoricalParameterRanges": [{"Name": "lr", "Values": ["1.0", "0.99", "0.98", "0.1", "0.2"]}]}
    request = tuning_request(
        "early",
        ranges=values,
        strategy="Grid",
        jobs=5,
        parallel=1,
        TrainingJobEarlyStoppingType="Auto",
        static={"epochs": "6", "slow_below": "0.5"},  # the bad ones would take a minute each
    )
    job = run_tuning(client, request)
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    statuses = [trial["TrainingJobStatus"] for trial in trials(client, "early")]
    assert statuses == ["Completed", "Completed", "Completed", "Stopped", "Stopped"]
    assert job["ObjectiveStatusCounters"]["Succeeded"] == 5
    stopped = client.describe_training_job(TrainingJobName=trials(client, "early")[3]["TrainingJobName"])
    assert "Early stopping" in stopped["SecondaryStatusTransitions"][-1]["StatusMessage"]
    scraped = tmp_path / "early" / stopped["TrainingJobName"] / "metrics.jsonl"
    assert len(scraped.read_text().splitlines()) // 2 <= 2  # epochs of two metrics each


def test_hyperband_trains_fewer_epochs(client, tmp_path):
    request = tuning_request(
        "band",
        strategy="Hyperband",
        jobs=8,
        static={"epochs": "9", "epoch_s": "0.3"},
        StrategyConfig={"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 9}},
    )
    job = run_tuning(client, request)
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    counts = job["TrainingJobStatusCounters"]
    assert counts["Stopped"] >= 1 <= counts["Completed"]
    reports = [len(path.read_text().splitlines()) // 2 for path in (tmp_path / "band").glob("band-*/metrics.jsonl")]
    assert sum(reports) < 8 * 9


def test_target_ends_the_sweep(client, tmp_path):
    values = {"CategoricalParameterRanges": [{"Name": "lr", "Values": ["0.1", "0.9", "0.2", "0.3"]}]}
    criteria = {"TargetObjectiveMetricValue": 0.5}
    request = tuning_request(
        "target", ranges=values, strategy="Grid", jobs=4, parallel=1, TuningJobCompletionCriteria=criteria
    )
    job = run_tuning(client, request)
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert len(trials(client, "target")) == 2
    assert "reaches the target 0.5" in state_of(tmp_path / "target")["note"]


def test_exhausted_space_ends_the_sweep(client, tmp_path):
    job = run_tuning(client, tuning_request("small", ranges=categorical("lr", "0.1", "0.2"), jobs=10))
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert len(trials(client, "small")) == 2
    assert state_of(tmp_path / "small")["note"] == "every point of the space was tried after 2 of 10 jobs"


def test_max_runtime_stops_the_sweep(client, tmp_path):
    request = tuning_request("late", static={"epochs": "1000", "epoch_s": "0.1"})
    request["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxRuntimeInSeconds"] = 120
    state = new_state(TUNING, "late", PROGRAM, 5.0) | {"created": time.time() - 118}
    lock = create_folder(tmp_path / "late", request, state, TUNER_LOG)
    start_supervisor("launch.local.tuning.tuner", tmp_path / "late", lock, TUNER_LOG).wait(120)
    job = wait_tuning(client, "late")
    assert job["HyperParameterTuningJobStatus"] == "Stopped"
    # On a busy machine the time may be over before the first job is started.
    assert {trial["TrainingJobStatus"] for trial in trials(client, "late")} <= {"Stopped"}


def test_bayesian_sweep_takes_all_kinds_of_ranges(client):
    ranges = {
        **categorical("model", "resnet18", "resnet34"),
        "IntegerParameterRanges": [continuous("epochs", "1", "3", "Linear")],
        "ContinuousParameterRanges": [continuous("lr", "0.001", "0.1")],
    }
    job = run_tuning(client, tuning_request("bayes", ranges=ranges, strategy="Bayesian", jobs=8))
    assert job["TrainingJobStatusCounters"]["Completed"] == 8
    assert {point["epochs"] for point in points(client, "bayes")} <= {"1", "2", "3"}


def test_tuner_uses_little_memory(client, tmp_path):
    client.create_hyper_parameter_tuning_job(
        **tuning_request("small", strategy="Bayesian", jobs=6, static={"epochs": "100", "epoch_s": "0.1"})
    )
    pids = eventually(lambda: len(found := running_pids(tmp_path / "small")) == 2 and found)
    pid = state_of(tmp_path / "small")["supervisor_pid"]
    assert psutil.Process(pid).memory_info().rss < 120e6
    client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="small")
    wait_tuning(client, "small")
    eventually(lambda: not any(map(is_running, pids)))


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("launch.local.tuning.tuner", ["torch", "boto3"]),
        ("launch.local.jobs.training_job", ["torch", "botocore", "optuna", "numpy"]),
    ],
)
def test_supervisor_imports_stay_light(module, absent):
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
