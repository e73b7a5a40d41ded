"""Writes a model folder at the end of a training; `model_folder.py` describes and reads it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec
from dogbreed.labels import parse_classes
from dogbreed.serving.code_closure import module_files
from dogbreed.serving.model_folder import CARD, FORMAT, WEIGHTS, ModelCard
from dogbreed.system.atomic import atomic_write

_REQUIREMENTS = ("safetensors", "simplejpeg", "timm")
"""Packages the copied code needs beyond torch, torchvision, Pillow and NumPy, which are in the image."""

_RECORDED_VERSIONS = ("torch", "torchvision", "timm", "pytorch-lightning")


def make_card(
    *,
    name: str,
    architecture: str,
    model_kwargs: Mapping[str, Any],
    classes: list[str],
    input_spec: InputSpec,
    metrics: Mapping[str, float],
    overrides: list[str],
    tta: bool = False,
) -> ModelCard:
    """Returns the card of a model trained with the installed libraries; metrics that are not finite are omitted."""
    parsed = parse_classes(classes)
    return ModelCard(
        name=name,
        architecture=architecture,
        model_kwargs=model_kwargs,
        classes=classes,
        labels=[label for label, _ in parsed],
        names=[display_name for _, display_name in parsed],
        input_size=[3, input_spec.height, input_spec.width],
        mean=list(input_spec.mean),
        std=list(input_spec.std),
        interpolation=input_spec.interpolation.value,
        crop_pct=input_spec.crop_pct,
        crop_mode="squash" if input_spec.squash else "center",
        tta=tta,
        metrics={key: value for key, value in metrics.items() if math.isfinite(value)},
        overrides=overrides,
        versions={"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in _RECORDED_VERSIONS},
    )


def write_model(folder: Path, state: Mapping[str, Tensor], card: ModelCard) -> None:
    """Writes a model folder from the state dict of a network and its card, and replaces an earlier model in it.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)  # a folder without a card does not count as a model
        tensors = {
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()
        }
        atomic_write(folder / WEIGHTS, lambda part: save_file(tensors, part, metadata={"format": "pt"}))
        _write_code(folder / "code")
        shutil.copymode(folder / "code" / "requirements.txt", folder / WEIGHTS)  # safetensors lets only the owner read
        text = json.dumps({"format": FORMAT, **asdict(card)}, indent=2) + "\n"
        atomic_write(folder / CARD, lambda part: part.write_text(text))
    except (OSError, SafetensorError) as error:
        raise UserError(f"model_dir={folder} cannot be written ({error}): give another one") from error


def _write_code(folder: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    shutil.rmtree(folder, ignore_errors=True)
    for path in module_files("dogbreed.serving.inference", root):
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    shutil.copyfile(root / "dogbreed" / "serving" / "inference.py", folder / "inference.py")
    pins = "".join(f"{name}=={importlib.metadata.version(name)}\n" for name in _REQUIREMENTS)
    (folder / "requirements.txt").write_text(pins)
