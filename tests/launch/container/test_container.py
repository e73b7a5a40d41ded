"""Jobs started as SageMaker's container starts them: interrupted and resumed, and on two hosts."""

import json
import re
import signal
import sys
import time

import pytest

from tests.launch.cloud import wait_for, written
from tests.launch.job_container import kill_started, make_job, results, start, steps


@pytest.fixture(autouse=True)
def no_process_left():
    yield
    kill_started()


SLOWLY = """
import sys, time
from dogbreed.models.classifier import ImageClassifier
from launch.container import entry
step = ImageClassifier.training_step
ImageClassifier.training_step = lambda *a: (time.sleep(0.2), step(*a))[1]
sys.exit(entry.main())
"""
"""Runs the job with 0.2 s more per step, so that a signal arrives in the middle of an epoch."""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_job_interrupted_in_mid_epoch_resumes_at_that_step(tmp_path, number):
    overrides = ["epochs=3", "batch_size=2"]
    whole = make_job(tmp_path / "whole", *overrides)
    assert start(whole).wait(300) == 0, written(whole / "log.txt")
    broken = make_job(tmp_path / "broken", *overrides)
    first = start(broken, sys.executable, "-c", SLOWLY)
    wait_for(lambda: "epoch=0" in written(broken / "log.txt"), 120)
    time.sleep(1)  # some steps into the second epoch
    first.send_signal(number)
    assert first.wait(120) != 0
    if number == signal.SIGTERM:
        assert 16 < steps(broken) < 32  # it resumes in the middle of the second epoch
    assert start(broken, log="again.txt").wait(300) == 0, written(broken / "again.txt")
    assert results(broken)["steps"] == results(whole)["steps"] == 3 * 16
    assert results(broken)["test"].keys() == results(whole)["test"].keys()


@pytest.mark.slow
def test_job_on_two_hosts_trains_one_model(tmp_path):
    hosts = ("127.0.0.1", "127.0.0.2")
    jobs = [make_job(tmp_path / host, "epochs=1", hosts=hosts, host=host) for host in hosts]
    running = [
        start(ml, SM_HOSTS=json.dumps(hosts), SM_CURRENT_HOST=host) for ml, host in zip(jobs, hosts, strict=True)
    ]
    assert [process.wait(300) for process in running] == [0, 0], [written(ml / "log.txt") for ml in jobs]
    assert len(re.findall(r"^metrics epoch=0", written(jobs[0] / "log.txt"), re.MULTILINE)) >= 1
    assert "metrics epoch" not in written(jobs[1] / "log.txt")
    assert (jobs[0] / "model" / "model.json").is_file() and not (jobs[1] / "model" / "model.json").exists()
