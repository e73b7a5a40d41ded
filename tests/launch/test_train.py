"""`launch.train` on this machine, its log, and distributed jobs; requests to AWS are tested in test_aws.py."""

import os
import re
import shlex
import signal
import threading
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from dogbreed.cli.overrides import parse
from dogbreed.errors import UserError
from launch import status, stop, train, tune
from launch.backends import open_backend
from launch.backends.aws.cloudwatch import CloudWatchLog
from launch.backends.aws.errors import explain_failure
from launch.backends.local import LocalBackend
from launch.container.entry import find_processes
from launch.local.api.boto_client import local_client
from launch.local.jobs.metrics import LineTail
from launch.runs.training import merge_overrides
from launch.spec.contract import encode
from launch.spec.plan import job_overrides
from launch.spec.settings import compose
from tests.launch.cloud import STAND_IN, interrupt_create, wait_for, written

NO_NAME = r"^no such name \(Invalid length .* value: 0, .*\); python -m launch\.status lists the existing names$"


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Runs `launch.train` in this process with a stand-in job; returns its exit status."""

    def client(self):
        return local_client(self.root, command=STAND_IN, stop_grace_s=2)

    monkeypatch.setattr(LocalBackend, "client", client)
    monkeypatch.chdir(tmp_path)
    return lambda *typed: train.main(list(typed))


def test_training_prints_its_log_and_metrics(launch, capsys):
    assert launch("lr=0.001", "name=alone") == 0
    printed = capsys.readouterr().out
    assert "hello from this machine" in printed and "[Training]" in printed
    assert "all files are in outputs/alone" in printed
    assert status.main([]) == 0
    assert "alone" in capsys.readouterr().out
    assert status.main(["alone", "--follow"]) == 0
    assert "hello from this machine" in capsys.readouterr().out


def test_failed_training_has_exit_status_1(launch, capsys, stand_in_does):
    stand_in_does("out_of_memory")
    assert launch("lr=0.001", "name=bad") == 1
    assert "a smaller batch_size" in " ".join(capsys.readouterr().out.split())
    assert status.main(["bad", "--follow"]) == 1


@pytest.mark.parametrize("how", ["Ctrl-C", "launch.stop"])
def test_ctrl_c_and_stop_end_a_local_training(launch, capsys, how, stand_in_does):
    stand_in_does("slow")

    def end():
        wait_for(lambda: "epoch=0" in written(Path("outputs/long/log.txt")))
        if how == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            stop.main(["long"])

    thread = threading.Thread(target=end)
    thread.start()
    assert launch("lr=0.001", "name=long") == (130 if how == "Ctrl-C" else 1)
    thread.join()
    assert "training long: Stopped" in capsys.readouterr().out


def test_ctrl_c_during_create_request_stops_the_training(launch, capsys, monkeypatch, stand_in_does):
    stand_in_does("slow")
    interrupt_create(monkeypatch, LocalBackend)
    assert launch("lr=0.001", "name=early") == 130
    assert "training early: Stopped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (train.main, ["from_tuning=nosuch"], "nosuch"),
        (train.main, ["nosuch=1"], "key 'nosuch' is unknown"),
        (train.main, ["name=" + "x" * 64], "TrainingJobName"),
        (train.main, ["name=endpoints"], "name=endpoints: .* choose another name"),
        (tune.main, ["name=endpoints", "lr=range"], "name=endpoints: .* choose another name"),
        (stop.main, [], "give one name, got none: python -m launch.stop NAME"),
        (stop.main, ["nosuch"], "no sweep or training is called 'nosuch'; there are none yet"),
        (status.main, ["--follow"], "give one name, got none"),
        (train.main, ["from_tuning="], NO_NAME),
        (status.main, [""], NO_NAME),
        (stop.main, [""], NO_NAME),
    ],
)
def test_mistake_is_one_line(launch, main, words, message):
    with pytest.raises(UserError, match=message):
        main(words)
    assert not Path("outputs").exists()


@pytest.mark.parametrize("main", [status.main, lambda words: tune.main(["lr=range", *words])])
def test_root_that_is_a_file_is_rejected(tmp_path, main):
    (tmp_path / "notes").write_text("")
    with pytest.raises(UserError, match=r"notes is a file: give a folder"):
        main([f"backend.root={tmp_path}/notes"])


def test_overrides_take_precedence_over_the_best_trial():
    found = ["model=resnet18", "epochs=3", "lr=0.1", "+model.kwargs.drop_rate=0.2"]
    assert merge_overrides(found, ["model=resnet50", "++model.kwargs.drop_rate=0"]) == [
        "epochs=3", "lr=0.1", "model=resnet50", "++model.kwargs.drop_rate=0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "merged"),
    [
        (["data=demo"], ["data=demo"]),
        (["data=folder"], ["data.url=/pics1", "data.val_fraction=0.2", "data=folder"]),
        (["data=s3", "data.url=s3://b/p"], ["data=s3", "data.url=s3://b/p"]),
        (["data.url=/pics2"], ["data=folder", "data.val_fraction=0.2", "data.url=/pics2"]),
    ],
)
def test_other_group_choice_drops_keys_of_the_old_choice(typed, merged):
    found = ["data=folder", "data.url=/pics1", "data.val_fraction=0.2"]
    assert merge_overrides(["epochs=3", *found], typed) == ["epochs=3", *merged]


@pytest.mark.parametrize(
    "root", ["out (1)", "my runs", "a,b", "it's", "/tmp/x y", "1", "/tmp/runs-1", "../runs", "outputs"]
)
def test_printed_commands_can_be_run(root):
    cfg = compose("tune", [f"backend.root={encode(root)}"])
    words = shlex.split(open_backend(cfg).command_line("status", "NAME"))
    assert words[:4] == ["python", "-m", "launch.status", "NAME"]
    assert compose("tune", words[4:]).backend.root == root


@pytest.mark.parametrize("kind", ["sweep", "training"])
def test_commands_printed_by_stop_are_shell_quoted(launch, capsys, monkeypatch, kind):
    resource = "HyperParameterTuningJob" if kind == "sweep" else "TrainingJob"
    monkeypatch.setattr(stop, "describe", lambda client, name: (kind, {f"{resource}Status": "InProgress"}))
    monkeypatch.setattr(stop, "check_owned", lambda *args: None)
    monkeypatch.setattr(LocalBackend, "client", lambda self: MagicMock())
    monkeypatch.setattr(stop, "check_owned", lambda *_: None)
    stop.main(["dogs", "backend.root='out (1)'"])
    commands = re.findall(r"python -m .*", capsys.readouterr().out)
    assert len(commands) == (2 if kind == "sweep" else 1)
    assert all(shlex.split(line)[-1] == "backend.root='out (1)'" for line in commands)


def test_launcher_settings_do_not_reach_the_job():
    typed = [
        "lr=0.1",
        "instance=gpu",
        "backend.root=x",
        "from_tuning=a",
    ]
    assert job_overrides(parse(typed)) == ["lr=0.1"]


def test_line_tail_returns_complete_lines(tmp_path):
    log = LineTail(tmp_path / "log.txt")
    assert log.read() == []
    with (tmp_path / "log.txt").open("w") as file:
        for text, lines in (("one\ntw", ["one"]), ("o\n", ["two"]), ("", [])):
            file.write(text)
            file.flush()
            assert log.read() == lines


def test_log_lines_of_several_hosts_have_a_prefix():
    class Logs:
        def get_paginator(self, operation):
            return self

        def paginate(self, **_):
            return [{"logStreams": [{"logStreamName": f"job/algo-{n}-1700000000"}]} for n in (1, 2)]

        def get_log_events(self, *, logStreamName, nextToken="", **_):
            new = [] if nextToken else [{"message": "hello"}]
            return {"events": new, "nextForwardToken": "end"}

    log = CloudWatchLog(Logs(), "job")
    assert log.read() == ["algo-1: hello", "algo-2: hello"]
    assert log.read() == []


@pytest.mark.parametrize(
    ("typed", "hosts", "gpus", "per_host", "overrides"),
    [
        ([], ["algo-1"], 0, 1, []),
        ([], ["algo-1"], 1, 1, []),
        ([], ["algo-1"], 4, 4, ["trainer.devices=4", "++trainer.num_nodes=1", "++trainer.strategy=ddp"]),
        ([], ["algo-1", "algo-2"], 1, 1, ["trainer.devices=1", "++trainer.num_nodes=2", "++trainer.strategy=ddp"]),
        (["trainer=cpu"], ["algo-1"], 4, 1, []),
        (["trainer.devices=2"], ["algo-1"], 4, 2,
         ["trainer.devices=2", "++trainer.num_nodes=1", "++trainer.strategy=ddp"]),
    ],
)  # fmt: skip
def test_one_process_per_gpu_on_every_host(typed, hosts, gpus, per_host, overrides):
    import json

    environ = {"SM_HOSTS": json.dumps(hosts), "SM_CURRENT_HOST": hosts[-1], "SM_NUM_GPUS": str(gpus)}
    found = find_processes(compose("train", typed), environ)
    assert (found.per_host, found.overrides) == (per_host, overrides)
    several = {f"--node-rank={len(hosts) - 1}", f"--master-addr={hosts[0]}", f"--nnodes={len(hosts)}"}
    assert (several if len(hosts) > 1 else {"--standalone"}) < set(found.command)
    assert f"--nproc-per-node={per_host}" in found.command
    compose("train", overrides)


def test_unfreezing_in_several_processes_selects_a_strategy(tmp_path):
    found = find_processes(compose("train", ["finetune=gradual"]), {"SM_HOSTS": '["a","b"]', "SM_CURRENT_HOST": "a"})
    assert found.overrides[-1] == "++trainer.strategy=ddp"


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("CapacityError: Unable to provision requested ML compute capacity.", "instance.alternatives=[TYPE,TYPE]"),
        ("ClientError: Access denied when calling S3", "backend.role"),
        ("AlgorithmError: ExecuteUserScriptError: CUDA error: out of memory", "a smaller batch_size"),
        ("ClientError: No space left on device", "a larger instance.volume_gb"),
        ("AlgorithmError: ERROR: No matching distribution found for timm==9", "does its network"),
    ],
)
def test_failure_reason_ends_with_advice(reason, advice):
    assert advice in explain_failure(reason)
    assert explain_failure("something else.") == "something else."
