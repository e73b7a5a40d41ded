"""What a LightningModule is made of: its network, the parameters' roles, its activation layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_HEADS = ("head", "fc", "classifier", "last_linear")

KINDS: Mapping[type[nn.Module], str] = {nn.ReLU: "relu", nn.ReLU6: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
"""Activation layers whose nodes are counted one by one, and their kind."""

_OTHERS = (nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.Mish)


def root_module(pl_module: pl.LightningModule) -> nn.Module:
    """Returns the network in a LightningModule: its only child with parameters, else the module itself.

    A wrapper by `torch.compile` or DDP is taken off: the parameters behind it are the same, with plain names.
    """
    children = [child for child in pl_module.children() if any(True for _ in child.parameters())]
    root: Any = children[0] if len(children) == 1 else pl_module
    while hasattr(root, "_orig_mod") or isinstance(root, nn.parallel.DistributedDataParallel):
        root = root._orig_mod if hasattr(root, "_orig_mod") else root.module
    return root


def is_compiled(pl_module: pl.LightningModule) -> bool:
    """Returns whether any part of the module runs through `torch.compile`, where hooks would break its graphs."""
    if getattr(pl_module, "_compiler_ctx", None) is not None:
        return True
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in pl_module.modules()
    )


def parameter_tags(root: nn.Module, pretrained: bool) -> dict[str, frozenset[str]]:
    """Returns the roles of each parameter and module: bias, norm, head or backbone, pretrained."""
    head = head_prefix(root)
    tags: dict[str, frozenset[str]] = {}
    body = {"backbone", "pretrained"} if pretrained else {"backbone"}

    def within_head(name: str) -> bool:
        return bool(head) and (name == head or name.startswith(head + "."))

    for module_name, module in root.named_modules():
        tags[module_name] = frozenset({"head"} if within_head(module_name) else body)
        is_norm = isinstance(module, (_BatchNorm, nn.LayerNorm, nn.GroupNorm)) or "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False):
            full = f"{module_name}.{name}" if module_name else name
            found = {"norm"} if is_norm else set()
            found |= {"bias"} if name.endswith("bias") else set()
            found |= {"head"} if within_head(full) else body
            tags[full] = frozenset(found)
    return tags


def head_prefix(root: nn.Module) -> str:
    """Returns the name of the classifier in the network: timm's, one of the usual names, or the last linear layer."""
    modules = dict(root.named_modules())
    get_classifier: Any = getattr(root, "get_classifier", None)
    if get_classifier is not None:
        classifier = get_classifier()
        named = [name for name, module in modules.items() if module is classifier]
        if named:
            return named[0]
    usual = [name for name in _HEADS if name in modules]
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    return usual[0] if usual else (linear[-1] if linear else "")


def activation_layers(root: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Returns name to (layer, kind) of activation layers; kind is `other` where nodes are not counted."""
    layers = {}
    for name, module in root.named_modules():
        kind = next((kind for base, kind in KINDS.items() if isinstance(module, base)), None)
        if kind or isinstance(module, _OTHERS):
            layers[name] = (module, kind or "other")
    return layers


def starting_weights(pl_module: pl.LightningModule) -> bool:
    """Returns whether the network starts from pretrained weights, by the module's own hyperparameters."""
    hparams: Mapping[str, Any] = getattr(pl_module, "hparams", {})
    weights = hparams.get("weights", hparams.get("pretrained", False))
    return bool(weights) and weights != "random"


def logits_of(output: Any) -> torch.Tensor | None:
    """Returns a network's output as (B, C) float logits, None where it is something else."""
    if isinstance(output, torch.Tensor) and output.ndim == 2 and output.is_floating_point() and output.shape[1] > 1:
        return output.detach()
    return None
