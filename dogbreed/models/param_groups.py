"""Optimizer parameter groups: learning rates by layer, and which parameters decay."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from timm.models import group_parameters
from torch import nn

from dogbreed.models.heads import split_parameters


def layer_depths(net: nn.Module, *, stages: bool) -> dict[str, int]:
    """Returns the distance of each parameter from the head, by name: 0 for parameters at the head's level.

    Args:
        net: A timm network. All depths are 0 for the few architectures whose layers timm does not number.
        stages: Counts stages (a ResNet's `layer4` is 1, `layer3` is 2) instead of blocks.
    """
    matcher: Any = getattr(net, "group_matcher", None)
    numbers = group_parameters(net, matcher(coarse=stages), reverse=True) if matcher else {}
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
