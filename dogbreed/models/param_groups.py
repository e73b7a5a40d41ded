"""The optimizer and its parameter groups: learning rates by layer, and which parameters decay."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from timm.models import group_parameters
from torch import nn

from dogbreed.errors import UserError
from dogbreed.models.heads import split_parameters
from dogbreed.models.targets import create, load_target


def layer_depths(net: nn.Module, *, stages: bool) -> dict[str, int]:
    """Returns the distance of each parameter from the head, by name: 0 for parameters at the head's level.

    Args:
        net: A timm network. All depths are 0 for the few architectures whose layers timm does not number.
        stages: Counts stages (a ResNet's `layer4` is 1, `layer3` is 2) instead of blocks.
    """
    matcher: Any = getattr(net, "group_matcher", None)
    try:
        numbers = group_parameters(net, matcher(coarse=stages), reverse=True) if matcher else {}
    except (AssertionError, NotImplementedError):  # RDNet numbers no stages
        numbers = {}
    top = max(numbers.values(), default=0)
    return {name: top - numbers.get(name, top) for name, _ in net.named_parameters()}


def parameter_groups(
    net: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    backbone_factor: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Returns optimizer parameter groups for `net`, those of the head first.

    Layer-wise decay is that of Clark et al., ELECTRA (2020), as in BEiT and timm. Biases, norms and parameters listed
    by the network's `no_weight_decay` (position embeddings) do not decay, as in timm and fastai.

    Args:
        net: A timm network.
        lr: Learning rate of the head.
        weight_decay: Weight decay of all other parameters.
        backbone_factor: Learning rate of the backbone relative to the head's; 0: groups of the head only.
        layer_decay: Learning rate of a layer relative to that of the layer above it.
    """
    _, head = split_parameters(net)
    heads, depths = set(map(id, head)), layer_depths(net, stages=False) if layer_decay != 1 else {}
    undecayed: Any = getattr(net, "no_weight_decay", set)()
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        in_head, depth = id(parameter) in heads, depths.get(name, 0)
        if not in_head and not backbone_factor:
            continue
        decays = not weight_decay or (parameter.ndim > 1 and not any(fnmatch(name, pattern) for pattern in undecayed))
        layer = "head" if in_head else f"backbone-{depth}" if depths else "backbone"
        key = layer if decays else f"{layer}, no decay"
        rate = lr if in_head else lr * backbone_factor * layer_decay**depth
        group = {"params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0, "name": key}
        groups.setdefault(key, group)["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: not group["name"].startswith("head"))


def create_optimizer(groups: list[dict[str, Any]], hp: Mapping[str, Any], trainer: pl.Trainer) -> torch.optim.Optimizer:
    """Returns the optimizer that the hyperparameters `hp` select, AdamW by default, for parameter `groups`.

    Raises:
        UserError: `optimizer` names no optimizer that trains in steps.
    """
    settings = {"_target_": "torch.optim.AdamW", **hp["optimizer"]}
    kind = load_target(target := settings.pop("_target_"))
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise UserError(f"optimizer._target_={target} is not a torch.optim.Optimizer")
    if kind is torch.optim.LBFGS:
        raise UserError(f"optimizer=lbfgs fits a linear probe, not finetune={hp['finetune']}: omit one of the two")
    if trainer.gradient_clip_val and isinstance(trainer.precision_plugin, MixedPrecision):
        settings.pop("fused", None)  # Lightning cannot clip for a fused optimizer in mixed precision
    optimizer: torch.optim.Optimizer = create(
        "optimizer", kind, groups, **{"lr": hp["lr"], "weight_decay": hp["weight_decay"], **settings}
    )
    return optimizer
