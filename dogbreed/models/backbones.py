"""timm networks with the weights asked for: made, loaded, split into backbone and head, frozen."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn

from dogbreed.errors import UserError, did_you_mean

log = logging.getLogger(__name__)


def create(name: str, num_classes: int, weights: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Returns timm's network `name` with a new head of `num_classes` outputs.

    Args:
        name: as `timm.list_models()` spells it.
        num_classes: outputs of the head; input (B, 3, H, W), output (B, num_classes) logits.
        weights: `hub` for timm's pretrained ones, `random`, or the path of a .safetensors or .pth file.
        kwargs: passed on to `timm.create_model`.

    Raises:
        UserError: unknown name or keyword, no way to the hub, a file that is missing or of another network.
    """
    if not timm.is_model(name):
        raise UserError(f"model.name={name} is not a timm model{_similar(name)}")
    try:
        net = timm.create_model(name, pretrained=weights == "hub", num_classes=num_classes, **kwargs)
    except TypeError as error:
        raise UserError(f"model.kwargs {sorted(kwargs)} do not suit {name}: {error}") from None
    except Exception as error:
        if weights != "hub":
            raise
        raise UserError(_no_hub(name, error)) from error
    new_head = weights == "hub" and num_classes != net.pretrained_cfg["num_classes"]  # type: ignore[index]
    if weights not in ("hub", "random"):
        new_head = _load_file(net, name, Path(weights).expanduser())
    if new_head:
        _quiet_head(net)
    return net


def _quiet_head(net: nn.Module) -> None:
    """Gives the new head on pretrained features small weights, so that the first loss is about ln(classes).

    Some of timm's own starts are meant for training everything: MobileNetV2's gave a first loss of 11 over 100 classes.
    """
    for name in head_names(net):
        for module in net.get_submodule(name).modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _similar(name: str) -> str:
    family = timm.list_models(f"*{name.rstrip('0123456789')}*") or timm.list_models()
    hint = did_you_mean(name, family)
    return hint if "did you mean" in hint else "; timm.list_models() names them all"


