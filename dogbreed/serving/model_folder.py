"""Reads a model folder: what a training writes, and what an endpoint serves, locally and in SageMaker's container.

    model.safetensors       weights of the whole network, backbone and head
    model.json              the model card: architecture, classes, input format, metrics, provenance
    code/inference.py       model_fn, input_fn, predict_fn, output_fn, with a copy of the modules they import
    code/requirements.txt   packages that SageMaker's PyTorch inference image lacks

Nothing in it is unpickled, and only SageMaker's container executes the code in it. `bundle.py` writes the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec
from dogbreed.models import backbones
from dogbreed.models.heads import head_names
from dogbreed.models.tta import FlipTTA

FORMAT = 1
"""Version of the card's format; cards of a newer version are rejected."""

WEIGHTS, CARD = "model.safetensors", "model.json"


@dataclass(frozen=True)
class ModelCard:
    """Everything about a model except its weights."""

    name: str
    """Name of the training."""
    architecture: str
    """timm model name, as in `timm.list_models()`."""
    model_kwargs: Mapping[str, Any]
    """Further keyword arguments of `timm.create_model`."""
    classes: list[str]
    """Class folder names, in the order of the network's outputs."""
    labels: list[str]
    """Short code of each class, for example `069`."""
    names: list[str]
    """Display name of each class, for example `French_bulldog`."""
    input_size: list[int]
    """Channels (3), height and width of the network's input, px."""
    mean: list[float]
    """Mean of each RGB channel, on the scale 0 to 1."""
    std: list[float]
    """Standard deviation of each RGB channel, on the scale 0 to 1."""
    interpolation: str
    """`nearest`, `bilinear` or `bicubic`."""
    crop_pct: float
    """Fraction of the resized image's side that the centre crop keeps."""
    crop_mode: str
    """`center`, or `squash` to ignore the aspect ratio."""
    tta: bool = False
    """Whether logits are averaged over an image and its mirror image, as in the test."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the kept epoch, for example `{"val/accuracy": 0.84, "test/accuracy": 0.82}`."""
    overrides: list[str] = field(default_factory=list)
    """Hydra overrides of the training."""
    versions: dict[str, str] = field(default_factory=dict)
    """Library versions that the model was trained with."""

    @property
    def input_spec(self) -> InputSpec:
        """The network's input format."""
        return InputSpec.from_data_config(asdict(self))


def read_card(folder: Path) -> ModelCard:
    """Returns the card of a model folder.

    Raises:
        UserError: the folder or its card is missing, damaged, or of a newer format.
    """
    path = folder / CARD
    if not path.is_file():
        problem = f"has no {CARD}" if folder.is_dir() else "does not exist"
        raise UserError(f"model folder {folder} {problem}: a training writes one to outputs/NAME/model")
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise ValueError("not a model card")
        if content["format"] > FORMAT:
            raise UserError(
                f"{path} has format {content['format']}, this version reads up to {FORMAT}: install a newer dogbreed"
            )
        return _parse_card(content)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _parse_card(content: Mapping[str, Any]) -> ModelCard:
    types = get_type_hints(ModelCard)
    given = {key: content[key] for key in types if key in content}
    required = {item.name for item in fields(ModelCard) if item.default is item.default_factory is MISSING}
    wrong = [key for key in types if (key in required or key in given) and not _has_type(given.get(key), types[key])]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} missing or of another type")
    card = ModelCard(**given)
    if not len(card.classes) == len(card.labels) == len(card.names) > 1:
        raise ValueError(f"{len(card.classes)} classes, {len(card.labels)} labels, {len(card.names)} names")
    _ = card.input_spec
    return card


def _has_type(value: object, hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return isinstance(value, (int, float) if kind is float else kind)


def load_net(folder: Path, card: ModelCard) -> nn.Module:
    """Returns the network of a model folder in eval mode, float32 (B, 3, H, W) to logits (B, num_classes).

    Raises:
        UserError: the weights are missing, damaged, or do not match the card.
    """
    path = folder / WEIGHTS
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as weights: {error}") from error
    try:
        net = backbones.create(card.architecture, len(card.classes), "random", card.model_kwargs)
    except UserError as error:
        raise UserError(f"{folder / CARD}: {error}") from error
    own = net.state_dict()
    shared = own.keys() & state.keys()
    wrong = sorted((own.keys() ^ state.keys()) | {key for key in shared if own[key].shape != state[key].shape})
    if wrong:
        head = [key for key in wrong if key in state and key.startswith(tuple(head_names(net)))]
        reason = f"{len(card.classes)} classes on the card, {len(state[head[0]])} in the weights" if head else wrong[0]
        raise UserError(f"{path} does not match {CARD}: {len(wrong)} of {len(own)} tensors differ ({reason})")
    net.load_state_dict(state)
    net = FlipTTA(net) if card.tta else net
    return net.eval().requires_grad_(False)
