"""The image format that a backbone expects: shared by data, models, serving and the debugger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torchvision.transforms import InterpolationMode

_TENSOR_MODES = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}
"""Every other mode of timm (bicubic, lanczos, ...) maps to bicubic, the closest mode that resizes tensors."""


@dataclass(frozen=True)
class InputSpec:
    """Size, normalisation and evaluation crop of a backbone's input images; the defaults are ImageNet's."""

    height: int = 224
    width: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Per RGB channel, on the scale 0 to 1."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Per RGB channel, on the scale 0 to 1."""
    interpolation: InterpolationMode = InterpolationMode.BICUBIC
    crop_pct: float = 0.875
    """Fraction of the resized image's side that the evaluation crop keeps."""
    squash: bool = False
    """Evaluation resizes to the input size and ignores the aspect ratio (timm's `crop_mode: squash`)."""

    @classmethod
    def from_data_config(cls, config: Mapping[str, Any]) -> InputSpec:
        """Returns the spec for a dict as `timm.data.resolve_data_config` returns it."""
        height, width = config["input_size"][-2:]
        return cls(
            height=int(height),
            width=int(width),
            mean=tuple(config.get("mean", cls.mean)),
            std=tuple(config.get("std", cls.std)),
            interpolation=_TENSOR_MODES.get(config.get("interpolation", "bicubic"), InterpolationMode.BICUBIC),
            crop_pct=float(config.get("crop_pct") or cls.crop_pct),
            squash=config.get("crop_mode") == "squash",
        )

    def resized(self, image_size: int | None) -> InputSpec:
        """Returns the spec for square images of `image_size` px; None keeps the size."""
        return self if image_size is None else replace(self, height=image_size, width=image_size)
