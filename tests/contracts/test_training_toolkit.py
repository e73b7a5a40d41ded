"""Jobs in SageMaker's training toolkit, started from the uploaded archive as its PyTorch containers start them.

The toolkit conflicts with smdebug and needs a separate environment, named by DOGBREED_TOOLKIT:

    python -m venv /tmp/toolkit && /tmp/toolkit/bin/pip install -r tests/contracts/training-toolkit.txt
    DOGBREED_TOOLKIT=/tmp/toolkit python -m pytest tests/contracts/test_training_toolkit.py
"""

import os
import re
import signal
import subprocess
import sysconfig
import tarfile
import time
from pathlib import Path

import pytest

from launch.backends.aws.source_archive import code_archive
from launch.local.job_store import read_json
from tests.launch.cloud import BUCKET, wait_for, written
from tests.launch.job_container import NAME, kill_started, make_job, results, start, steps


@pytest.fixture(autouse=True)
def no_process_left():
    yield
    kill_started()


@pytest.fixture
def toolkit():
    """The command that starts a job in the toolkit's environment, which also sees the packages of this one."""
    folder = os.environ.get("DOGBREED_TOOLKIT")
    if not folder:
        pytest.skip(
            "DOGBREED_TOOLKIT does not name an environment with sagemaker-training; see the docstring of this file"
        )
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


IMAGE_ENVIRONMENT = {"SM_STUDIO_LOCAL_MODE": "true", "PYTHONPATH": ""}
"""The first skips the toolkit's wait for the host name; the second keeps the checkout off the path."""


def test_toolkit_runs_trial_from_uploaded_archive(tmp_path, toolkit, uploaded):
    overrides = ["epochs=2", "+model.kwargs.global_pool='avg'", "data.bad_images=raise", "scheduler=none"]
    ml = make_job(tmp_path, *overrides, code_uri=uploaded)
    assert start(ml, *toolkit, **IMAGE_ENVIRONMENT).wait(400) == 0, written(ml / "log.txt")
    assert (ml / "output" / "success").exists() and not (ml / "output" / "failure").exists()
    assert "lr: 0.0012345678901234567" in (ml / "output" / "data" / "config.yaml").read_text()
    log = written(ml / "log.txt")
    definitions = read_json(ml / "input" / "config" / "hyperparameters.json")
    assert "sagemaker_program" in definitions
    assert re.search(r"^metrics epoch=1 .*val/accuracy=[0-9.]+", log, re.MULTILINE)
    assert str(ml / "code") in log or (ml / "code" / "launch" / "container" / "entry.py").is_file()
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as archive:
        archive.add(ml / "model", "model")
    assert (ml / "model" / "model.safetensors").stat().st_size > 10_000


def test_toolkit_failed_job_reports_our_reason(tmp_path, toolkit, uploaded):
    ml = make_job(tmp_path, "data=s3", "data.url=s3://nosuchbucket/dogs", code_uri=uploaded)
    assert start(ml, *toolkit, **IMAGE_ENVIRONMENT).wait(400) != 0
    reason = (ml / "output" / "failure").read_text()
    assert "nosuchbucket" in reason and "\n" not in reason, reason


def test_toolkit_stopped_job_leaves_checkpoint(tmp_path, toolkit, uploaded):
    ml = make_job(tmp_path, "epochs=500", code_uri=uploaded)
    process = start(ml, *toolkit, **IMAGE_ENVIRONMENT)
    wait_for(lambda: "metrics epoch=1 " in written(ml / "log.txt"), 200)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(120)
    wait_for((ml / "checkpoints" / NAME / "last.ckpt").is_file, 60)


def test_toolkit_lost_machine_resumes_from_last_checkpoint(tmp_path, toolkit, uploaded):
    """The toolkit is process 1 of its container and forwards no signal, so only the last checkpoint counts."""
    overrides = ["data.url='demo://?classes=2&train=1200&valid=4&test=4&size=32'", "epochs=1", "checkpoint_s=1"]
    ml = make_job(tmp_path, *overrides, code_uri=uploaded)
    container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *toolkit]
    if subprocess.run([*container[:5], "true"], capture_output=True, check=False).returncode:
        pytest.skip("a process namespace needs root")
    process = start(ml, *container, **IMAGE_ENVIRONMENT)
    last = ml / "checkpoints" / NAME / "last.ckpt"
    wait_for(last.is_file, 200)
    (init,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(init), signal.SIGTERM)
    written_at = last.stat().st_mtime
    wait_for(lambda: last.stat().st_mtime > written_at, 30)  # the signal has no effect, the training continues
    process.kill()
    process.wait()
    lost_s = time.time() - last.stat().st_mtime
    assert 0 < steps(ml) < 600 and lost_s < 10
    again = start(ml, *toolkit, log="again.txt", **IMAGE_ENVIRONMENT)
    assert again.wait(400) == 0, written(ml / "again.txt")
    assert results(ml)["steps"] == 600


@pytest.mark.parametrize("mode", ["FastFile", "File"])
def test_toolkit_input_modes_deliver_images(tmp_path, toolkit, uploaded, write_images, mode):
    write_images(tmp_path / "dogs", {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in "ab"})
    overrides = [
        "data=s3",
        "data.url=s3://local/dogs",
        f"backend.input_mode={mode}",
        "epochs=1",
        "model.weights=random",
    ]
    ml = make_job(tmp_path, *overrides, code_uri=uploaded)
    assert start(ml, *toolkit, **IMAGE_ENVIRONMENT).wait(400) == 0, written(ml / "log.txt")
    assert read_json(ml / "input" / "config" / "inputdataconfig.json")["data"]["TrainingInputMode"] == mode
    assert results(ml)["data"] == str(ml / "input" / "data" / "data")


def test_toolkit_four_gpus_start_four_processes(tmp_path, toolkit, uploaded):
    overrides = ["trainer=auto", "instance=gpu", "instance.type=ml.g5.12xlarge", "epochs=1"]
    ml = make_job(tmp_path, *overrides, code_uri=uploaded)
    smi = tmp_path / "bin" / "nvidia-smi"  # the toolkit counts GPUs with it; the processes train on the CPU
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\nfor n in 0 1 2 3; do echo GPU $n: NVIDIA A10G; done\n")
    smi.chmod(0o755)
    path = f"{smi.parent}:{os.environ['PATH']}"
    assert start(ml, *toolkit, PATH=path, **IMAGE_ENVIRONMENT).wait(400) == 0, written(ml / "log.txt")
    log = written(ml / "log.txt")
    assert "SM_NUM_GPUS=4" in log
    assert results(ml)["steps"] == 2  # 32 images, 4 per process and step


def test_toolkit_two_hosts_train_one_model(tmp_path, toolkit, uploaded):
    hosts = ("127.0.0.1", "127.0.0.2")
    jobs = [make_job(tmp_path / h, "epochs=1", hosts=hosts, host=h, code_uri=uploaded) for h in hosts]
    running = [start(ml, *toolkit, **IMAGE_ENVIRONMENT) for ml in jobs]
    assert [process.wait(400) for process in running] == [0, 0], [written(ml / "log.txt") for ml in jobs]
    assert (jobs[0] / "model" / "model.json").is_file() and not (jobs[1] / "model" / "model.json").exists()
