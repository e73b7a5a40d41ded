from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.compile import from_compiled
from torch import nn

from dogbreed.debugger.record.network import head_prefix, is_compiled, normalization, parameter_tags, root_module
from tests.debugger.tiny import MEAN, STD, TinyModel, network


class TwoParts(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 2)


def test_root_module_is_only_child_with_parameters():
    module, model = TwoParts(), TinyModel(network())
    assert root_module(module) is module
    assert root_module(model) is model.net


def test_parameter_tags_name_head_and_backbone():
    tags = parameter_tags(TwoParts(), pretrained=True)
    assert tags["head.weight"] == {"head"}
    assert tags["backbone.bias"] == {"backbone", "pretrained", "bias"}


def test_head_prefix_without_usual_name_is_last_linear():
    assert head_prefix(network()) == "11"


def test_is_compiled_finds_network_or_whole_module():
    model = TinyModel(network(2))
    assert not is_compiled(model)
    assert is_compiled(from_compiled(torch.compile(TinyModel(network(2)), backend="eager")))
    model.net = torch.compile(model.net, backend="eager")  # type: ignore[assignment]
    assert is_compiled(model)


def test_normalization_is_the_models_or_empty():
    assert normalization(TinyModel()) == {"mean": MEAN, "std": STD}
    assert normalization(TwoParts()) == {}
