"""Jobs as SageMaker's container starts them: from the uploaded archive, by the real training toolkit, on two hosts.

The toolkit conflicts with smdebug, so it has an environment of its own, named by DOGBREED_TOOLKIT:

    python -m venv /tmp/toolkit && /tmp/toolkit/bin/pip install sagemaker-training==5.1.4
    DOGBREED_TOOLKIT=/tmp/toolkit python -m pytest tests/launch/container/test_container.py
"""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from launch.backends.aws.source_archive import code_archive
from launch.local.job_store import read_json, write_json
from launch.local.jobs.container import prepare_ml
from launch.local.tuning.trials import trial_request
from launch.spec.requests.training import JobTarget
from launch.spec.requests.tuning import tuning_request
from tests.launch.cloud import BUCKET, EXPLICIT, wait_for, written
from tests.launch.plans import plan_of
from tests.paths import ROOT

SMALL = [
    "model=timm", "model.name=test_resnet", "trainer=cpu", "batch_size=4",
    "data.url='demo://?classes=2&train=16&valid=4&test=4&size=32'",
]  # fmt: skip
NAME = "sweep-001-0a1b2c3d"
STARTED: list[subprocess.Popen] = []


def make_job(folder, *typed, point=None, code_uri=None, hosts=("algo-1",), host="algo-1"):
    """Makes what the container of a sweep's first trial finds; returns its `/opt/ml`."""
    plan = plan_of([*SMALL, "lr=tag(log,interval(1e-4,1e-1))", "name=sweep", *EXPLICIT, *typed])
    site = JobTarget(
        "arn:aws:iam::123456789012:role/jobs", "image", f"s3://{BUCKET}/p", region="us-east-1", code_uri=code_uri
    )
    request = trial_request(tuning_request(plan, site), NAME, point or {"lr": "0.0012345678901234567"})
    ml = prepare_ml(folder, request, folder)
    config = ml / "input" / "config" / "resourceconfig.json"
    write_json(config, read_json(config) | {"hosts": list(hosts), "current_host": host})
    return ml


def environment(ml, hosts=("algo-1",), host="algo-1", **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SM_", "SAGEMAKER_"))}
    return kept | {
        "SAGEMAKER_BASE_DIR": str(ml), "TRAINING_JOB_NAME": NAME, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
        "SM_HOSTS": json.dumps(list(hosts)), "SM_CURRENT_HOST": host, "SM_NUM_GPUS": "0", "PYTHONPATH": str(ROOT),
    } | more  # fmt: skip


def start(ml, *command, log="log.txt", **more):
    with (ml / log).open("wb") as file:
        STARTED.append(subprocess.Popen(
            command or [sys.executable, "-m", "launch.container.entry"],
            env=environment(ml, **more), stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        ))  # fmt: skip
    return STARTED[-1]


@pytest.fixture(autouse=True)
def nothing_outlives_a_test():
    yield
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


SLOWLY = """
import sys, time
from dogbreed.models.classifier import ImageClassifier
from launch import entry
step = ImageClassifier.training_step
ImageClassifier.training_step = lambda *a: (time.sleep(0.2), step(*a))[1]
sys.exit(entry.main())
"""
"""Runs the job with 0.2 s a step more, so that a signal falls into the middle of an epoch."""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["told", "taken away at once"])
def test_a_spot_instance_taken_away_in_mid_epoch_costs_no_step_and_adds_none(tmp_path, number):
    typed = ["epochs=3", "batch_size=2"]
    whole = make_job(tmp_path / "whole", *typed)
    assert start(whole).wait(300) == 0, written(whole / "log.txt")
    broken = make_job(tmp_path / "broken", *typed)
    first = start(broken, sys.executable, "-c", SLOWLY)
    wait_for(lambda: "epoch=0" in written(broken / "log.txt"), 120)
    time.sleep(1)  # some steps into the second epoch
    first.send_signal(number)
    assert first.wait(120) != 0
    if number == signal.SIGTERM:
        assert 16 < steps(broken) < 32  # it is the middle of the second epoch that is gone on with
    assert start(broken, log="again.txt").wait(300) == 0, written(broken / "again.txt")
    assert results(broken)["steps"] == results(whole)["steps"] == 3 * 16
    assert results(broken)["test"].keys() == results(whole)["test"].keys()


