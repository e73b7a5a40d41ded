"""Faults around a job: removed folders, full disks, clock changes, reused process ids."""

import errno
import itertools
import os
import shutil
import signal
import sys
import time

import pytest

from launch.local.job_store import LOG, TRAINING, create_folder, new_state
from launch.local.jobs import training_job
from tests.launch.local_jobs import (
    eventually,
    is_running,
    make_client,
    run_tuning,
    state_of,
    training_request,
    tuning_request,
)


@pytest.fixture
def job(tmp_path):
    """Creates a training job that prints `hello` and sleeps, to be run in this process."""
    handler = signal.getsignal(signal.SIGTERM)
    locks = []

    def make(sleep_s):
        program = f"import time; print('hello', flush=True); time.sleep({sleep_s})"
        state = new_state(TRAINING, "dogs", [sys.executable, "-c", program], 1.0)
        locks.append(create_folder(tmp_path / "dogs", training_request("dogs"), state, LOG))
        return training_job.TrainingJob(tmp_path / "dogs", locks[-1])

    yield make
    signal.signal(signal.SIGTERM, handler)
    for lock in locks:
        os.close(lock)


def remove(folder):
    """Removes a folder that other processes still write to."""
    eventually(lambda: shutil.rmtree(folder, ignore_errors=True) or not folder.exists())


def test_removed_folder_ends_job_and_spares_its_successor(tmp_path):
    client = make_client(tmp_path)
    seen = []
    for epoch_s in ("1000", "1"):
        client.create_training_job(**training_request("dogs", {"epochs": "2", "epoch_s": epoch_s}))
        seen.append(eventually(lambda: "pid" in (found := state_of(tmp_path / "dogs")) and found))
        if epoch_s == "1000":
            remove(tmp_path / "dogs")
    eventually(lambda: not is_running(seen[0]["pid"]) and not is_running(seen[0]["supervisor_pid"]))
    last = eventually(lambda: (found := state_of(tmp_path / "dogs")).get("status") == "Completed" and found)
    assert last["supervisor_pid"] == seen[1]["supervisor_pid"] and last["created"] == seen[1]["created"]


def test_removed_folder_ends_sweep_and_frees_its_name(tmp_path):
    client = make_client(tmp_path)
    slow = {"epochs": "1000", "epoch_s": "0.1"}
    client.create_hyper_parameter_tuning_job(**tuning_request("dogs", static=slow, jobs=20, parallel=2))
    tuner = eventually(lambda: state_of(tmp_path / "dogs").get("supervisor_pid"))
    trials = eventually(lambda: len(found := list(tmp_path.glob("dogs/dogs-*/ml/output/data"))) == 2 and found)
    pids = [eventually(lambda t=trial: state_of(t.parents[2]).get("pid")) for trial in trials]
    remove(tmp_path / "dogs")
    eventually(lambda: not any(is_running(pid) for pid in [tuner, *pids]))
    assert not (tmp_path / "dogs").exists()
    assert (
        run_tuning(client, tuning_request("dogs", jobs=1, parallel=1))["HyperParameterTuningJobStatus"] == "Completed"
    )


def test_full_disk_at_start_leaves_no_process(tmp_path, job, monkeypatch):
    enter = training_job.TrainingJob._enter

    def full(self, status, secondary, message):
        if secondary == "Training":
            raise OSError(errno.ENOSPC, "No space left on device")
        enter(self, status, secondary, message)

    monkeypatch.setattr(training_job.TrainingJob, "_enter", full)
    job(1000).run()
    state = state_of(tmp_path / "dogs")
    assert state["status"] == "Failed" and "No space left on device" in state["failure"]
    assert not is_running(state["pid"])


def test_clock_change_does_not_shorten_a_job(tmp_path, job, monkeypatch):
    now, hours = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() + 3600 * next(hours))
    job(0.5).run()
    assert state_of(tmp_path / "dogs")["status"] == "Completed"


def test_process_group_is_killed_before_packing(tmp_path, job, monkeypatch):
    kill, pack, done = os.killpg, training_job.pack_model, []

    def kill_group(number, signal_number):
        done.append("killed")
        kill(number, signal_number)

    def pack_model(model, archive):
        done.append("packed")
        pack(model, archive)

    monkeypatch.setattr(os, "killpg", kill_group)
    monkeypatch.setattr(training_job, "pack_model", pack_model)
    job(0).run()
    assert done == ["killed", "packed"] and state_of(tmp_path / "dogs")["status"] == "Completed"
