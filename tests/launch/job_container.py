"""Training jobs started as in SageMaker's container: files under `/opt/ml`, environment variables and a command."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

from launch.local.job_store import read_json, write_json
from launch.local.jobs.container import prepare_ml
from launch.local.tuning.trials import trial_request
from launch.spec.requests.training import Target
from launch.spec.requests.tuning import tuning_request
from tests.launch.cloud import BUCKET, EXPLICIT
from tests.launch.plans import plan_of
from tests.paths import ROOT

SMALL = [
    "model=timm", "model.name=test_resnet", "trainer=cpu", "batch_size=4",
    "data.url='demo://?classes=2&train=16&valid=4&test=4&size=32'",
]  # fmt: skip
NAME = "sweep-001-0a1b2c3d"
STARTED: list[subprocess.Popen] = []


def make_job(folder, *overrides, point=None, code_uri=None, hosts=("algo-1",), host="algo-1"):
    """Writes the files that the container of a sweep's first trial gets; returns its `/opt/ml`."""
    plan = plan_of([*SMALL, "lr=tag(log,interval(1e-4,1e-1))", "name=sweep", *EXPLICIT, *overrides])
    target = Target(
        "arn:aws:iam::123456789012:role/jobs", "image", f"s3://{BUCKET}/p", region="us-east-1", code_uri=code_uri
    )
    request = trial_request(tuning_request(plan, target), NAME, point or {"lr": "0.0012345678901234567"})
    ml = prepare_ml(folder, request, folder)
    config = ml / "input" / "config" / "resourceconfig.json"
    write_json(config, read_json(config) | {"hosts": list(hosts), "current_host": host})
    return ml


def _environment(ml, hosts=("algo-1",), host="algo-1", **more):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SM_", "SAGEMAKER_"))}
    return inherited | {
        "SAGEMAKER_BASE_DIR": str(ml), "TRAINING_JOB_NAME": NAME, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
        "SM_HOSTS": json.dumps(list(hosts)), "SM_CURRENT_HOST": host, "SM_NUM_GPUS": "0", "PYTHONPATH": str(ROOT),
    } | more  # fmt: skip


def start(ml, *command, log="log.txt", **more):
    """Starts the job, or `command`, with its output in the file `log` of `ml`; `more` are environment variables."""
    with (ml / log).open("wb") as file:
        STARTED.append(subprocess.Popen(
            command or [sys.executable, "-m", "launch.container.entry"],
            env=_environment(ml, **more), stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        ))  # fmt: skip
    return STARTED[-1]


def kill_started():
    """Kills every process that `start` has started."""
    while STARTED:
        with suppress(ProcessLookupError):
            os.killpg(STARTED.pop().pid, signal.SIGKILL)


def results(ml):
    return json.loads((ml / "output" / "data" / "results.json").read_text())


def steps(ml):
    """Returns the number of optimizer steps that the last checkpoint has seen."""
    import torch

    last = ml / "checkpoints" / NAME / "last.ckpt"
    return torch.load(last, weights_only=False)["global_step"]
