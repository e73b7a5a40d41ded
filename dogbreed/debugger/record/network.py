"""The parts of a LightningModule: its network, the roles of parameters, activation layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dogbreed.input_spec import InputSpec

_HEADS = ("head", "fc", "classifier", "last_linear")

COUNTED_ACTIVATIONS: Mapping[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}
"""Activation layers whose active nodes are counted, and their kind."""

_OTHER_ACTIVATIONS = (nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.Mish)


def root_module(pl_module: pl.LightningModule) -> nn.Module:
    """Returns the network of a LightningModule: its only child with parameters, else the module itself.

    Wrappers by `torch.compile` and DDP are removed, so parameter names are those of the plain network.
    """
    children = [child for child in pl_module.children() if any(True for _ in child.parameters())]
    root: Any = children[0] if len(children) == 1 else pl_module
    while hasattr(root, "_orig_mod") or isinstance(root, nn.parallel.DistributedDataParallel):
        root = root._orig_mod if hasattr(root, "_orig_mod") else root.module
    return root


def is_compiled(pl_module: pl.LightningModule) -> bool:
    """Returns whether any part of the module runs through `torch.compile`, whose graphs hooks would break."""
    if "training_step" in vars(pl_module):  # Lightning sets the compiled methods on the instance
        return True
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in pl_module.modules()
    )


def is_pretrained(pl_module: pl.LightningModule) -> bool:
    """Returns whether the network starts from pretrained weights, according to the module's hyperparameters."""
    hparams: Mapping[str, Any] = getattr(pl_module, "hparams", {})
    weights = hparams.get("weights", hparams.get("pretrained", False))
    return bool(weights) and weights != "random"


def normalization(pl_module: pl.LightningModule) -> dict[str, Sequence[float]]:
    """Returns `mean` and `std` per channel of the images that the network expects, {} if unknown."""
    spec = getattr(pl_module, "input_spec", None)
    return {"mean": spec.mean, "std": spec.std} if isinstance(spec, InputSpec) else {}


def parameter_tags(root: nn.Module, pretrained: bool) -> dict[str, frozenset[str]]:
    """Returns the roles of each parameter and module: bias, norm, head or backbone, pretrained."""
    head = head_prefix(root)
    backbone = {"backbone", "pretrained"} if pretrained else {"backbone"}

    def part(name: str) -> set[str]:
        return {"head"} if head and (name == head or name.startswith(head + ".")) else backbone

    tags: dict[str, frozenset[str]] = {}
    for module_name, module in root.named_modules():
        tags[module_name] = frozenset(part(module_name))
        is_norm = isinstance(module, (_BatchNorm, nn.LayerNorm, nn.GroupNorm)) or "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False):
            full = f"{module_name}.{name}" if module_name else name
            roles = {"norm"} if is_norm else set()
            roles |= {"bias"} if name.endswith("bias") else set()
            tags[full] = frozenset(roles | part(full))
    return tags


def head_prefix(root: nn.Module) -> str:
    """Returns the name of the network's classifier: timm's, one of the usual names, or the last linear layer."""
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
    """Returns name to (layer, kind) of activation layers; kind is `other` if its nodes are not counted."""
    layers = {}
    for name, module in root.named_modules():
        kind = next((kind for base, kind in COUNTED_ACTIVATIONS.items() if isinstance(module, base)), None)
        if kind or isinstance(module, _OTHER_ACTIVATIONS):
            layers[name] = (module, kind or "other")
    return layers


def logits_of(output: Any) -> torch.Tensor | None:
    """Returns a network's output as (B, C) float logits, None if it is something else."""
    if isinstance(output, torch.Tensor) and output.ndim == 2 and output.is_floating_point() and output.shape[1] > 1:
        return output.detach()
    return None
