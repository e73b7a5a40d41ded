"""`backend=sagemaker` over real HTTP, from the command line to the table, with unmodified boto3 clients."""

import io
import json
import os
import re
import shlex
import signal
import tarfile
import threading
import time

import boto3
import pytest
from botocore.exceptions import ClientError

from dogbreed.errors import UserError
from launch import status, stop, train, tune
from launch.backends.aws.backend import AwsBackend
from launch.spec.limits import check_request
from launch.spec.ownership import owner_tags
from tests.launch.cloud import BUCKET, EXPLICIT, IMAGE, ROLE, interrupt_create, wait_for

SWEEP = ["lr=0.001,0.01", "tuner.max_jobs=2", *EXPLICIT]


def test_sweep_uploads_code_once_and_prints_results_and_cost(aws, capsys):
    assert tune.main([*SWEEP, "name=first", "instance.price_per_hour=3600", "instance.count=1"]) == 0
    printed = capsys.readouterr().out
    assert "AWS, 1 x ml.m5.xlarge a job; at most 4 instance-hours, 14400.00 at 3600 an hour" in printed
    assert re.search(r"billable: 0\.00 instance-hours, [1-9][0-9.]* at 3600 an hour", printed)
    best = shlex.split(printed.partition("train the best: ")[2].splitlines()[0])
    assert best[:4] == ["python", "-m", "launch.train", "from_tuning=first"]
    assert train.main([*best[3:], "dry_run=true"]) == 0  # runs unchanged: it includes role, bucket and image
    (key,) = aws.keys()
    request = aws.sent("CreateHyperParameterTuningJob")[0]
    definition = request["TrainingJobDefinition"]
    assert definition["StaticHyperParameters"]["sagemaker_submit_directory"] == f"s3://{BUCKET}/{key}"
    assert definition["OutputDataConfig"] == {"S3OutputPath": f"s3://{BUCKET}/dogbreed/first"}
    assert (definition["RoleArn"], definition["AlgorithmSpecification"]["TrainingImage"]) == (ROLE, IMAGE)
    body = aws.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        names = archive.getnames()
    assert {
        "run_job.py",
        "requirements.txt",
        "launch/container/entry.py",
        "dogbreed/train.py",
        "conf/train.yaml",
    } <= set(names)
    uploaded = aws.s3.head_object(Bucket=BUCKET, Key=key)["LastModified"]
    assert tune.main([*SWEEP, "name=second"]) == 0
    assert aws.keys() == [key] and aws.s3.head_object(Bucket=BUCKET, Key=key)["LastModified"] == uploaded


def test_train_best_reads_the_sweep_from_aws(aws, capsys):
    assert tune.main([*SWEEP, "name=first", "epochs=7"]) == 0
    capsys.readouterr()
    assert train.main(["from_tuning=first", "name=full", "weight_decay=0.5", *EXPLICIT]) == 0
    request = aws.sent("CreateTrainingJob")[0]
    assert check_request("CreateTrainingJob", request) == []
    fixed = json.loads(request["HyperParameters"]["overrides"])
    assert {"epochs=7", "lr=0.001", "weight_decay=0.5"} <= set(fixed)
    printed = capsys.readouterr().out
    assert "[Training] Training is in progress" in printed and "val/accuracy" in printed
    assert "model: s3://" in printed


def test_ctrl_c_detaches_and_another_terminal_can_follow(aws, capsys, stand_in_does):
    stand_in_does("slow")

    def interrupt():
        wait_for(lambda: aws.sent("ListTrainingJobsForHyperParameterTuningJob"))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert tune.main([*SWEEP, "name=left"]) == 130
    thread.join()
    printed = capsys.readouterr().out
    assert "SIGINT: detached; left keeps running" in printed
    assert "python -m launch.status left --follow backend=sagemaker" in printed
    assert aws.sent("StopHyperParameterTuningJob") == []
    assert status.main(["left", "backend=sagemaker"]) == 0
    assert "InProgress" in capsys.readouterr().out
    assert stop.main(["left", "backend=sagemaker"]) == 0
    assert "left is stopping" in capsys.readouterr().out
    assert status.main(["left", "--follow", "backend=sagemaker"]) in (0, 1)
    assert "sweep left: Stopped" in capsys.readouterr().out
    assert stop.main(["left", "backend=sagemaker"]) == 0
    assert "left has already ended: Stopped" in capsys.readouterr().out


def test_ctrl_c_during_create_request_detaches(aws, capsys, monkeypatch, stand_in_does):
    stand_in_does("slow")
    interrupt_create(monkeypatch, AwsBackend)
    assert tune.main([*SWEEP, "name=left"]) == 130
    assert train.main(["lr=0.1", "name=left-too", *EXPLICIT]) == 130
    printed = capsys.readouterr().out
    for name in ("left", "left-too"):
        assert f"SIGINT: detached; {name} keeps running" in printed
        assert stop.main([name, "backend=sagemaker"]) == 0


