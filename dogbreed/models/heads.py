"""The head of a timm network: which modules it is made of, and its logits for pooled features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class FeatureBatch(NamedTuple):
    """A batch of cached backbone features, in place of a batch of images."""

    features: Tensor
    """float32 (B, D): input of the linear head, before dropout."""
    labels: Tensor
    """int64 (B,): class index."""
    indices: Tensor
    """int64 (B,): position of each image in its split."""


def head_names(net: nn.Module) -> list[str]:
    """Returns the module names of the classifier of `net`: one, or two for distilled networks."""
    classifier = net.pretrained_cfg["classifier"]  # type: ignore[index]
    return [classifier] if isinstance(classifier, str) else list(classifier)


def split_parameters(net: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Returns the parameters of the backbone and of the head."""
    heads = {id(p) for name in head_names(net) for p in net.get_submodule(name).parameters()}
    backbone = [p for p in net.parameters() if id(p) not in heads]
    return backbone, [p for p in net.parameters() if id(p) in heads]


def count_parameters(net: nn.Module) -> tuple[int, int]:
    """Returns the number of parameters of `net`, and how many of them are trained."""
    return sum(p.numel() for p in net.parameters()), sum(p.numel() for p in net.parameters() if p.requires_grad)


def head_dropouts(net: nn.Module) -> list[nn.Dropout]:
    """Returns the `nn.Dropout` modules between the pooled features and the classifier, in forward order.

    They are the siblings registered directly before the classifier (`head_drop` of a ViT, `head.drop` of a ConvNeXt).
    ResNets and others apply a functional dropout instead, and have none.
    """
    found: list[nn.Dropout] = []
    for name in head_names(net):
        parent, _, leaf = name.rpartition(".")
        siblings = list(net.get_submodule(parent).named_children())
        position = [child for child, _ in siblings].index(leaf)
        for _, module in reversed(siblings[:position]):
            if isinstance(module, nn.Dropout):
                found.insert(0, module)
            elif any(True for _ in module.parameters()):
                break
    return found


def head_logits(net: nn.Module, features: Tensor) -> Tensor:
    """Returns the logits (B, C) of the linear head of `net` for cached `features` (B, D), dropout included.

    Only valid for networks for which `has_linear_head` is true.
    """
    dropouts = head_dropouts(net)
    for dropout in dropouts:
        features = dropout(features)
    if not dropouts:
        features = nn.functional.dropout(features, float(getattr(net, "drop_rate", 0.0)), net.training)
    logits: Tensor = net.get_submodule(head_names(net)[0])(features)
    return logits


def set_head_train_mode(net: nn.Module) -> None:
    """Puts the head of `net` in train mode and the frozen backbone in eval mode.

    A frozen batch norm must neither use batch statistics nor update its running ones, and dropout inside a frozen
    backbone only adds noise. The modules that contain the head are in train mode too, because timm applies the head's
    functional dropout there.
    """
    heads, dropouts = head_names(net), set(map(id, head_dropouts(net)))
    for name, module in net.named_modules():
        contains_head = any(name in ("", head) or head.startswith(f"{name}.") for head in heads)
        inside_head = any(name.startswith(f"{head}.") for head in heads)
        module.training = contains_head or inside_head or id(module) in dropouts


@torch.inference_mode()
def has_linear_head(net: nn.Module, height: int, width: int) -> bool:
    """Returns whether `head_logits` on pooled features equals the whole network, dropout included.

    Runs one image of `height` x `width` px through the network, in eval mode and in head training mode.
    """
    names = head_names(net)
    head = net.get_submodule(names[0])
    if len(names) != 1 or not isinstance(head, nn.Linear):
        return False
    captured: list[Tensor] = []
    handle = head.register_forward_hook(lambda module, inputs, output: captured.append(inputs[0]))
    modes = {module: module.training for module in net.modules()}
    image = torch.linspace(-1, 1, 3 * height * width, device=head.weight.device).view(1, 3, height, width)
    devices = [head.weight.device] if head.weight.is_cuda else []
    try:
        net.eval()(image)
        set_head_train_mode(net)
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            expected = net(image)
            torch.manual_seed(0)
            logits = head_logits(net, captured[0]) if captured[0].ndim == 2 else None
    finally:
        handle.remove()
        for module, training in modes.items():
            module.training = training
    return logits is not None and torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)
