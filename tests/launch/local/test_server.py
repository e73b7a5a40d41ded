"""A plain boto3 client in another process drives LocalSageMaker over HTTP; so does the SageMaker SDK."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress

import pytest

from launch import tune
from launch.local import server
from tests.launch.cloud import EXPLICIT

BOTO = """
import boto3, json, sys, time
client = boto3.client("sagemaker")
client.create_hyper_parameter_tuning_job(**json.loads(sys.argv[1]))
while True:
    job = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="wired")
    if job["HyperParameterTuningJobStatus"] != "InProgress":
        break
    time.sleep(0.2)
since = job["CreationTime"]
listed = client.list_hyper_parameter_tuning_jobs(CreationTimeAfter=since.replace(year=2020))
early = client.list_hyper_parameter_tuning_jobs(CreationTimeBefore=since.replace(year=2020))
best = client.describe_training_job(TrainingJobName=job["BestTrainingJob"]["TrainingJobName"])
try:
    client.describe_training_job(TrainingJobName="nosuch")
except client.exceptions.ResourceNotFound as error:
    missing = str(error)
print(json.dumps([job["HyperParameterTuningJobStatus"], type(since).__name__, best["TrainingJobStatus"],
    len(listed["HyperParameterTuningJobSummaries"]), len(early["HyperParameterTuningJobSummaries"]), missing]))
"""
SDK = """
import json, sys
from sagemaker.core.resources import HyperParameterTuningJob, TrainingJob
job = HyperParameterTuningJob.get("wired", region="us-east-1")
trials = [t.training_job_name for t in job.get_all_training_jobs()]
best = TrainingJob.get(job.best_training_job.training_job_name, region="us-east-1")
print(json.dumps([job.hyper_parameter_tuning_job_status, len(trials), best.training_job_status,
    best.final_metric_data_list[0].metric_name]))
"""


def request(capsys):
    assert tune.main(["lr=0.001,0.01", "name=wired", *EXPLICIT, "dry_run=true"]) == 0
    return capsys.readouterr().out


def run(code, *words):
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_boto3_creates_polls_and_lists_over_http(aws, capsys):
    status, time_type, best, listed, early, missing = run(BOTO, request(capsys))
    assert (status, time_type, best, listed, early) == ("Completed", "datetime", "Completed", 1, 0)
    assert "ResourceNotFound" in missing and "nosuch" in missing


@pytest.mark.slow
def test_sagemaker_sdk_reads_sweep_over_http(aws, capsys):
    pytest.importorskip("sagemaker.core", reason="the SageMaker SDK is not installed: pip install -e .[sagemaker]")
    run(BOTO, request(capsys))
    assert run(SDK) == ["Completed", 2, "Completed", "val/accuracy"]


@pytest.mark.parametrize(
    ("target", "body", "code"),
    [
        ("SageMaker.Dance", "{}", "UnknownOperationException"),
        ("", "{}", "UnknownOperationException"),
        ("SageMaker.DescribeTrainingJob", "{", "SerializationException"),
        ("SageMaker.DescribeTrainingJob", "{}", "ValidationException"),
        ("SageMaker.CreateEndpoint", '{"EndpointName":"a","EndpointConfigName":"b"}', "ValidationException"),
    ],
)
def test_invalid_request_is_answered_like_aws(aws, target, body, code):
    asked = urllib.request.Request(aws.url, body.encode(), {"X-Amz-Target": target})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(asked)
    assert error.value.code == 400
    assert json.loads(error.value.read())["__type"] == code


def post(url, body=b"{}", **headers):
    """Returns the status of a request without a known operation: 400 if it reaches the service."""
    request = urllib.request.Request(url, body, headers)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    return error.value.code


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"Host": "localhost:8383"}, 400),
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example:8383"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:8383"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_requests_of_web_pages_are_rejected(aws, headers, status):
    assert post(aws.url, **headers) == status
    assert aws.requests == []


@pytest.mark.parametrize("length", ["-1", "x", "100000000000"])
def test_body_length_is_limited(aws, length):
    host, port = aws.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode())
        if length.isdigit():
            with suppress(ConnectionError):
                for _ in range(64):
                    connection.sendall(bytes(1 << 20))
        answer = connection.recv(100)
    assert answer.split()[1] in (b"400", b"413")


def test_command_serves_until_interrupted(tmp_path):
    command = [sys.executable, "-m", "launch.local.server", f"root={tmp_path}", "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = re.search(r"AWS_ENDPOINT_URL_SAGEMAKER=(\S+)", process.stdout.readline())[1]
        environ = os.environ | {
            "AWS_ENDPOINT_URL_SAGEMAKER": url, "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        }  # fmt: skip
        look = [sys.executable, "-m", "launch.status", "backend=sagemaker"]
        done = subprocess.run(look, env=environ, capture_output=True, text=True, check=False)
        process.send_signal(2)
    assert "nothing yet" in done.stdout, done.stderr
    assert process.returncode == 0


@pytest.mark.parametrize("word", ["rot=x", "port=http"])
def test_unknown_argument_is_a_user_error(word):
    from dogbreed.errors import UserError

    with pytest.raises(UserError, match=word.split("=")[0]):
        server.main([word])