@pytest.mark.parametrize(
    ("faults", "reason"), [(["ThrottlingException"] * 3, "ThrottlingException"), ([5.0], "Read timeout")]
)
def test_polling_survives_throttling_and_timeouts(aws, impatient, capsys, faults, reason):
    aws.faults = {"DescribeHyperParameterTuningJob": faults}
    assert tune.main([*SWEEP, "name=slow"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("AWS is not responding") == 1 and printed.count("AWS is responding again") == 1
    assert reason in printed
    assert "sweep slow: Completed" in printed


def test_boto3_retries_throttled_request(aws):
    aws.faults = {"CreateHyperParameterTuningJob": ["ThrottlingException"] * 3}
    assert tune.main([*SWEEP, "name=throttled"]) == 0
    assert len(aws.sent("CreateHyperParameterTuningJob")) == 4


def test_expired_credentials_keep_sweep_and_print_follow_command(aws, stand_in_does):
    stand_in_does("slow")
    aws.faults = {"DescribeHyperParameterTuningJob": [None, "ExpiredTokenException"]}
    with pytest.raises(UserError) as error:
        tune.main([*SWEEP, "name=long"])
    assert "log in again" in str(error.value)
    assert "long keeps running, follow it: python -m launch.status long --follow backend=sagemaker" in str(error.value)
    assert stop.main(["long", "backend=sagemaker"]) == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            (
                "ResourceLimitExceeded",
                "The account-level service limit 'ml.m5.xlarge for training job usage' is 0 Instances.",
            ),
            r"quota 'ml\.m5\.xlarge for training job usage' of Amazon SageMaker in us-east-1 \(https://us-east-1\.",
        ),
        (("ResourceLimitExceeded", "limit reached"), r"quota 'ml\.m5\.xlarge for training job usage'"),
        ("ExpiredTokenException", "the credentials have expired: log in again"),
        ("UnrecognizedClientException", "AWS does not know these credentials"),
        ("AccessDeniedException", "lack this permission"),
        (("ValidationException", "Could not assume role arn"), "trust policy must name sagemaker.amazonaws.com"),
    ],
)
def test_aws_error_message_ends_with_advice(aws, fault, message):
    aws.faults = {"CreateHyperParameterTuningJob": [fault]}
    with pytest.raises(UserError, match=message):
        tune.main([*SWEEP, "name=refused"])


def test_job_failing_at_start_prints_advice(aws, capsys, stand_in_does):
    stand_in_does("out_of_memory")
    assert tune.main([*SWEEP, "name=failing"]) == 1
    printed = capsys.readouterr().out
    assert "a smaller batch_size" in " ".join(printed.split())
    lines, table = printed.split("sweep failing: ")
    assert len(re.findall(r"  as 00[12]$", lines, re.MULTILINE)) == 1 and re.search(r"as 001 *│", table)
    assert "their logs: python -m launch.status failing-001-" in printed
    assert train.main(["lr=0.1", "name=alone", *EXPLICIT]) == 1


def test_shared_failure_reason_is_printed_once(aws, capsys, stand_in_does):
    stand_in_does("out_of_memory_second_first")
    assert tune.main([*SWEEP, "name=failing"]) == 1
    printed = capsys.readouterr().out
    lines, table = printed.split("sweep failing: ")
    assert lines.count("CUDA error: out of memory") == lines.count("  as 002\n") == 1
    assert table.count("CUDA") == 1 and re.search(r"as 001 *│", table)


def test_training_log_is_read_from_cloudwatch(aws, capsys):
    logs = boto3.client("logs")
    group, stream = "/aws/sagemaker/TrainingJobs", "seen/algo-1-1700000000"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    events = [{"timestamp": round(time.time() * 1000) + i, "message": f"line {i} of the job"} for i in range(3)]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)
    assert train.main(["lr=0.1", "name=seen", *EXPLICIT]) == 0
    printed = capsys.readouterr().out
    assert [printed.count(f"line {i} of the job") for i in range(3)] == [1, 1, 1]


def test_learning_curves_need_access_to_logs(aws, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr("launch.views.plots.plot_sweep", lambda sweep, curves, path: drawn.append(curves))

    class Log:
        def read(self):
            return ["metrics epoch=0 val/accuracy=0.25", "metrics epoch=1 val/accuracy=0.5"]

    monkeypatch.setattr(AwsBackend, "logs", lambda self, name: Log())
    assert tune.main([*SWEEP, "name=seen"]) == 0
    assert list(drawn.pop().values()) == [{0: 0.25, 1: 0.5}] * 2
    denied = ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetLogEvents")
    monkeypatch.setattr(Log, "read", lambda self: (_ for _ in ()).throw(denied))
    assert status.main(["seen", "--follow", "backend=sagemaker"]) == 0
    assert drawn == [{}]
    assert "no learning curves and findings" in capsys.readouterr().out


def test_stopped_sweep_is_resumed_with_tags_and_settings(aws, capsys):
    typed = [*SWEEP, "name=tagged", "+backend.tags.team=dogs", "+backend.environment.A=b", "instance.spot=true"]
    assert tune.main(typed) == 0
    capsys.readouterr()
    assert tune.main(["resume=tagged", "tuner.max_jobs=4", "backend=sagemaker", "dry_run=true"]) == 0
    request = json.loads(capsys.readouterr().out)
    assert request["Tags"] == owner_tags("tagged-r2", [{"Key": "team", "Value": "dogs"}])
    first, again = (
        aws.sent("CreateHyperParameterTuningJob")[0]["TrainingJobDefinition"],
        request["TrainingJobDefinition"],
    )
    assert {k: v for k, v in again.items() if k != "OutputDataConfig"} == {
        k: v for k, v in first.items() if k != "OutputDataConfig"
    }
