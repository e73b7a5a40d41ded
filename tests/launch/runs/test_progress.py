"""Progress of a running sweep or training: logs, objective, status, elapsed time and instance-hours."""

import io
import os
import re
import signal
import threading
import time

import boto3
import pytest
from botocore.exceptions import ClientError
from rich.console import Console

from launch import status, stop, train, tune
from launch.backends.aws.backend import AwsBackend
from launch.backends.aws.cloudwatch import JOB_LOG_GROUP
from launch.runs import sweep, training
from tests.launch.cloud import EXPLICIT, wait_for

SWEEP = ["lr=0.001,0.01", "epochs=4", "tuner.max_jobs=2", *EXPLICIT]
RUNNING = r"\n *00[12] +1/4 +0\.3333 +(?:\d+ s|-) +lr=0\.001"
"""The live row of the trial with lr=0.001 after its first epoch."""


@pytest.fixture
def cloudwatch(aws, tmp_path):
    """Sends the output of jobs to CloudWatch, one stream per job, as the agent of a SageMaker instance does."""
    logs, sent, ended = boto3.client("logs"), {}, threading.Event()
    logs.create_log_group(logGroupName=JOB_LOG_GROUP)

    def send():
        while not ended.wait(0.1):
            for file in (tmp_path / "cloud").rglob("log.txt"):
                stream, lines = f"{file.parent.name}/algo-1-1700000000", file.read_text().splitlines()
                if stream not in sent:
                    logs.create_log_stream(logGroupName=JOB_LOG_GROUP, logStreamName=stream)
                now = round(time.time() * 1000)
                events = [{"timestamp": now, "message": line} for line in lines[sent.get(stream, 0) :]]
                if events:
                    logs.put_log_events(logGroupName=JOB_LOG_GROUP, logStreamName=stream, logEvents=events)
                sent[stream] = len(lines)

    thread = threading.Thread(target=send)
    thread.start()
    yield aws
    ended.set()
    thread.join()


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 110 columns, as text."""
    screen = io.StringIO()
    options = {"force_terminal": True, "width": 110, "highlight": False, "markup": False}
    for module in (sweep, training, status):
        monkeypatch.setattr(module, "console", lambda stderr=False: Console(file=screen, **options))
    return screen


@pytest.fixture
def paper(monkeypatch):
    """The output of a sweep without a terminal, readable while it is written."""
    written = io.StringIO()
    for module in (sweep, status):
        monkeypatch.setattr(module, "console", lambda stderr=False: Console(file=written, width=110, highlight=False))
    return written


def when(seen, act):
    """Calls `act` from a thread once `seen()` holds."""
    thread = threading.Thread(target=lambda: (wait_for(seen), act()))
    thread.start()
    return thread


def test_sweep_logs_are_complete_for_a_later_follower(cloudwatch, paper, stand_in_does):
    stand_in_does("ignores_sigterm")

    def both_printed(text):
        return all(f"    {number} | metrics epoch=0 val/accuracy=" in text for number in ("001", "002"))

    leave = when(lambda: both_printed(paper.getvalue()), lambda: os.kill(os.getpid(), signal.SIGINT))
    assert tune.main([*SWEEP, "name=logged", "logs=true"]) == 130
    leave.join()
    first = paper.getvalue()
    end = when(lambda: both_printed(paper.getvalue()[len(first) :]), lambda: stop.main(["logged", "backend=sagemaker"]))
    assert status.main(["logged", "--follow", "--logs", "backend=sagemaker"]) == 0
    end.join()
    again = paper.getvalue()[len(first) :]
    for printed in (first, again):
        for number in ("001", "002"):
            assert printed.count(f"    {number} | hello from run_job.py\n") == 1
            assert printed.count(f"    {number} | metrics epoch=0 val/accuracy=") == 1
            assert f"    {number} started  lr=0.0" in printed
    assert "sweep logged: Stopping\n" in again and "sweep logged: Stopped" in again
    assert re.search(r"from start to end; billable: 0\.\d\d instance-hours", again)


def test_terminal_shows_objective_and_hours_of_running_trials(cloudwatch, terminal, stand_in_does):
    stand_in_does("slow")

    def leave():
        os.kill(os.getpid(), signal.SIGINT)

    thread = when(lambda: len(re.findall(RUNNING, terminal.getvalue())) > 1, leave)
    assert tune.main([*SWEEP, "name=seen"]) == 130
    thread.join()
    shown = terminal.getvalue()
    assert "instance-hours so far" in shown
    assert "0/2 done, 2 running, best val/accuracy 0.3333" in shown
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert re.search(r"trial +epoch +val/accuracy +time +hyperparameters", plain)
    assert " | " not in shown  # log lines are printed only with logs=true
    stop.main(["seen", "backend=sagemaker"])


def test_terminal_shows_status_and_hours_of_a_training(cloudwatch, terminal, stand_in_does):
    stand_in_does("slow")
    shown = r"Training, [0-9] s, 0\.00 instance-hours so far"
    thread = when(lambda: re.search(shown, terminal.getvalue()), lambda: os.kill(os.getpid(), signal.SIGINT))
    assert train.main(["lr=0.001", "name=alone", *EXPLICIT]) == 130
    thread.join()
    assert re.search(shown, terminal.getvalue())
    stop.main(["alone", "backend=sagemaker"])


def test_unreadable_logs_are_reported_once_and_polling_continues(aws, monkeypatch, capsys):
    class Denied:
        def read(self):
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetLogEvents")

    monkeypatch.setattr(AwsBackend, "logs", lambda self, name: Denied())
    assert tune.main([*SWEEP, "logs=true", "name=denied"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("logs cannot be read, so no log lines are shown") == 1
    assert "sweep denied: Completed" in printed
    assert train.main(["lr=0.001", "name=denied-too", *EXPLICIT]) == 0