@pytest.mark.slow
def test_two_hosts_train_one_model_together(tmp_path):
    hosts = ("127.0.0.1", "127.0.0.2")
    jobs = [make_job(tmp_path / host, "epochs=1", hosts=hosts, host=host) for host in hosts]
    running = [
        start(ml, SM_HOSTS=json.dumps(hosts), SM_CURRENT_HOST=host) for ml, host in zip(jobs, hosts, strict=True)
    ]
    assert [process.wait(300) for process in running] == [0, 0], [written(ml / "log.txt") for ml in jobs]
    assert len(re.findall(r"^metrics epoch=0", written(jobs[0] / "log.txt"), re.MULTILINE)) >= 1
    assert "metrics epoch" not in written(jobs[1] / "log.txt")
    assert (jobs[0] / "model" / "model.json").is_file() and not (jobs[1] / "model" / "model.json").exists()


@pytest.fixture
def toolkit():
    """The command that starts a job in the toolkit's own environment, which sees our packages behind its own."""
    folder = os.environ.get("DOGBREED_TOOLKIT")
    if not folder:
        pytest.skip("DOGBREED_TOOLKIT names no environment with sagemaker-training; see the head of this file")
    python = Path(folder) / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], capture_output=True, check=True
    )
    (Path(site.stdout.decode().strip()) / "dogbreed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return [str(python), "-m", "sagemaker_training.cli.train"]


@pytest.fixture
def uploaded(aws):
    key = "dogbreed/code/0123/sourcedir.tar.gz"
    aws.s3.put_object(Bucket=BUCKET, Key=key, Body=code_archive())
    return f"s3://{BUCKET}/{key}"


LIKE_IN_THE_IMAGE = {"SM_STUDIO_LOCAL_MODE": "true", "PYTHONPATH": ""}
"""The first spares the toolkit the wait for the host's name; nothing of the checkout is on the path."""


@pytest.mark.slow
def test_the_real_toolkit_runs_a_trial_from_the_uploaded_archive(tmp_path, toolkit, uploaded):
    typed = ["epochs=2", "+model.kwargs.global_pool='avg'", "data.bad_images=raise", "scheduler=none"]
    ml = make_job(tmp_path, *typed, code_uri=uploaded)
    assert start(ml, *toolkit, **LIKE_IN_THE_IMAGE).wait(400) == 0, written(ml / "log.txt")
    assert (ml / "output" / "success").exists() and not (ml / "output" / "failure").exists()
    assert "lr: 0.0012345678901234567" in (ml / "output" / "data" / "config.yaml").read_text()
    log = written(ml / "log.txt")
    definitions = read_json(ml / "input" / "config" / "hyperparameters.json")
    assert "sagemaker_program" in definitions
    assert re.search(r"^metrics epoch=1 .*val/accuracy=[0-9.]+", log, re.MULTILINE)
    assert str(ml / "code") in log or (ml / "code" / "launch" / "entry.py").is_file()
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as archive:
        archive.add(ml / "model", "model")
    assert (ml / "model" / "model.safetensors").stat().st_size > 10_000


@pytest.mark.slow
def test_the_real_toolkit_reports_our_own_reason_of_a_failure(tmp_path, toolkit, uploaded):
    ml = make_job(tmp_path, "data=s3", "data.url=s3://nosuchbucket/dogs", code_uri=uploaded)
    assert start(ml, *toolkit, **LIKE_IN_THE_IMAGE).wait(400) != 0
    reason = (ml / "output" / "failure").read_text()
    assert "nosuchbucket" in reason and "\n" not in reason, reason


@pytest.mark.slow
def test_a_stop_under_the_real_toolkit_leaves_a_checkpoint(tmp_path, toolkit, uploaded):
    ml = make_job(tmp_path, "epochs=500", code_uri=uploaded)
    process = start(ml, *toolkit, **LIKE_IN_THE_IMAGE)
    wait_for(lambda: "metrics epoch=1 " in written(ml / "log.txt"), 200)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(120)
    wait_for((ml / "checkpoints" / NAME / "last.ckpt").is_file, 60)


@pytest.mark.slow
def test_a_machine_taken_away_under_the_real_toolkit_costs_seconds_and_no_step(tmp_path, toolkit, uploaded):
    """The toolkit is process 1 of its container and hands no signal on: what counts is the last checkpoint."""
    typed = ["data.url='demo://?classes=2&train=1200&valid=4&test=4&size=32'", "epochs=1", "checkpoint_s=1"]
    ml = make_job(tmp_path, *typed, code_uri=uploaded)
    container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *toolkit]
    if subprocess.run([*container[:5], "true"], capture_output=True, check=False).returncode:
        pytest.skip("a process namespace needs root")
    process = start(ml, *container, **LIKE_IN_THE_IMAGE)
    last = ml / "checkpoints" / NAME / "last.ckpt"
    wait_for(last.is_file, 200)
    (init,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(init), signal.SIGTERM)
    written_at = last.stat().st_mtime
    wait_for(lambda: last.stat().st_mtime > written_at, 30)  # the signal changed nothing, the training goes on
    process.kill()
    process.wait()
    lost_s = time.time() - last.stat().st_mtime
    assert 0 < steps(ml) < 600 and lost_s < 10
    again = start(ml, *toolkit, log="again.txt", **LIKE_IN_THE_IMAGE)
    assert again.wait(400) == 0, written(ml / "again.txt")
    assert results(ml)["steps"] == 600


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["FastFile", "File"])
def test_the_real_toolkit_hands_over_images_that_sagemaker_brought(tmp_path, toolkit, uploaded, write_images, mode):
    write_images(tmp_path / "dogs", {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in "ab"})
    typed = ["data=s3", "data.url=s3://local/dogs", f"backend.input_mode={mode}", "epochs=1", "model.weights=random"]
    ml = make_job(tmp_path, *typed, code_uri=uploaded)
    assert start(ml, *toolkit, **LIKE_IN_THE_IMAGE).wait(400) == 0, written(ml / "log.txt")
    assert read_json(ml / "input" / "config" / "inputdataconfig.json")["data"]["TrainingInputMode"] == mode
    assert results(ml)["data"] == str(ml / "input" / "data" / "data")


