"""Which parameters are trained when, and at what rate: layer by layer, as timm numbers the layers of its networks."""

from __future__ import annotations

import math
from fnmatch import fnmatch
from typing import Any

from timm.models import group_parameters
from torch import nn

from dogbreed.models import backbones as backbone


def depths(net: nn.Module, *, stages: bool) -> dict[str, int]:
    """Returns by name how far below the head each parameter of a timm network lies: 0 for those beside the head.

    All are 0 in one of the few networks whose layers timm does not number.

    Args:
        net: The network.
        stages: Counts stages (a ResNet's `layer4` is 1, `layer3` 2), else the blocks in them.
    """
    matcher: Any = getattr(net, "group_matcher", None)
    numbers = group_parameters(net, matcher(coarse=stages), reverse=True) if matcher else {}
    top = max(numbers.values(), default=0)
    return {name: top - numbers.get(name, top) for name, _ in net.named_parameters()}


def unfreeze(net: nn.Module, num_stages: float) -> None:
    """Lets the optimizer move the head of `net` and the `num_stages` stages next to it, `math.inf` for all of it.

    What lies beside the head, such as the norm before it, joins with the first stage.
    """
    _, head = backbone.split_parameters(net)
    heads, below = set(map(id, head)), depths(net, stages=True)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(id(parameter) in heads or max(1, below[name]) <= num_stages)


def num_stages_at(epoch: int, first: int, every: int) -> float:
    """Returns how many stages are trained in `epoch` beside the head.

    Args:
        epoch: Counted from 0.
        first: Epoch in which the stage next to the head joins.
        every: Epochs from one stage's joining to the next one's; 0: all join at once.
    """
    if epoch < first:
        return 0
    return (epoch - first) // every + 1 if every else math.inf


def train_unfrozen(net: nn.Module) -> None:
    """Puts in train mode what the optimizer moves, and the rest of `net` in eval mode, as `train_head_only` does."""
    backbone.train_head_only(net)
    for module in net.modules():
        parameters = list(module.parameters())
        if parameters and all(parameter.requires_grad for parameter in parameters):
            module.train()


def parameter_groups(
    net: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    backbone_factor: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Returns an optimizer's groups of the parameters of `net`, those of the head first.

    The rates are those of Clark et al., ELECTRA (2020), as BEiT and timm have them: each layer's is `layer_decay` times
    that of the layer above. Biases, norms and what the network itself names (position embeddings) do not decay, as in
    timm and fastai.

    Args:
        net: A timm network.
        lr: Of the head.
        weight_decay: Of weights.
        backbone_factor: Rate of the backbone over the head's; 0: the head alone.
        layer_decay: Rate of a layer over that of the layer above it.
    """
    _, head = backbone.split_parameters(net)
    heads, below = set(map(id, head)), depths(net, stages=False) if layer_decay != 1 else {}
    never: Any = getattr(net, "no_weight_decay", set)()
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        in_head, depth = id(parameter) in heads, below.get(name, 0)
        if not in_head and not backbone_factor:
            continue
        decays = not weight_decay or (parameter.ndim > 1 and not any(fnmatch(name, pattern) for pattern in never))
        layer = "head" if in_head else f"backbone-{depth}" if below else "backbone"
        key = layer if decays else f"{layer}, no decay"
        rate = lr if in_head else lr * backbone_factor * layer_decay**depth
        group = {"params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0, "name": key}
        groups.setdefault(key, group)["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: not group["name"].startswith("head"))
