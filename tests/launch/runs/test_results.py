"""Reading sweeps, and writing their result files."""

import csv
import json
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
from botocore.exceptions import EndpointConnectionError

from dogbreed.errors import UserError
from launch.runs import summary
from launch.runs.result_files import rows, write_results
from launch.runs.results import Sweep, Trial, read_sweep
from launch.spec.settings import compose

TRIAL = Trial("dogs-001-1a2b3c4d", "Completed", {"lr": "0.1"}, 0.5, 9.0)
SWEEP = Sweep("dogs", "Completed", "val/accuracy", True, 1, (TRIAL,), 9.0)


def test_read_sweep_with_several_definitions_is_rejected():
    client = MagicMock()
    client.describe_hyper_parameter_tuning_job.return_value = {"TrainingJobDefinitions": []}
    with pytest.raises(UserError, match="was not started by this launcher"):
        read_sweep(client, "foreign")


def test_rows_keep_a_hyperparameter_named_like_a_column():
    trial = Trial("dogs-001-1a2b3c4d", "Completed", {"status": "on", "lr": "0.1"}, 0.5, 9.0)
    (row,) = rows(Sweep("dogs", "Completed", "val/accuracy", True, 1, (trial,), 9.0))
    assert (row["status"], row["hyperparameter.status"], row["lr"]) == ("Completed", "on", "0.1")


def test_write_results_leaves_only_the_two_files(tmp_path):
    write_results(SWEEP, tmp_path / "dogs", ["python"])
    assert {path.name for path in (tmp_path / "dogs").iterdir()} == {"results.csv", "results.json"}
    assert json.loads((tmp_path / "dogs" / "results.json").read_text())["best"]["name"] == TRIAL.name
    with (tmp_path / "dogs" / "results.csv").open(newline="") as file:
        assert [row["lr"] for row in csv.DictReader(file)] == ["0.1"]


def test_finish_sweep_without_access_to_logs_writes_the_results(tmp_path, monkeypatch):
    backend = MagicMock(results_root=tmp_path, jobs_root=None, billed=True, max_logs=20)
    backend.logs.side_effect = EndpointConnectionError(endpoint_url="https://logs.us-east-1.amazonaws.com")
    backend.command.return_value = ["python", "-m", "launch.train", "from_tuning=dogs"]
    monkeypatch.setattr(summary, "read_sweep", lambda client, name, metrics: SWEEP)
    out = MagicMock()
    assert summary.finish_sweep(MagicMock(), compose("tune", []), backend, "dogs", out) == 0
    assert (tmp_path / "dogs" / "results.json").is_file()
    assert any("logs cannot be read" in str(call) for call in out.print.call_args_list)


def test_finish_sweep_that_failed_has_exit_status_1(tmp_path, monkeypatch):
    backend = MagicMock(results_root=tmp_path, jobs_root=tmp_path, billed=False, max_logs=None)
    backend.command.return_value = ["python"]
    failed = replace(SWEEP, status="Failed", reason="its supervisor died")
    monkeypatch.setattr(summary, "read_sweep", lambda client, name, metrics: failed)
    assert summary.finish_sweep(MagicMock(), compose("tune", []), backend, "dogs", MagicMock()) == 1
    assert (tmp_path / "dogs" / "sweep.png").is_file()  # the results so far are there
    assert [path.name for path in (tmp_path / "dogs").iterdir() if path.name.endswith(".part")] == []
