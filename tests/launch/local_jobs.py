"""Requests, clients and polling for the tests of launch.local."""

import datetime as dt
import io
import json
import os
import signal
import sys
import tarfile
import time
from pathlib import Path

import psutil

from dogbreed.callbacks.metric_line import metric_regex
from launch.local.api.boto_client import local_client
from launch.local.job_store import LOG, TRAINING, TUNER_LOG, TUNING, create_folder, new_state
from launch.spec.service_model import check_shape

PROGRAM = (sys.executable, str(Path(__file__).with_name("local_program.py")))
ROLE = "arn:aws:iam::000000000000:role/this-machine"
METRICS = [{"Name": name, "Regex": metric_regex(name)} for name in ("val/accuracy", "val/loss")]
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc).timestamp()
SERVE = (sys.executable, str(Path(__file__).with_name("local_server.py")))
ENDED = {"Completed", "Failed", "Stopped"}


def make_client(root, command=PROGRAM, stop_grace_s=5.0, **options):
    """Returns a local client that validates each response against the operation's output shape."""
    client = local_client(Path(root), command, stop_grace_s, **options)

    def check(model, parsed, **_):
        if "Error" not in parsed:
            answer = {key: value for key, value in parsed.items() if key != "ResponseMetadata"}
            assert model.output_shape is None or check_shape(model.output_shape, answer) == []

    client.meta.events.register("after-call.sagemaker", check)
    return client


def job_fields(**changes):
    """Returns the fields that training job requests and tuning job definitions share."""
    return {
        "AlgorithmSpecification": {
            "TrainingImage": "dogbreed",
            "TrainingInputMode": "File",
            "MetricDefinitions": METRICS,
        },
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": "s3://local"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 100},
        **changes,
    }


def training_request(name, hyperparameters=None, **changes):
    return {"TrainingJobName": name, "HyperParameters": hyperparameters or {}, **job_fields(**changes)}


def tuning_request(name, *, ranges=None, strategy="Random", jobs=4, parallel=2, static=None, seed=0, **config):
    """Returns the request of a tuning job; `config` goes into its HyperParameterTuningJobConfig."""
    limits = {"MaxNumberOfTrainingJobs": jobs, "MaxParallelTrainingJobs": parallel}
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": strategy,
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "val/accuracy"},
            "ResourceLimits": limits,
            "ParameterRanges": ranges
            or {"ContinuousParameterRanges": [continuous("lr", "0.001", "0.1", "Logarithmic")]},
            "RandomSeed": seed,
            **config,
        },
        "TrainingJobDefinition": job_fields(StaticHyperParameters=static or {}),
    }


def continuous(name, low, high, scaling="Auto"):
    return {"Name": name, "MinValue": low, "MaxValue": high, "ScalingType": scaling}


def categorical(name, *values):
    return {"CategoricalParameterRanges": [{"Name": name, "Values": list(values)}]}


def warm_start(*parents):
    return {
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": name} for name in parents],
        "WarmStartType": "IdenticalDataAndAlgorithm",
    }


def put_training(folder, status="Completed", created=NOON, tuned=None, objective=None):
    """Creates the folder of an ended training job."""
    state = new_state(TRAINING, folder.name, ["true"], 1.0)
    state |= {"status": status, "secondary": status, "created": created, "modified": created, "ended": created}
    if tuned is not None:
        state |= {"tuned": tuned, "tuning_job": folder.parent.name}
    if objective is not None:
        state["metrics"] = {"val/accuracy": [objective, created]}
    os.close(create_folder(folder, training_request(folder.name), state, LOG))


def put_tuning(folder, status="Completed", created=NOON, objectives=()):
    """Creates the folder of an ended tuning job, with a training job for each of `objectives`."""
    state = new_state(TUNING, folder.name, ["true"], 1.0)
    state |= {"status": status, "created": created, "modified": created, "ended": created}
    os.close(create_folder(folder, tuning_request(folder.name), state, TUNER_LOG))
    for number, objective in enumerate(objectives, start=1):
        trial = folder / f"{folder.name}-{number:03d}-0000000{number}"
        put_training(trial, "Failed" if objective is None else "Completed", created, {"lr": str(number)}, objective)


def pack_model(folder, **card):
    """Writes the model.tar.gz of a training into its folder; returns its URL."""
    path = folder / "output" / "model.tar.gz"
    path.parent.mkdir(parents=True)
    content = json.dumps(card).encode()
    entry = tarfile.TarInfo("model.json")
    entry.size = len(content)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(entry, io.BytesIO(content))
    return f"s3://local/{folder.name}/output/model.tar.gz"


def end_endpoints(root):
    """Kills all endpoint processes below `root`."""
    for state in (state_of(path.parent) for path in Path(root).glob("endpoints/*/state.json")):
        for pid in (state.get("supervisor_pid"), state.get("pid")):
            if pid and is_running(pid):
                os.kill(pid, signal.SIGKILL)


def eventually(condition, seconds=120.0):
    """Polls `condition()` and returns its first true value; fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {condition}")


def wait_training(client, name, seconds=120.0):
    """Returns the description of a training job once it has ended."""

    def ended():
        job = client.describe_training_job(TrainingJobName=name)
        return job if job["TrainingJobStatus"] in ENDED else None

    return eventually(ended, seconds)


def wait_tuning(client, name, seconds=120.0):
    """Returns the description of a tuning job once it has ended."""

    def ended():
        job = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        return job if job["HyperParameterTuningJobStatus"] in ENDED else None

    return eventually(ended, seconds)


def run_tuning(client, request, **more):
    """Starts a tuning job and returns its description once it has ended."""
    client.create_hyper_parameter_tuning_job(**request, **more)
    return wait_tuning(client, request["HyperParameterTuningJobName"])


def trials(client, name):
    """Returns the summaries of a tuning job's training jobs, by name."""
    pages = client.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    return [job for page in pages.paginate(HyperParameterTuningJobName=name) for job in page["TrainingJobSummaries"]]


def points(client, name):
    return [trial["TunedHyperParameters"] for trial in trials(client, name)]


def state_of(folder):
    path = Path(folder) / "state.json"
    return json.loads(path.read_text()) if path.exists() else {}


def is_running(pid):
    """Returns whether the process exists and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
