"""One training job as a process under the container contract."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from launch.local.jobs.training_job import pack_model
from tests.launch.local_jobs import (
    eventually,
    is_running,
    make_client,
    state_of,
    training_request,
    wait_training,
)
from tests.paths import ROOT


@pytest.fixture
def client(tmp_path):
    return make_client(tmp_path)


def environment_of(folder):
    return json.loads((folder / "ml/output/data/environment.json").read_text())


def test_completed_job_keeps_metrics_model_and_times(client, tmp_path):
    answer = client.create_training_job(**training_request("good", {"lr": "0.1", "epochs": "2"}))
    job = wait_training(client, "good")
    assert answer["TrainingJobArn"] == job["TrainingJobArn"]
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Completed", "Completed")
    metrics = {metric["MetricName"]: metric["Value"] for metric in job["FinalMetricDataList"]}
    assert metrics == pytest.approx({"val/accuracy": 0.075, "val/loss": 0.925})
    assert job["CreationTime"] <= job["TrainingStartTime"] <= job["TrainingEndTime"] <= job["LastModifiedTime"]
    steps = [step["Status"] for step in job["SecondaryStatusTransitions"]]
    assert steps == ["Starting", "Training", "Uploading", "Completed"]
    assert all("EndTime" in step for step in job["SecondaryStatusTransitions"])
    folder = tmp_path / "good"
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == "s3://local/good/output/model.tar.gz"
    with tarfile.open(folder / "output/model.tar.gz") as tar:
        assert tar.getnames() == ["weights.txt"]
    assert (folder / "ml/output/success").exists()
    scraped = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [metric["value"] for metric in scraped if metric["name"] == "val/accuracy"] == pytest.approx([0.05, 0.075])
    assert all(abs(metric["time"] - time.time()) < 60 for metric in scraped)


def test_container_contract_is_complete(client, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_text("a")
    channel = {
        "ChannelName": "training",
        "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://local/images"}},
    }
    hyperparameters = {"lr": "0.1", "model.name": "18", "sagemaker_program": "x.py"}
    client.create_training_job(
        **training_request("contract", hyperparameters, InputDataConfig=[channel], Environment={"COLOUR": "red"})
    )
    wait_training(client, "contract")
    folder = tmp_path / "contract"
    ml, env = folder / "ml", environment_of(folder)
    assert (ml / "input/data/training/a.jpg").read_text() == "a"
    assert env["SAGEMAKER_BASE_DIR"] == str(ml)
    assert env["SM_MODEL_DIR"] == str(ml / "model")
    assert env["SM_OUTPUT_DIR"] == str(ml / "output")
    assert env["SM_OUTPUT_DATA_DIR"] == str(ml / "output/data")
    assert env["SM_INPUT_DIR"] == str(ml / "input")
    assert env["SM_INPUT_CONFIG_DIR"] == str(ml / "input/config")
    assert env["SM_CHANNEL_TRAINING"] == str(ml / "input/data/training")
    assert json.loads(env["SM_CHANNELS"]) == ["training"]
    assert json.loads(env["SM_HPS"]) == {"lr": 0.1, "model.name": 18}
    assert (env["SM_HP_LR"], env["SM_HP_MODEL.NAME"]) == ("0.1", "18")
    assert json.loads(env["SM_HOSTS"]) == ["algo-1"] == [env["SM_CURRENT_HOST"]]
    assert env["SM_CURRENT_INSTANCE_TYPE"] == "ml.m5.large"
    assert int(env["SM_NUM_CPUS"]) >= 1 <= int(env["OMP_NUM_THREADS"])
    assert int(env["SM_NUM_GPUS"]) >= 0
    assert json.loads(env["SM_RESOURCE_CONFIG"])["current_host"] == "algo-1"
    assert json.loads(env["SM_INPUT_DATA_CONFIG"])["training"]["TrainingInputMode"] == "File"
    assert json.loads(env["SM_TRAINING_ENV"])["job_name"] == env["TRAINING_JOB_NAME"] == "contract"
    assert env["TRAINING_JOB_ARN"].endswith(":training-job/contract")
    assert env["COLOUR"] == "red"
    config = ml / "input/config"
    assert json.loads((config / "hyperparameters.json").read_text()) == hyperparameters
    assert json.loads((config / "resourceconfig.json").read_text())["hosts"] == ["algo-1"]
    assert json.loads((config / "inputdataconfig.json").read_text())["training"]["S3DistributionType"]


def test_environment_excludes_variables_of_outer_job(client, tmp_path, monkeypatch):
    monkeypatch.setenv("SM_HP_OLD", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    client.create_training_job(**training_request("inner"))
    wait_training(client, "inner")
    env = environment_of(tmp_path / "inner")
    assert "SM_HP_OLD" not in env
    assert env["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("fail", "AlgorithmError: exit code 3; last line of the log: about to fail"),
        ("explain", "AlgorithmError: ValueError: lr is too large"),
    ],
)
def test_failed_job_reports_reason(client, mode, reason):
    client.create_training_job(**training_request("bad", {"mode": mode}))
    job = wait_training(client, "bad")
    assert (job["TrainingJobStatus"], job["FailureReason"]) == ("Failed", reason)


def test_killed_job_reports_signal(client, tmp_path):
    client.create_training_job(**training_request("killed", {"epochs": "100", "epoch_s": "0.1"}))
    pid = eventually(lambda: state_of(tmp_path / "killed").get("pid"))
    os.kill(pid, signal.SIGKILL)
    job = wait_training(client, "killed")
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("AlgorithmError: killed by signal 9 (by a user, or by")


def test_missing_command_fails_the_job(tmp_path):
    client = make_client(tmp_path, command=["/no/such/program"])
    client.create_training_job(**training_request("none"))
    job = wait_training(client, "none")
    reason = "AlgorithmError: /no/such/program cannot be started: No such file or directory"
    assert (job["TrainingJobStatus"], job["FailureReason"]) == ("Failed", reason)


def test_stop_keeps_the_model(client, tmp_path):
    client.create_training_job(**training_request("stop", {"epochs": "1000", "epoch_s": "0.05"}))
    eventually(lambda: state_of(tmp_path / "stop").get("metrics"))
    client.stop_training_job(TrainingJobName="stop")
    assert client.describe_training_job(TrainingJobName="stop")["TrainingJobStatus"] in {"Stopping", "Stopped"}
    job = wait_training(client, "stop")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    with tarfile.open(tmp_path / "stop/output/model.tar.gz") as tar:
        assert tar.extractfile("weights.txt").read() == b"stopped"
    with pytest.raises(client.exceptions.ClientError, match="in status Stopped") as error:
        client.stop_training_job(TrainingJobName="stop")
    assert error.value.response["Error"]["Code"] == "ValidationException"


def test_stop_kills_after_grace_period(tmp_path):
    client = make_client(tmp_path, stop_grace_s=0.3)
    client.create_training_job(**training_request("deaf", {"mode": "stubborn", "epochs": "1000", "epoch_s": "0.05"}))
    eventually(lambda: state_of(tmp_path / "deaf").get("metrics"))
    started = time.monotonic()
    client.stop_training_job(TrainingJobName="deaf")
    assert wait_training(client, "deaf")["TrainingJobStatus"] == "Stopped"
    assert 0.2 < time.monotonic() - started < 30


def test_max_runtime_stops_the_job(client):
    request = training_request("slow", {"epochs": "1000", "epoch_s": "0.05"})
    request["StoppingCondition"]["MaxRuntimeInSeconds"] = 4
    client.create_training_job(**request)
    job = wait_training(client, "slow")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert {metric["MetricName"] for metric in job["FinalMetricDataList"]} == {"val/accuracy", "val/loss"}


def test_end_kills_child_processes(client, tmp_path):
    client.create_training_job(**training_request("fork", {"mode": "forking"}))
    wait_training(client, "fork")
    child = int((tmp_path / "fork/ml/output/data/child").read_text())
    eventually(lambda: not is_running(child))


def test_job_outlives_its_creator(client, tmp_path):
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]);"
        "from tests.launch.local_jobs import make_client;"
        "make_client(sys.argv[2]).create_training_job(**json.loads(sys.argv[3]))"
    )
    request = json.dumps(training_request("alone", {"epochs": "3", "epoch_s": "0.1"}))
    subprocess.run([sys.executable, "-c", code, str(ROOT), str(tmp_path), request], check=True, timeout=120)
    assert wait_training(client, "alone")["TrainingJobStatus"] == "Completed"


def test_killed_supervisor_fails_job_and_ends_training(client, tmp_path):
    client.create_training_job(**training_request("orphan", {"epochs": "1000", "epoch_s": "0.05"}))
    state = eventually(lambda: "metrics" in (found := state_of(tmp_path / "orphan")) and found)
    os.kill(state["supervisor_pid"], signal.SIGKILL)
    job = wait_training(client, "orphan")
    assert job["TrainingJobStatus"] == "Failed"
    assert "the supervisor process died" in job["FailureReason"]
    eventually(lambda: not is_running(state["pid"]))
    assert client.describe_training_job(TrainingJobName="orphan")["TrainingEndTime"] == job["TrainingEndTime"]


def test_boto3_waiter_returns_for_ended_job(client):
    client.create_training_job(**training_request("awaited"))
    client.get_waiter("training_job_completed_or_stopped").wait(
        TrainingJobName="awaited", WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )


def test_pack_model_is_reproducible(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.txt").write_text("1")
    archives = [tmp_path / "packed" / name for name in ("one.tar.gz", "two.tar.gz")]
    for archive in archives:
        pack_model(tmp_path / "model", archive)
        time.sleep(1.1)  # the resolution of times in gzip headers
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as tar:
        assert tar.getnames() == ["weights.txt"]
