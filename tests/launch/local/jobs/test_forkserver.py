"""Warm processes: started by a server, and otherwise like any other process of a job."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from launch import tune
from launch.local import local_client
from launch.local.job_store import write_json
from launch.local.jobs import process as processes
from tests.launch.local_jobs import eventually, state_of, trials, tuning_request, wait_tuning

DEMO = "demo://?classes=3&train=8&valid=4&test=4&size=32"
FIXED = [
    "model=timm", "model.name=test_resnet", f"data.url='{DEMO}'", "data.augment=false", "finetune=head",
    "trainer=cpu", "epochs=1", "debugger=off",
]  # fmt: skip


def wait_until_gone(address):
    """The server's folder is the last that it takes away."""
    deadline = time.monotonic() + 120
    while Path(address).parent.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server():
    started = processes.WarmServer.start(processes.ENTRY, {})
    yield started
    started.close()
    wait_until_gone(started.address)


@pytest.fixture
def start(server, tmp_path):
    """Starts the process of a job whose fixed overrides are given; returns it and its log."""

    def start(name, *overrides):
        ml = tmp_path / name
        (ml / "input/config").mkdir(parents=True)
        fixed = json.dumps([*FIXED, *overrides])
        write_json(ml / "input/config/hyperparameters.json", {"overrides": fixed})
        environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(ml), "TRAINING_JOB_NAME": name, "OMP_NUM_THREADS": "1"}
        log = ml / "log.txt"
        log.write_text("before\n")
        process = processes.start_process(
            server.address, processes.ENTRY, log, {**environment, "DOGBREED_FEATURES": str(tmp_path / "features")}
        )
        assert isinstance(process, processes.WarmProcess)
        return process, log

    return start


def test_a_warm_job_is_like_any_other_and_quick(start, tmp_path):
    start("first")[0].wait(60)
    began = time.monotonic()
    process, log = start("second")
    assert process.wait(60) == process.returncode == 0
    taken = time.monotonic() - began
    written = log.read_text()
    assert written.startswith("before\n") and "metrics epoch=0" in written and "second: test_resnet" in written
    assert (tmp_path / "second/model").exists()
    assert taken < 20  # of a busy machine; 1 s alone


def test_mistakes_crashes_and_signals_are_those_of_one_process(server, start):
    failed, log = start("failed", "nosuch=1")
    stopped, stopped_log = start("stopped", "epochs=5000")
    killed, _ = start("killed", "epochs=5000")
    assert os.getpgid(stopped.pid) == os.getsid(stopped.pid) == stopped.pid
    assert stopped.returncode is None
    with pytest.raises(subprocess.TimeoutExpired):
        stopped.wait(0.01)
    assert failed.wait(60) == 1
    assert "key 'nosuch' is unknown" in log.read_text()
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    while "metrics epoch=0" not in stopped_log.read_text():
        time.sleep(0.05)
    os.killpg(stopped.pid, signal.SIGTERM)
    assert stopped.wait(60) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in stopped_log.read_text()
    assert start("after")[0].wait(60) == 0


def test_who_is_gone_before_the_answer_gets_no_process_and_no_second_server(server, start):
    start("first")[0].wait(60)
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(server.address)
            asked.sendall(json.dumps({"environment": {}, "log": "/dev/null", "folder": "/"}).encode() + b"\n")
    assert start("last")[0].wait(60) == 0
    here = psutil.Process(server._process.pid)
    eventually(lambda: all(child.status() == psutil.STATUS_ZOMBIE for child in here.children()))


def test_a_scratch_folder_with_a_long_name_is_no_hindrance(tmp_path, monkeypatch):
    long = tmp_path / ("scratch" * 20)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    started = processes.WarmServer.start(processes.ENTRY, {})
    assert Path(started.address).exists()
    started.end()
    assert not Path(started.address).parent.exists()


def test_where_no_server_answers_a_process_is_started_anew(tmp_path):
    log = tmp_path / "log.txt"
    process = processes.start_process(str(tmp_path / "gone"), [sys.executable, "-c", "print(1)"], log, dict(os.environ))
    assert process.wait(120) == 0 and log.read_text() == "1\n"
    assert processes.WarmServer.start([sys.executable, "own.py"], {}).address is None


def test_a_sweep_has_a_server_of_its_own_that_ends_with_it(tmp_path):
    client = local_client(tmp_path)
    request = tuning_request("warm", static={"overrides": json.dumps(FIXED)}, jobs=2, parallel=1)
    client.create_hyper_parameter_tuning_job(**request)
    sweep = wait_tuning(client, "warm", 120)
    assert sweep["TrainingJobStatusCounters"]["Completed"] == 2
    assert len(trials(client, "warm")) == 2
    logs = [path.read_text() for path in sorted(tmp_path.glob("warm/warm-00*/log.txt"))]
    assert "computing the features" in logs[0] and "computing the features" not in logs[1]
    assert (tmp_path / ".features").is_dir()
    wait_until_gone(state_of(tmp_path / "warm")["warm"])


def test_a_sweep_takes_the_server_that_was_started_ahead(tmp_path):
    client = local_client(tmp_path)
    with processes.server_ahead(wanted=True):
        (ahead,) = processes._ahead
        for name in ("first", "second"):
            request = tuning_request(name, static={"overrides": json.dumps(FIXED)}, jobs=1, parallel=1)
            client.create_hyper_parameter_tuning_job(**request)
    for name in ("first", "second"):
        assert wait_tuning(client, name, 120)["TrainingJobStatusCounters"]["Completed"] == 1
    first, second = (state_of(tmp_path / name)["warm"] for name in ("first", "second"))
    assert first == ahead.address != second
    for address in (first, second):
        wait_until_gone(address)


def test_a_server_that_no_sweep_takes_ends_with_the_mistake():
    with pytest.raises(ValueError, match="mistake"), processes.server_ahead(wanted=True):
        (ahead,) = processes._ahead
        raise ValueError("a mistake")
    assert not Path(ahead.address).exists() and not processes._ahead


def test_a_request_for_another_machine_leaves_no_server(monkeypatch, capsys):
    started = []
    start = processes.WarmServer.start
    monkeypatch.setattr(processes.WarmServer, "start", lambda *job: started.append(start(*job)) or started[-1])
    for typed in (["lr=range", "dry_run=True"], ["lr=range", "dry_run=true"]):
        assert tune.main(typed) == 0
    (server,) = started  # the plain word is understood before the config is
    assert not Path(server.address).exists()


def test_the_server_ends_with_a_tuner_that_was_killed():
    code = (
        "import time; from launch.local.jobs.process import ENTRY, WarmServer; server = WarmServer.start(ENTRY, {});"
        "print(server.address, flush=True); time.sleep(60)"
    )
    tuner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    address = tuner.stdout.readline().strip()
    (server,) = psutil.Process(tuner.pid).children()
    tuner.kill()
    tuner.wait()
    wait_until_gone(address)
    server.wait(120)
