"""The recorders in a training whose network goes through `torch.compile`."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from torch._dynamo.utils import counters

from dogbreed.debugger.findings import Status
from dogbreed.debugger.read.reader import read_run
from dogbreed.debugger.rules.evaluate import evaluate
from tests.debugger.tiny import CONFIG, TinyData, TinyModel, network, train


def fit(folder: Path, config: dict) -> list[float]:
    torch._dynamo.reset()
    pl.seed_everything(1, verbose=False)
    model = TinyModel(network(2))
    # The recorders meet the graphs that Dynamo captures; what Inductor makes of a graph is of no matter to them.
    model.net = torch.compile(model.net, backend="aot_eager")  # type: ignore[assignment]
    train(folder, model, TinyData((32, 32), batch_size=16, val=8), 1, config, test=False)
    return model.losses


def test_compiled_network_keeps_its_losses_and_graphs(tmp_path: Path):
    counters.clear()
    without = fit(tmp_path / "without", {})
    num_graphs = counters["stats"]["unique_graphs"]
    assert fit(tmp_path, CONFIG) == without
    assert counters["stats"]["unique_graphs"] == 2 * num_graphs and not counters["graph_break"]


def test_compiled_network_has_no_activations_recorded(tmp_path: Path):
    fit(tmp_path, CONFIG)
    recording = read_run(tmp_path)
    assert recording.inputs["gradients"].names[0] == "0.weight"
    [finding] = evaluate(recording, only=["DeadRelu"])
    assert finding.status is Status.INSUFFICIENT_DATA
    assert "torch.compile" in finding.outcome.summary
