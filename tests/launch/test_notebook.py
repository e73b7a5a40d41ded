"""Sweeps in a notebook."""

import base64
import json
from pathlib import Path

import pytest

from dogbreed.errors import UserError
from launch import notebook
from launch.notebook import read_results
from launch.spec.settings import compose

TRIAL = {
    "name": "dogs-001-1a2b3c4d", "status": "Completed", "hyperparameters": {"lr": "0.01", "optimizer": "<sgd>"},
    "objective": 0.75, "metrics": {"val/accuracy": 0.75, "test/accuracy": 0.7}, "findings": ["Overfit"],
}  # fmt: skip


@pytest.fixture
def ended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "dogs"
    folder.mkdir(parents=True)
    summary = {"name": "dogs", "metric": "val/accuracy", "overrides": ["epochs=3", "lr=0.01"], "trials": [TRIAL]}
    (folder / "results.json").write_text(json.dumps(summary))
    return folder


def test_rows_are_flat_and_the_best_can_be_trained_again(ended):
    sweep = read_results("dogs")
    assert sweep.trials == [
        {
            "trial": "dogs-001-1a2b3c4d",
            "status": "Completed",
            "val/accuracy": 0.75,
            "lr": "0.01",
            "optimizer": "<sgd>",
            "test/accuracy": 0.7,
            "findings": "Overfit",
        }
    ]
    assert sweep.best_overrides == ["epochs=3", "lr=0.01"]


def test_results_have_an_html_representation(ended):
    sweep = read_results("dogs")
    assert "<td>001</td>" in (page := sweep._repr_html_()) and "<td>0.7500</td>" in page
    assert "&lt;sgd&gt;" in page and "<img" not in page
    (ended / "sweep.png").write_bytes(b"image")
    assert f"base64,{base64.b64encode(b'image').decode()}" in sweep._repr_html_()


def test_read_results_of_unknown_name_suggests_another(ended):
    with pytest.raises(UserError, match="no sweep 'dosg' has ended; did you mean dogs"):
        read_results("dosg")


def test_sweep_without_result_raises(ended, monkeypatch):
    monkeypatch.setattr(notebook.sweeps, "run_sweep", lambda words: 1)
    with pytest.raises(UserError, match="sweep cats has no result"):
        notebook.run_sweep("name=cats", "lr=range")


@pytest.mark.parametrize(
    ("typed", "folder"),
    [
        (["lr=range", "name=cats"], "outputs/cats"),
        (["lr=range", "name=cats", "backend.root='my runs'"], "my runs/cats"),
        (["resume=a-run"], "outputs/a-run-r2"),
        (["resume=a-run", "name=cats"], "outputs/cats"),
    ],
)
def test_results_are_read_from_the_folder_of_the_sweep(ended, monkeypatch, typed, folder):
    def main(words):
        cfg = compose("tune", [word for word in words if word != "lr=range"])
        path = Path(cfg.backend.root) / cfg.name
        path.mkdir(parents=True)
        (path / "results.json").write_text("{}")
        return 0

    monkeypatch.setattr(notebook.sweeps, "run_sweep", main)
    assert notebook.run_sweep(*typed).folder == Path(folder)


def test_dry_run_is_rejected(ended):
    with pytest.raises(UserError, match=r"dry_run=true .* python -m launch\.tune"):
        notebook.run_sweep("lr=range", "dry_run=true")
