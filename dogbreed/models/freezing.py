"""Which parts of a network are trained: freezing, gradual unfreezing, and train or eval mode of its modules."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from dogbreed.models.heads import count_parameters, set_head_train_mode, split_parameters
from dogbreed.models.param_groups import layer_depths

log = logging.getLogger(__name__)

FROZEN = ("head", "linear_probe")
"""Values of `finetune` that never train the backbone."""


def unfreeze(net: nn.Module, num_stages: float) -> None:
    """Makes the head of `net` and the `num_stages` stages next to it trainable, and freezes the rest.

    Args:
        net: A timm network.
        num_stages: 0: the head alone; `math.inf`: everything. Modules next to the head, such as the last norm,
            belong to the first stage.
    """
    _, head = split_parameters(net)
    heads, depths = set(map(id, head)), layer_depths(net, stages=True)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(id(parameter) in heads or max(1, depths[name]) <= num_stages)


def num_unfrozen_stages(epoch: int, first_epoch: int, every_epochs: int) -> float:
    """Returns how many stages of the backbone are trained in `epoch` (from 0), `math.inf` for all.

    The stage next to the head joins in `first_epoch`, the others every `every_epochs`; 0: all stages together.
    """
    if epoch < first_epoch:
        return 0
    return (epoch - first_epoch) // every_epochs + 1 if every_epochs else math.inf


def unfreeze_due_stages(net: nn.Module, epoch: int, hp: Mapping[str, Any]) -> None:
    """Unfreezes the stages of `net` that the hyperparameters `hp` want to be trained in `epoch`."""
    _, before = count_parameters(net)
    unfreeze(net, num_unfrozen_stages(epoch, hp["unfreeze_epoch"], hp["unfreeze_every"]))
    _, trained = count_parameters(net)
    if trained > before:
        log.info("epoch %d: %.2f M parameters are trained from now on", epoch, trained / 1e6)


def set_train_modes(net: nn.Module) -> None:
    """Puts the trainable modules and the head of `net` in train mode, and the frozen rest in eval mode."""
    set_head_train_mode(net)
    for module in net.modules():
        parameters = list(module.parameters())
        if parameters and all(parameter.requires_grad for parameter in parameters):
            module.train()


def freeze_norms(net: nn.Module) -> None:
    """Puts the batch norms of `net` in eval mode; their scale and shift stay trainable.

    Small batches then neither replace nor change the pretrained statistics. Weights with folded batch norms need this
    to start from the accuracy of the pretrained network.
    """
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
