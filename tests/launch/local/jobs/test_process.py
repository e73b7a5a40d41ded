"""Training processes: forks of a process that has imported the training code, otherwise like any other process."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from launch.local.job_store import write_json
from launch.local.jobs import process
from launch.local.tuning import trials as trials_module
from launch.local.tuning.tuner import ENTRY, TRAINING_MODULES
from tests.launch.local_jobs import (
    eventually,
    is_running,
    local_client,
    make_client,
    run_tuning,
    state_of,
    trials,
    tuning_request,
    wait_tuning,
)

TRAINING = [
    "model=timm", "model.name=test_resnet", "data.url='demo://?classes=3&train=8&valid=4&test=4&size=32'",
    "data.augment=false", "finetune=head", "trainer=cpu", "epochs=1", "debugger=off",
]  # fmt: skip
PROGRAM = """
import os, signal, sys, time
if __name__ == "__main__":
    def write(*words):  # not print: pytest replaces sys.stdout in the process that is forked
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())

    write(sys.argv[0].rpartition("/")[2], os.environ["COLOR"], os.getpgid(0) == os.getpid())
    for descriptor in range(3, 256):
        try:
            if os.fstat(descriptor).st_ino == int(os.environ["PRIVATE"]):
                write("the lock is open")
        except OSError:
            pass
    if os.environ["COLOR"] == "exec":
        os.execv(sys.executable, [sys.executable, "-c", "import time; print('replaced', flush=True); time.sleep(60)"])
    if os.environ["COLOR"] == "sleep":
        time.sleep(60)
    sys.exit(3)
"""


@pytest.fixture
def fork(tmp_path, monkeypatch):
    """Runs a module in a fork of this process; returns the process and its log."""
    (tmp_path / "forked_program.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    handler = signal.signal(signal.SIGTERM, lambda *_: None)  # a supervisor has one too
    started = []

    def start(color):
        log = tmp_path / "log.txt"
        log.write_text("before\n")
        private = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
        environment = {"COLOR": color, "PRIVATE": str(os.fstat(private).st_ino), "PATH": os.environ["PATH"]}
        started.append(process.fork_module("forked_program", log, environment, private))
        os.close(private)
        return started[-1], log

    yield start
    for item in started:
        process.kill_group(item)
    signal.signal(signal.SIGTERM, handler)


def test_fork_module_runs_like_a_new_process(fork):
    child, log = fork("blue")
    assert child.wait() == child.poll() == 3
    assert log.read_text() == "before\nforked_program.py blue True\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_fork_module_ends_by_a_signal_to_its_group(fork, number):
    child, _ = fork("sleep")
    process.signal_group(child, number)  # immediately: neither the group nor the signal may be missed
    assert child.wait() == -number


def test_fork_module_poll_does_not_block_after_exec(fork):
    child, log = fork("exec")
    eventually(lambda: "replaced" in log.read_text())
    began = time.monotonic()
    assert child.poll() is None
    assert time.monotonic() - began < 30  # the program sleeps for a minute


def test_start_process_appends_to_the_log(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    child = process.start_process([sys.executable, "-c", "print(1)"], log, dict(os.environ))
    assert child.wait() == 0 and log.read_text() == "before\n1\n"


def test_training_modules_can_be_imported():
    assert [name for name in TRAINING_MODULES if importlib.util.find_spec(name) is None] == []


def test_sweep_shares_imports_and_cached_features(tmp_path):
    request = tuning_request("warm", static={"overrides": json.dumps(TRAINING)}, jobs=2, parallel=1)
    sweep = run_tuning(local_client(tmp_path), request)
    assert sweep["TrainingJobStatusCounters"]["Completed"] == 2
    logs = [path.read_text() for path in sorted(tmp_path.glob("warm/warm-00*/log.txt"))]
    assert "computing the features" in logs[0] and "computing the features" not in logs[1]
    assert (tmp_path / ".features").is_dir()


def test_sweep_reports_mistakes_of_forked_trials(tmp_path):
    request = tuning_request("bad", static={"overrides": json.dumps([*TRAINING, "nosuch=1"])}, jobs=1, parallel=1)
    assert run_tuning(local_client(tmp_path), request)["HyperParameterTuningJobStatus"] == "Failed"
    (trial,) = trials(make_client(tmp_path), "bad")
    assert "key 'nosuch' is unknown" in trial["FailureReason"]


def test_stop_ends_forked_training_by_its_own_handler(tmp_path):
    client = local_client(tmp_path)
    static = {"overrides": json.dumps([*TRAINING[:-2], "epochs=100000", "debugger=off"])}
    client.create_hyper_parameter_tuning_job(**tuning_request("stop", static=static, jobs=1, parallel=1))
    (log,) = eventually(lambda: list(tmp_path.glob("stop/stop-001-*/log.txt")))
    eventually(lambda: "metrics epoch=0" in log.read_text())
    client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="stop")
    assert wait_tuning(client, "stop")["TrainingJobStatusCounters"]["Stopped"] == 1
    assert "SIGTERM" in log.read_text()


def test_killed_tuner_leaves_no_fork_server(tmp_path):
    client = make_client(tmp_path)
    static = {"epochs": "1000", "epoch_s": "0.1"}
    client.create_hyper_parameter_tuning_job(**tuning_request("dead", static=static, jobs=9, parallel=2))
    tuner = eventually(lambda: state_of(tmp_path / "dead").get("supervisor_pid"))
    eventually(lambda: len(list(tmp_path.glob("dead/dead-*/metrics.jsonl"))) == 2)
    family = [tuner, *(child.pid for child in psutil.Process(tuner).children(recursive=True))]
    os.kill(tuner, signal.SIGKILL)
    eventually(lambda: not any(map(is_running, family)))


def test_other_applications_do_not_import_torch(tmp_path):
    modules = []
    code = (
        "import sys; from pathlib import Path;"
        "from launch.local.tuning import tuner;"
        "tuner.start_fork_server = lambda modules: print(*modules);"
        "tuner.Tuner(Path(sys.argv[1]), 0)"
    )
    for name, static in (("app", {"app": "quadratic.py", "overrides": "[]"}), ("dogs", {"overrides": "[]"})):
        folder = tmp_path / name
        folder.mkdir()
        write_json(folder / "request.json", tuning_request(name, static=static))
        write_json(folder / "state.json", {"command": ENTRY, "created": time.time()})
        (folder / ".lock").touch()
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
        modules.append(done.stdout.split())
    assert modules == [[trials_module.SUPERVISOR], [trials_module.SUPERVISOR, *TRAINING_MODULES]]


def test_fork_server_crash_falls_back_to_new_interpreter(tmp_path, monkeypatch):
    def crash(*_):
        raise EOFError("unexpected EOF")

    monkeypatch.setattr(trials_module, "fork_from_server", crash)
    tuning = tmp_path / "sweep"
    request = tuning_request("sweep", static={"epochs": "2"})
    state = {"command": [sys.executable, "-c", "print('metrics epoch=0 val/accuracy=0.5')"], "stop_grace_s": 1.0}
    folder, supervisor = trials_module.start_trial(tuning, request, state, number=1, slot=0, point={"lr": "0.1"})
    assert supervisor.wait() == 0
    assert state_of(folder)["status"] in ("Completed", "Stopped")
