"""The recorders in trainings of two processes (gloo)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dogbreed.debugger.read.reader import read_run
from tests.debugger.record.distributed_runs import make_network
from tests.debugger.tiny import TinyData
from tests.paths import ROOT

HAS_SMDEBUG = importlib.util.find_spec("smdebug") is not None


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    command = [sys.executable, "-m", "tests.debugger.record.distributed_runs", str(folder), str(HAS_SMDEBUG)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def gradient_of_all_images() -> np.ndarray:
    """Returns the gradient of the first step over all images in one process."""
    images, labels = TinyData((8, 8))._splits["train"]
    net = make_network()
    nn.functional.cross_entropy(net((images - 0.5) / 0.25), labels).backward()
    return net[1].weight.grad.numpy()


def test_recorders_do_not_change_weights(runs: Path):
    recorded, plain = torch.load(runs / "weights.pt")
    assert recorded.keys() == plain.keys()
    assert all(torch.equal(recorded[name], plain[name]) for name in plain)


def test_recorded_gradients_are_those_of_all_processes(runs: Path):
    gradients = read_run(runs / "recorded").inputs["gradients"]
    assert gradients.steps.tolist() == [0, 1, 2, 3]
    mean = gradients.stat("abs_mean")[0, gradients.names.index("1.weight")]
    assert mean == pytest.approx(np.abs(gradient_of_all_images()).mean(), rel=1e-4)


def test_smdebug_gradients_are_those_of_all_processes(runs: Path):
    pytest.importorskip("smdebug", reason="smdebug is not installed: pip install -e '.[debug]'")
    from smdebug import modes
    from smdebug.trials import create_trial

    trial = create_trial(str(runs / "recorded" / "debug-output"))
    assert trial.steps(mode=modes.TRAIN) == [0, 2]
    assert trial.tensor("val_loss_output_0").steps(mode=modes.EVAL) == [0, 1, 2, 3]
    saved = trial.tensor("gradient/Sequential_1.weight").value(0)
    assert saved == pytest.approx(gradient_of_all_images(), abs=1e-6)


def test_recorded_predictions_are_those_of_all_processes(runs: Path):
    predictions = read_run(runs / "recorded").inputs["predictions"]
    assert predictions.split == "test"
    assert predictions.indices.tolist() == list(range(16))
    assert sorted(predictions.labels.tolist()) == [0] * 8 + [1] * 8


def test_stop_on_ends_training_in_both_processes(runs: Path):
    """Without the broadcast, process 1 would wait for the gradients of process 0."""
    [stopped] = [row for row in read_run(runs / "stopped").events if row["name"] == "stopped"]
    assert stopped["by"] == "LearningRateTooHigh"


def test_recorder_failing_in_one_process_does_not_hang(runs: Path):
    assert not (runs / "failing" / "debug").exists()  # half of the predictions would mislead
