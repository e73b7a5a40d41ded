"""What goes wrong around a job: its folder goes, the disk is full, the clock jumps, its number is another's."""

import errno
import itertools
import os
import shutil
import signal
import sys
import time

import pytest

from launch.local.job_state import TRAINING, new_state
from launch.local.job_store import LOG, make_folder
from launch.local.jobs import training_job as jobs
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
    """A training job to be run in this process: it says a word and sleeps for as long as it is told."""
    handler = signal.getsignal(signal.SIGTERM)
    held = []

    def make(sleep_s):
        program = f"import time; print('hello', flush=True); time.sleep({sleep_s})"
        state = new_state(TRAINING, "dogs", [sys.executable, "-c", program], 1.0)
        held.append(make_folder(tmp_path / "dogs", training_request("dogs"), state, LOG))
        return jobs.TrainingJob(tmp_path / "dogs")

    yield make
    signal.signal(signal.SIGTERM, handler)
    for lock in held:
        os.close(lock)


def remove(folder):
    """Removes what others still write to."""
    eventually(lambda: shutil.rmtree(folder, ignore_errors=True) or not folder.exists())


def test_a_job_whose_folder_is_removed_ends_and_leaves_the_next_of_its_name_alone(tmp_path):
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


def test_a_sweep_whose_folder_is_removed_ends_and_its_name_is_free(tmp_path):
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


def test_where_the_start_can_not_be_written_down_nothing_goes_on(tmp_path, job, monkeypatch):
    enter = jobs.TrainingJob._enter

    def full(self, status, secondary, message):
        if secondary == "Training":
            raise OSError(errno.ENOSPC, "No space left on device")
        enter(self, status, secondary, message)

    monkeypatch.setattr(jobs.TrainingJob, "_enter", full)
    job(1000).run()
    state = state_of(tmp_path / "dogs")
    assert state["status"] == "Failed" and "No space left on device" in state["failure"]
    assert not is_running(state["pid"])


def test_a_clock_that_is_put_forward_takes_no_time_from_a_job(tmp_path, job, monkeypatch):
    now, hours = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() + 3600 * next(hours))
    job(0.5).run()
    assert state_of(tmp_path / "dogs")["status"] == "Completed"


def test_once_a_job_has_ended_its_number_may_be_anothers(tmp_path, job, monkeypatch):
    kill, pack, done = os.killpg, jobs.pack_model, []

    def kill_group(number, signal_number):
        done.append("killed")
        kill(number, signal_number)

    def pack_model(model, archive):
        done.append("packed")
        pack(model, archive)

    monkeypatch.setattr(os, "killpg", kill_group)
    monkeypatch.setattr(jobs, "pack_model", pack_model)
    job(0).run()
    assert done == ["killed", "packed"] and state_of(tmp_path / "dogs")["status"] == "Completed"
