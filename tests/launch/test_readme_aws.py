"""The README's commands for AWS, unchanged: each one runs in a separate process, against HTTP endpoints."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.documents import commands
from tests.launch.cloud import BUCKET, EXPLICIT, ROLE, wait_for
from tests.paths import ROOT

LINES = [line for line in commands(ROOT / "docs" / "how-to" / "aws.md") if line.startswith("python -m ")]


def start(line, **options):
    words = shlex.split(line.replace("ROLE_ARN", ROLE).replace("BUCKET", BUCKET))
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *words[1:]], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_readme_has_aws_commands():
    assert len([line for line in LINES if "backend=sagemaker" in line]) >= 6


@pytest.mark.slow
def test_readme_aws_commands_run(aws, tmp_path):
    pytest.importorskip("sagemaker.core", reason="the SageMaker SDK is not installed: pip install -e .[sagemaker]")
    for line in LINES:
        if "launch.local.server" in line:
            continue  # services that run already
        before, began = len(aws.requests), time.time()
        done = start(line)
        output, errors = done.communicate(timeout=120)
        assert done.returncode == 0, (line, output, errors)
        times = [moment - began for moment in aws.times[before:]]
        print(f"{times[0] if times else float('nan'):.1f} s to the first request to SageMaker: {line[:70]}")
    (sweep,) = aws.sent("CreateHyperParameterTuningJob")
    assert sweep["TrainingJobDefinition"]["OutputDataConfig"]["S3OutputPath"].startswith("s3://sagemaker-us-east-1-")
    (training,) = aws.sent("CreateTrainingJob")
    assert training["EnableManagedSpotTraining"] and "epochs=20" in training["HyperParameters"]["overrides"]


def test_sweep_of_killed_launcher_can_be_followed(aws, capfd):
    words = " ".join(map(shlex.quote, ["lr=0.001,0.01", "tuner.max_jobs=2", "name=orphan", *EXPLICIT]))
    launcher = start(f"python -m launch.tune {words}")
    wait_for(lambda: aws.sent("DescribeHyperParameterTuningJob"))
    assert sum(psutil.Process(launcher.pid).cpu_times()[:2]) < 10  # without the SDK
    launcher.send_signal(signal.SIGKILL)
    launcher.communicate()
    again = start("python -m launch.status orphan --follow backend=sagemaker")
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert "sweep orphan: Completed" in output and "train the best" in output
    assert Path("outputs/aws/orphan/results.json").is_file()
    assert "Exception" not in capfd.readouterr().err  # the server survives it too