@pytest.mark.slow
def test_four_gpus_are_four_processes_under_the_real_toolkit(tmp_path, toolkit, uploaded):
    typed = ["trainer=auto", "instance=gpu", "instance.type=ml.g5.12xlarge", "epochs=1"]
    ml = make_job(tmp_path, *typed, code_uri=uploaded)
    smi = tmp_path / "bin" / "nvidia-smi"  # how the toolkit counts them; the processes then train on the processor
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\nfor n in 0 1 2 3; do echo GPU $n: NVIDIA A10G; done\n")
    smi.chmod(0o755)
    path = f"{smi.parent}:{os.environ['PATH']}"
    assert start(ml, *toolkit, PATH=path, **LIKE_IN_THE_IMAGE).wait(400) == 0, written(ml / "log.txt")
    log = written(ml / "log.txt")
    assert "SM_NUM_GPUS=4" in log
    assert results(ml)["steps"] == 2  # 32 images, 4 to each process and step


@pytest.mark.slow
def test_two_hosts_under_the_real_toolkit(tmp_path, toolkit, uploaded):
    hosts = ("127.0.0.1", "127.0.0.2")
    jobs = [make_job(tmp_path / h, "epochs=1", hosts=hosts, host=h, code_uri=uploaded) for h in hosts]
    running = [start(ml, *toolkit, **LIKE_IN_THE_IMAGE) for ml in jobs]
    assert [process.wait(400) for process in running] == [0, 0], [written(ml / "log.txt") for ml in jobs]
    assert (jobs[0] / "model" / "model.json").is_file() and not (jobs[1] / "model" / "model.json").exists()
