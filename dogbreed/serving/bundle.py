"""The model folder: what a training leaves, and what an endpoint serves, here and in SageMaker's container.

    model.safetensors       weights of the whole network, backbone and head
    model.json              the card: architecture, classes, what images it takes, metrics, what made it
    code/inference.py       model_fn, input_fn, predict_fn, output_fn, with a copy of what they need of dogbreed
    code/requirements.txt   what SageMaker's PyTorch inference image lacks

Nothing in it is unpickled, and the code in it is executed only by SageMaker's container.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dogbreed.data.classes import parse_class
from dogbreed.data.transforms import InputSpec
from dogbreed.errors import UserError
from dogbreed.models import backbones as backbone
from dogbreed.serving.code_closure import module_files
from dogbreed.system.atomic import atomic_write

FORMAT = 1
"""Number of the card's format; a card of a newer one is refused."""

WEIGHTS, CARD = "model.safetensors", "model.json"

_REQUIREMENTS = ("safetensors", "simplejpeg", "timm")
"""What they need beyond torch, torchvision, Pillow and NumPy, which are in the image."""


@dataclass(frozen=True)
class ModelCard:
    """What is to be known of a model beside its weights."""

    name: str
    """Of the training."""
    architecture: str
    """As `timm.list_models()` spells it."""
    model_kwargs: Mapping[str, Any]
    """What `timm.create_model` was given besides."""
    classes: list[str]
    """Folder names, in the order of the network's outputs."""
    labels: list[str]
    """Short code of each class, `069`."""
    names: list[str]
    """Name of each class to show, `French_bulldog`."""
    input_size: list[int]
    """3, height, width of the images that the network takes, px."""
    mean: list[float]
    """Of each RGB channel, on the scale 0 to 1."""
    std: list[float]
    interpolation: str
    """`nearest`, `bilinear` or `bicubic`."""
    crop_pct: float
    """Part of the resized image's side that is kept."""
    crop_mode: str
    """`center`, or `squash`: the aspect ratio is ignored."""
    tta: bool = False
    """Whether the answer is the mean of the logits of an image and of its mirror image, as it was in the test."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the epoch that was kept: `{"val/accuracy": 0.84, "test/accuracy": 0.82}`."""
    overrides: list[str] = field(default_factory=list)
    """The Hydra overrides that made the training."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that trained it."""

    @property
    def input_spec(self) -> InputSpec:
        """What images the network takes."""
        return InputSpec.from_data_config(asdict(self))


def make_card(
    *,
    name: str,
    architecture: str,
    model_kwargs: Mapping[str, Any],
    classes: list[str],
    images: InputSpec,
    metrics: Mapping[str, float],
    overrides: list[str],
    tta: bool = False,
) -> ModelCard:
    """Returns the card of a network that was trained just now; metrics that are no numbers are left out."""
    parsed = [parse_class(folder) for folder in classes]
    return ModelCard(
        name=name,
        architecture=architecture,
        model_kwargs=model_kwargs,
        classes=classes,
        labels=[label for label, _ in parsed],
        names=[shown for _, shown in parsed],
        input_size=[3, images.height, images.width],
        mean=list(images.mean),
        std=list(images.std),
        interpolation=images.interpolation.value,
        crop_pct=images.crop_pct,
        crop_mode="squash" if images.squash else "center",
        tta=tta,
        metrics={key: value for key, value in metrics.items() if math.isfinite(value)},
        overrides=overrides,
        versions={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "timm", "pytorch-lightning")},
    )


def write_model(folder: Path, state: Mapping[str, Tensor], card: ModelCard) -> None:
    """Writes the model folder; what was in it of an earlier model is replaced, the card last.

    Args:
        folder: Made where it is not there.
        state: `state_dict()` of the network.
        card: Of the same network.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)  # a folder without a card is no model
        tensors = {
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()
        }
        atomic_write(folder / WEIGHTS, lambda part: save_file(tensors, part, metadata={"format": "pt"}))
        _write_code(folder / "code")
        text = json.dumps({"format": FORMAT, **asdict(card)}, indent=2) + "\n"
        atomic_write(folder / CARD, lambda part: part.write_text(text))
    except (OSError, SafetensorError) as error:
        raise UserError(f"model_dir={folder} cannot be written ({error}): give another one") from error


def _write_code(folder: Path) -> None:
    home = Path(__file__).resolve().parents[2]
    shutil.rmtree(folder, ignore_errors=True)
    for path in module_files("dogbreed.serving.inference", home):
        target = folder / path.relative_to(home)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    shutil.copyfile(home / "dogbreed" / "serving" / "inference.py", folder / "inference.py")
    pins = "".join(f"{name}=={importlib.metadata.version(name)}\n" for name in _REQUIREMENTS)
    (folder / "requirements.txt").write_text(pins)


_KINDS: dict[str, type | tuple[type, ...]] = {
    "name": str, "architecture": str, "model_kwargs": dict, "classes": list, "labels": list, "names": list,
    "input_size": list, "mean": list, "std": list, "interpolation": str, "crop_pct": (int, float), "crop_mode": str,
    "tta": bool, "metrics": dict, "overrides": list, "versions": dict,
}  # fmt: skip


def read_card(folder: Path) -> ModelCard:
    """Returns the card of a model folder.

    Raises:
        UserError: no such folder, no card, or one that is damaged or of a newer format.
    """
    place = folder / CARD
    if not place.is_file():
        what = f"has no {CARD}" if folder.is_dir() else "does not exist"
        raise UserError(f"model folder {folder} {what}: a training leaves one in outputs/NAME/model")
    try:
        found = json.loads(place.read_text())
        if not isinstance(found, dict) or not isinstance(found.get("format"), int):
            raise ValueError("no card of a model")
        number = found.pop("format")
        if number > FORMAT:
            raise UserError(f"{place} has format {number}, this dogbreed reads up to {FORMAT}: install a newer one")
        found.setdefault("tta", False)  # cards made before there was one
        wrong = [key for key, kind in _KINDS.items() if not isinstance(found.get(key), kind)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} missing or of another type")
        card = ModelCard(**{key: found[key] for key in _KINDS})
        if not len(card.classes) == len(card.labels) == len(card.names) > 1:
            raise ValueError(f"{len(card.classes)} classes, {len(card.labels)} labels, {len(card.names)} names")
        _ = card.input_spec
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{place} cannot be read: {error}") from error
    return card


def load_net(folder: Path, card: ModelCard) -> nn.Module:
    """Returns the network of a model folder in eval mode, float32 (B, 3, H, W) to logits (B, num_classes).

    Raises:
        UserError: the weights are missing, damaged, or not those that the card describes.
    """
    place = folder / WEIGHTS
    try:
        state = load_file(place)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{place} cannot be read as weights: {error}") from error
    try:
        net = backbone.create(card.architecture, len(card.classes), "random", card.model_kwargs)
    except UserError as error:
        raise UserError(f"{folder / CARD}: {error}") from error
    own = net.state_dict()
    wrong = sorted(key for key in own.keys() | state.keys() if key not in own or key not in state
                   or own[key].shape != state[key].shape)  # fmt: skip
    if wrong:
        head = [key for key in wrong if key in state and key.startswith(tuple(backbone.head_names(net)))]
        why = f"{len(card.classes)} classes are on the card, {len(state[head[0]])} in the weights" if head else wrong[0]
        raise UserError(f"{place} does not fit {CARD}: {len(wrong)} of {len(own)} tensors differ ({why})")
    net.load_state_dict(state)
    if card.tta:
        backbone.answer_for_both_sides(net)
    return net.eval().requires_grad_(False)
