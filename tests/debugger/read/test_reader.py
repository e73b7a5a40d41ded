from __future__ import annotations

import json
from pathlib import Path

import pytest

from dogbreed.debugger.findings import Status
from dogbreed.debugger.read.reader import read_run
from dogbreed.debugger.rules.evaluate import evaluate


def statuses(folder: Path) -> dict[str, Status]:
    return {finding.rule: finding.status for finding in evaluate(read_run(folder))}


@pytest.mark.parametrize(
    ("config", "name"), [("name: dogs-1\nlr: 0.1\n", "dogs-1"), ("name: null\n", "copy"), ("{half", "copy")]
)
def test_read_run_takes_the_name_from_config(run_copy: Path, config: str, name: str):
    (run_copy / "config.yaml").write_text(config)
    assert read_run(run_copy).name == name


def test_read_run_half_written_record_is_a_problem(run_copy: Path):
    path = run_copy / "debug" / "records.jsonl"
    path.write_text(path.read_text()[:-40])
    assert any("records.jsonl: 1 of" in problem for problem in read_run(run_copy).problems)
    assert Status.ERROR not in statuses(run_copy).values()


@pytest.mark.parametrize("name", ["activations.npz", "predictions-test.npz", "run.json", "images.json"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"{}", b"\xff\xfe[1, 2"])
def test_read_run_damaged_file_is_a_problem(run_copy: Path, name: str, content: bytes):
    (run_copy / "debug" / name).write_bytes(content)
    recording = read_run(run_copy)
    assert content == b"{}" or any(name in problem for problem in recording.problems)
    assert Status.ERROR not in statuses(run_copy).values()


def test_read_run_rows_of_another_version_are_a_problem(run_copy: Path):
    path = run_copy / "debug" / "records.jsonl"
    path.write_text(path.read_text() + '{"kind": "losses", "steps": [1, 2]}\n{"kind": "tensors"}\n[1]\n')
    assert Status.ERROR not in statuses(run_copy).values()
    assert read_run(run_copy).problems


def test_read_run_nan_loss_and_no_metrics(run_copy: Path):
    path = run_copy / "debug" / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["kind"] == "losses" and 5 in row["steps"]:
            row["values"][row["steps"].index(5)] = float("nan")
        if row["kind"] == "metrics":
            row["values"] = {}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = statuses(run_copy)
    assert found["ExplodingTensor"] is Status.ISSUE
    assert found["Overfit"] is Status.INSUFFICIENT_DATA
    assert Status.ERROR not in found.values()


@pytest.mark.parametrize("name", ["records.jsonl", "timings.jsonl", "run.json", "activations.npz"])
def test_read_run_missing_file_fails_no_rule(run_copy: Path, name: str):
    (run_copy / "debug" / name).unlink()
    assert Status.ERROR not in statuses(run_copy).values()
