"""Both recorders in a training of two processes (gloo), and in one compiled with the default backend."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from dogbreed.debugger.findings import Status
from dogbreed.debugger.read.reader import read_run
from dogbreed.debugger.rules.evaluate import evaluate
from tests.debugger.tiny import CONFIG, TinyData, TinyModel, network, train

SMDEBUG = {"smdebug": {"enabled": True, "save_interval": 2, "collections": ["weights", "gradients", "losses"]}}
EVERYTHING = {**CONFIG, **SMDEBUG}
PROCESSES = {"devices": 2, "strategy": "ddp_fork"}


@pytest.fixture(autouse=True)
def _smdebug():
    pytest.importorskip("smdebug", reason="smdebug is not installed: pip install -e '.[debug]'")


def saved(folder: Path):
    from smdebug.trials import create_trial

    return create_trial(str(folder / "debug-output"))


class TestTwoProcesses:
    @staticmethod
    def fit(folder: Path, config: dict, **settings) -> nn.Module:
        """Four epochs of one step over all sixteen images, eight in each process."""
        data = TinyData((8, 8), batch_size=8, val=8)
        pl.seed_everything(0, verbose=False)
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 2))
        train(folder, TinyModel(net, optimizer="SGD", **settings), data, 4, config, **PROCESSES)
        return net

    def test_recorded_values_cover_all_processes(self, tmp_path: Path):
        from smdebug import modes

        with_recorders, without = self.fit(tmp_path, EVERYTHING), self.fit(tmp_path / "without", {})
        for a, b in zip(with_recorders.parameters(), without.parameters(), strict=True):
            assert torch.equal(a, b)
        gradients = read_run(tmp_path).inputs["gradients"]
        trial = saved(tmp_path)
        assert gradients.steps.tolist() == [0, 1, 2, 3]
        assert trial.steps(mode=modes.TRAIN) == [0, 2]
        assert trial.tensor("val_loss_output_0").steps(mode=modes.EVAL) == [0, 1, 2, 3]
        expected = self.gradient_of_all()
        name = "1.weight"
        mean = gradients.stat("abs_mean")[0, gradients.names.index(name)]
        assert mean == pytest.approx(np.abs(expected).mean(), rel=1e-4)
        assert trial.tensor(f"gradient/Sequential_{name}").value(0) == pytest.approx(expected, abs=1e-6)

    @staticmethod
    def gradient_of_all() -> np.ndarray:
        """Returns the gradient of the first step over all images in one process."""
        images, labels = TinyData((8, 8))._splits["train"]
        pl.seed_everything(0, verbose=False)
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 2))
        nn.functional.cross_entropy(net((images - 0.5) / 0.25), labels).backward()
        return net[1].weight.grad.numpy()

    def test_predictions_cover_all_processes(self, tmp_path: Path):
        self.fit(tmp_path, CONFIG)
        predictions = read_run(tmp_path).inputs["predictions"]
        assert predictions.split == "test"
        assert predictions.indices.tolist() == list(range(16))
        assert sorted(predictions.labels.tolist()) == [0] * 8 + [1] * 8

    def test_rule_stops_both_processes(self, tmp_path: Path):
        """Without synchronisation, process 1 would wait forever for the gradients of process 0."""
        self.fit(tmp_path, {**CONFIG, "stop_on": ["LearningRateTooHigh"]}, lr=1e6)
        [stopped] = [row for row in read_run(tmp_path).events if row["name"] == "stopped"]
        assert stopped["by"] == "LearningRateTooHigh"


@pytest.mark.slow
class TestCompiled:
    @staticmethod
    def fit(folder: Path, config: dict, backend: str) -> list[float]:
        torch._dynamo.reset()
        pl.seed_everything(1, verbose=False)
        model = TinyModel(network(2))
        model.net = torch.compile(model.net, backend=backend)  # type: ignore[assignment]
        train(folder, model, TinyData((32, 32), batch_size=16, val=8), 1, config, test=False)
        return model.losses

    def test_compiled_values_match_and_omissions_are_logged(self, tmp_path: Path):
        from torch._dynamo.utils import counters

        backend = "inductor" if shutil.which("g++") else "eager"
        counters.clear()
        without = self.fit(tmp_path / "without", {}, backend)
        graphs = counters["stats"]["unique_graphs"]
        assert self.fit(tmp_path, EVERYTHING, backend) == without
        assert counters["stats"]["unique_graphs"] == 2 * graphs and not counters["graph_break"]
        recording = read_run(tmp_path)
        assert recording.inputs["gradients"].names[0] == "0.weight"
        assert "gradient/Sequential_0.weight" in saved(tmp_path).tensor_names(collection="gradients")
        [finding] = evaluate(recording, only=["DeadRelu"])
        assert finding.status is Status.INSUFFICIENT_DATA
        assert "torch.compile" in finding.outcome.summary
