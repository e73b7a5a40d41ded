"""Requests, clients and waiting for the tests of launch.local."""

import json
import sys
import time
from pathlib import Path

import psutil

from dogbreed.objective import metric_regex
from launch.local import local_client
from launch.shapes import check_shape

PROGRAM = (sys.executable, str(Path(__file__).with_name("local_program.py")))
ROLE = "arn:aws:iam::000000000000:role/this-machine"
METRICS = [{"Name": name, "Regex": metric_regex(name)} for name in ("val/accuracy", "val/loss")]
ENDED = {"Completed", "Failed", "Stopped"}


def make_client(root, command=PROGRAM, stop_grace_s=5.0, **options):
    """Returns a local client that checks each of its answers against the shape of the operation's output."""
    client = local_client(Path(root), command, stop_grace_s, **options)

    def check(model, parsed, **_):
        if "Error" not in parsed:
            answer = {key: value for key, value in parsed.items() if key != "ResponseMetadata"}
            assert model.output_shape is None or check_shape(model.output_shape, answer) == []

    client.meta.events.register("after-call.sagemaker", check)
    return client


def job_fields(**changes):
    """Returns what the requests of training jobs and the definitions of tuning jobs share."""
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


def eventually(condition, seconds=20.0):
    """Returns the first true value of `condition()`; fails when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {condition}")


def wait_training(client, name, seconds=20.0):
    """Returns the description of a training job once it has ended."""

    def ended():
        job = client.describe_training_job(TrainingJobName=name)
        return job if job["TrainingJobStatus"] in ENDED else None

    return eventually(ended, seconds)


def wait_tuning(client, name, seconds=30.0):
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
    """Returns whether the process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