def _no_hub(name: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return (
        f"pretrained weights of {name} cannot be had from the hub ({type(error).__name__}: {reason}): "
        "give a file (model.weights=PATH.safetensors), or model.weights=random to train from nothing on purpose"
    )


def _load_file(net: nn.Module, name: str, path: Path) -> bool:
    """Loads `path` into `net`, all but a head of another size; returns whether there was one.

    Nothing in the file is executed.
    """
    state = _read_file(path)
    own = net.state_dict()
    head = {key for key in own if key.startswith(tuple(f"{module}." for module in head_names(net)))}
    other_head = sorted(key for key in head if key not in state or state[key].shape != own[key].shape)
    wrong = sorted(key for key in own.keys() - head if key not in state or state[key].shape != own[key].shape)
    unused = sorted(key for key in state.keys() - own.keys() if not key.startswith(tuple(head_names(net))))
    if wrong or unused:
        first = ", ".join((wrong + unused)[:3])
        raise UserError(
            f"model.weights={path} are not those of {name}: {len(wrong)} of {len(own)} tensors are missing or of "
            f"another shape, {len(unused)} are unknown ({first}); check model.name and model.kwargs"
        )
    for key in other_head:
        state[key] = own[key]
    net.load_state_dict({key: state[key] for key in own})
    kept = f"its head is new ({', '.join(other_head)})" if other_head else "its head included"
    log.info("weights of %s read from %s; %s", name, path, kept)
    return bool(other_head)


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"model.weights={path}: no such file (or type hub or random)")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:
        raise UserError(
            f"model.weights={path} cannot be read as weights: {str(error).splitlines()[0][:200]}"
        ) from error
    if any(key.startswith("net.") for key in state):  # a checkpoint of an ImageClassifier
        state = {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
    return state


def pretrained_head(net: nn.Module, name: str, weights: str, kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns weight (K, D) and bias (K,) of the classifier that came with the weights of `net`, made by `create`.

    Raises:
        UserError: there is none, or it is not one linear layer like the head of `net`.
    """
    head = net.get_submodule(head_names(net)[0])
    state: Mapping[str, Tensor] = {}
    if weights == "hub":
        state = timm.create_model(name, pretrained=True, **kwargs).state_dict()
    elif weights != "random":
        state = _read_file(Path(weights).expanduser())
    weight, bias = (state.get(f"{head_names(net)[0]}.{part}") for part in ("weight", "bias"))
    linear = isinstance(head, nn.Linear) and weight is not None and weight.shape[1:] == head.weight.shape[1:]
    if not linear or bias is None or weight is None:
        raise UserError(f"head_start=pretrained: model.weights={weights} hold no linear classifier to begin near to")
    return weight.float(), bias.float()


def head_names(net: nn.Module) -> list[str]:
    """Returns the names of the modules of `net` that make the head: timm's classifier, or two where there are two."""
    classifier = net.pretrained_cfg["classifier"]  # type: ignore[index]
    return [classifier] if isinstance(classifier, str) else list(classifier)


def split_parameters(net: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Returns the parameters of the backbone and of the head."""
    heads = {id(p) for name in head_names(net) for p in net.get_submodule(name).parameters()}
    backbone = [p for p in net.parameters() if id(p) not in heads]
    return backbone, [p for p in net.parameters() if id(p) in heads]


def train_head_only(net: nn.Module) -> None:
    """Puts the head of `net` in train mode and the frozen rest in eval mode.

    A frozen batch norm must neither use the batch's statistics nor update its running ones, and dropout inside a
    frozen backbone would only add noise. The modules that hold the head stay in train mode: timm applies the head's
    own dropout there.
    """
    heads = head_names(net)
    for name, module in net.named_modules():
        holds_head = any(head == name or head.startswith(f"{name}.") or name == "" for head in heads)
        inside_head = any(name.startswith(f"{head}.") for head in heads)
        module.training = holds_head or inside_head


def freeze_norms(net: nn.Module) -> None:
    """Puts the batch norms of `net` in eval mode: small batches then neither normalise nor move what they know.

    Their scale and shift can still be trained. For weights into which batch norms were folded this is the only way
    to begin with what the network can do.
    """
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@torch.inference_mode()
def has_linear_head(net: nn.Module, height: int, width: int) -> bool:
    """Returns whether the head of `net` is one linear layer on one vector an image, but for timm's dropout before it.

    Tried on one image of `height` and `width` px, as it is while the head is trained.
    """
    names = head_names(net)
    head = net.get_submodule(names[0])
    if len(names) != 1 or not isinstance(head, nn.Linear):
        return False
    given: list[Tensor] = []
    handle = head.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    modes = {module: module.training for module in net.modules()}
    image = torch.linspace(-1, 1, 3 * height * width, device=head.weight.device).view(1, 3, height, width)
    devices = [head.weight.device] if head.weight.is_cuda else []
    try:
        net.eval()(image)
        train_head_only(net)
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            expected = net(image)
            torch.manual_seed(0)
            found = _on_features(net, given[0]) if given[0].ndim == 2 else None
    finally:
        handle.remove()
        for module, training in modes.items():
            module.training = training
    return found is not None and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def _on_features(net: nn.Module, features: Tensor) -> Tensor:
    """Returns the logits that the head of `net` makes of what it is given before its dropout, (B, D)."""
    dropped = nn.functional.dropout(features, float(getattr(net, "drop_rate", 0.0)), net.training)
    return net.get_submodule(head_names(net)[0])(dropped)


def accept_features(net: nn.Module) -> None:
    """Lets `net` take features (B, D), what its linear head is given, in place of images (B, 3, H, W).

    `net` itself is called either way, so whoever listens to it or to its head hears the same.
    """
    net.forward = partial(_on_either, net)  # a copy of `net` then runs on its own weights


def _on_either(net: nn.Module, inputs: Tensor) -> Tensor:
    return type(net).forward(net, inputs) if inputs.ndim == 4 else _on_features(net, inputs)


def answer_for_both_sides(net: nn.Module) -> None:
    """Lets `net` answer in eval mode with the mean of its logits for an image and for its mirror image.

    A hook, so that whoever calls or listens to `net` hears that answer, and copies of `net` do the same.
    """

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if module.training or inputs[0].ndim != 4:  # features are those of both sides already
            return None
        return (output + module.forward(inputs[0].flip(-1))) / 2

    net.register_forward_hook(hook)


def data_config(net: nn.Module) -> dict[str, Any]:
    """Returns what `net` expects of an image: input_size, mean, std, interpolation, crop_pct, as timm has it."""
    config = resolve_model_data_config(net)
    return {key: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for key, value in config.items()}  # fmt: skip


def count_parameters(net: nn.Module) -> tuple[int, int]:
    """Returns how many parameters `net` has and how many of them are trained."""
    return sum(p.numel() for p in net.parameters()), sum(p.numel() for p in net.parameters() if p.requires_grad)
