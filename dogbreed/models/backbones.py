"""Creates timm networks and loads their pretrained weights."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from timm.data.config import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn

from dogbreed.errors import UserError, did_you_mean
from dogbreed.input_spec import InputSpec
from dogbreed.models.heads import head_names

log = logging.getLogger(__name__)


_RESERVED = ("num_classes", "pretrained", "checkpoint_path", "features_only")
"""Arguments of `timm.create_model` that are derived here; a checkpoint_path would be unpickled."""


def create(name: str, num_classes: int, weights: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Returns timm's network `name` with a new head of `num_classes` outputs.

    Args:
        name: Model name as in `timm.list_models()`.
        num_classes: Outputs of the head; input (B, 3, H, W), output (B, num_classes) logits.
        weights: `hub` for timm's pretrained weights, `random`, or the path of a .safetensors or .pth file.
        kwargs: Further arguments of `timm.create_model`.

    Raises:
        UserError: The name or a keyword is unknown or does not make a classifier of RGB images, the hub is unreachable,
            or the file is missing or does not fit.
    """
    if not timm.is_model(name):
        raise UserError(f"model.name={name} is not a timm model{_suggest_name(name)}")
    wrong = [key for key in _RESERVED if key in kwargs]
    wrong += ["in_chans"] if kwargs.get("in_chans", 3) != 3 else []  # images are RGB
    wrong += ["global_pool"] if kwargs.get("global_pool") == "" else []  # a classifier needs pooled features
    if wrong:
        raise UserError(f"model.kwargs.{wrong[0]}={kwargs[wrong[0]]!r}: not available, omit it")
    try:
        net = timm.create_model(name, pretrained=weights == "hub", num_classes=num_classes, **kwargs)
    except (TypeError, KeyError, AssertionError) as error:
        raise UserError(f"model.kwargs {sorted(kwargs)} are not accepted by {name}: {error!r}") from None
    except Exception as error:
        if weights == "hub":
            raise UserError(_hub_error(name, error)) from error
        raise UserError(f"model.name={name} cannot be created: {' '.join(str(error).split())[:200]}") from error
    if not _has_head(net):
        raise UserError(f"model.name={name} has no classifier to train: choose another network")
    new_head = weights == "hub"  # even for as many classes as it was trained on: they are others
    if weights not in ("hub", "random"):
        new_head = _load_file(net, name, Path(weights).expanduser())
    if new_head:
        _shrink_head(net)
    return net


def _has_head(net: nn.Module) -> bool:
    modules = dict(net.named_modules())
    known: Any = getattr(net, "pretrained_cfg", None) or {}
    names = head_names(net) if known.get("classifier") else []
    return bool(names) and all(name in modules and any(True for _ in modules[name].parameters()) for name in names)


def _shrink_head(net: nn.Module) -> None:
    """Reinitialises a new head on pretrained features with small weights, so that the first loss is about ln(classes).

    Some of timm's initialisations are meant for training from scratch and give a much larger first loss.
    """
    for name in head_names(net):
        for module in net.get_submodule(name).modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _suggest_name(name: str) -> str:
    family = timm.list_models(f"*{name.rstrip('0123456789')}*") or timm.list_models()
    hint = did_you_mean(name, family)
    return hint if "did you mean" in hint else "; timm.list_models() lists all names"


def _hub_error(name: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return (
        f"pretrained weights of {name} are not available from the hub ({type(error).__name__}: {reason}): "
        "give a file (model.weights=PATH.safetensors), or model.weights=random to train from scratch"
    )


def _load_file(net: nn.Module, name: str, path: Path) -> bool:
    """Loads `path` into `net` without unpickling code; returns whether the head was skipped for its shape."""
    own = net.state_dict()
    state = _converted(_read_file(path), net, own)
    head = {key for key in own if key.startswith(tuple(f"{module}." for module in head_names(net)))}
    new_head = sorted(key for key in head if key not in state or state[key].shape != own[key].shape)
    wrong = sorted(key for key in own.keys() - head if key not in state or state[key].shape != own[key].shape)
    unknown = sorted(key for key in state.keys() - own.keys() if not key.startswith(tuple(head_names(net))))
    if wrong or unknown:
        first = ", ".join((wrong + unknown)[:3])
        raise UserError(
            f"model.weights={path} are not those of {name}: {len(wrong)} of {len(own)} tensors are missing or of "
            f"another shape, {len(unknown)} are unknown ({first}); check model.name and model.kwargs"
        )
    for key in new_head:
        state[key] = own[key]
    net.load_state_dict({key: state[key] for key in own})
    head_source = f"its head is new ({', '.join(new_head)})" if new_head else "including its head"
    log.info("weights of %s loaded from %s; %s", name, path, head_source)
    return bool(new_head)


def _converted(state: dict[str, Tensor], net: nn.Module, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns `state` with the names and shapes of `own`, as far as it is another form of them.

    That is the state dict of a module that contains the network, one without counters of batches, or one that timm
    converts: other names, or position embeddings of another image size.
    """
    for prefix in ("model.", "backbone.", "encoder.", "module."):
        if not state.keys() & own.keys():
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)} or state
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert is not None and any(key not in state or state[key].shape != own[key].shape for key in own):
        with suppress(Exception):  # of another architecture: the comparison with `own` shows it
            converted = convert(dict(state), net)
            state = converted if isinstance(converted, dict) else state
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    return {**counters, **state} if state.keys() & own.keys() else state


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"model.weights={path}: no such file (or type hub or random)")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"model.weights={path} cannot be read as weights: {reason}") from error
    state = state.get("model_state_dict", state)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"model.weights={path} cannot be read as weights: it is not a state dict")
    if any(key.startswith("net.") for key in state):  # a checkpoint of an ImageClassifier
        state = {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
    return state


def pretrained_head(net: nn.Module, name: str, weights: str, kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns weight (K, D) and bias (K,) of the classifier that the pretrained weights of `net` come with.

    Raises:
        UserError: The weights contain no classifier, or not a linear one like the head of `net`.
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
        raise UserError(
            f"head_start=pretrained: model.weights={weights} contain no linear classifier: type head_start=solved"
        )
    return weight.float(), bias.float()


def input_spec(net: nn.Module, kwargs: Mapping[str, Any] | None = None) -> InputSpec:
    """Returns the image format that timm documents for `net`, in the size of `kwargs["img_size"]` if that is given."""
    spec = InputSpec.from_data_config(resolve_model_data_config(net))
    size = (kwargs or {}).get("img_size")
    if size is None:
        return spec
    height, width = (size, size) if isinstance(size, int) else size
    return replace(spec, height=height, width=width)
