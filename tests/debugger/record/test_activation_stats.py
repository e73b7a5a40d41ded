from __future__ import annotations

import pytest
import torch
from torch import nn

from dogbreed.debugger.record.activation_stats import ActivationStats
from dogbreed.debugger.record.tensor_stats import TensorStats


def test_layer_called_twice_is_recorded_twice():
    relu = nn.ReLU(inplace=True)
    net = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu)
    stats = TensorStats(net)
    stats.activations.watch("train", describe_inputs=True)
    net(torch.randn(6, 4))
    stats.activations.unwatch()
    [block], _ = stats.fetch([])
    assert (block.collection, block.names) == ("activation_inputs", ["1", "1_1"])
    assert block.stats["mean"][0] != block.stats["mean"][1]
    activity = stats.activations.take_activity("train")
    assert {item.num_samples for item in activity.values()} == {6}


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7, 7), (5, 7, 3)])
def test_nodes_are_channels_or_features(shape: tuple[int, ...]):
    values = torch.ones(shape)
    values.select(1 if len(shape) == 4 else -1, 2).fill_(-1)  # node 2 is never active
    stats = ActivationStats(nn.Sequential(nn.ReLU()))
    stats.watch("train", describe_inputs=False)
    nn.Sequential(*stats.layers["0"][:1])(values)
    assert stats.take_activity("train")["0"].inside_percent.tolist() == [100, 100, 0]


def test_error_in_hook_does_not_end_forward(monkeypatch: pytest.MonkeyPatch):
    def fail(_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("dogbreed.debugger.record.activation_stats.statistics", fail)
    net = nn.Sequential(nn.ReLU(), nn.ReLU())
    stats = ActivationStats(net)
    stats.watch("train", describe_inputs=True)
    assert net(torch.ones(2, 3)).tolist() == [[1.0] * 3] * 2
    assert str(stats.error) == "out of memory"
