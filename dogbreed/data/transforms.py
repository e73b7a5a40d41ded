"""Augmentation and evaluation transforms, uint8 to uint8, from the backbone's own data config.

Random numbers come from a generator that the caller gives for each picture, never from torch's global one: a picture
then looks the same however many workers share the work. Resizing is torchvision's antialiased uint8 kernel, which
stays within 0.1 grey level of Pillow on average.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

_TENSOR_MODES = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}
"""Everything else that timm names (bicubic, lanczos, ...) is bicubic, the nearest that tensors can be resized by."""

_AREA = (0.08, 1.0)
"""Part of the picture's area that a training crop shows."""

_RATIO = (3 / 4, 4 / 3)
"""Width over height of a training crop."""


@dataclass(frozen=True)
class PictureFormat:
    """What pictures a backbone takes."""

    height: int = 224
    width: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Of each RGB channel, on the scale 0 to 1."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: InterpolationMode = InterpolationMode.BICUBIC
    crop_pct: float = 0.875
    """Part of the resized picture's side that evaluation keeps."""
    squash: bool = False
    """Evaluation ignores the aspect ratio instead of cropping (timm's `crop_mode: squash`)."""

    @classmethod
    def from_data_config(cls, config: Mapping[str, Any], image_size: int | None = None) -> PictureFormat:
        """Returns the format that `timm.data.resolve_data_config` describes; `image_size` (px) overrides its size."""
        height, width = config["input_size"][-2:] if image_size is None else (image_size, image_size)
        return cls(
            height=int(height),
            width=int(width),
            mean=tuple(config.get("mean", cls.mean)),
            std=tuple(config.get("std", cls.std)),
            interpolation=_TENSOR_MODES.get(config.get("interpolation", "bicubic"), InterpolationMode.BICUBIC),
            crop_pct=float(config.get("crop_pct") or cls.crop_pct),
            squash=config.get("crop_mode") == "squash",
        )


@dataclass(frozen=True)
class EvalTransform:
    """Resizes the shorter side to size / crop_pct and cuts the middle out."""

    format: PictureFormat

    def __call__(self, pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Returns `pixels` uint8 (3, H, W) as uint8 (3, format.height, format.width); `rng` is not used."""
        target = self.format
        wanted_height, wanted_width = (math.floor(side / target.crop_pct) for side in (target.height, target.width))
        height, width = pixels.shape[-2:]
        if target.squash:
            size = [wanted_height, wanted_width]
        elif wanted_height * width <= wanted_width * height:
            size = [int(wanted_width * height / width), wanted_width]
        else:
            size = [wanted_height, int(wanted_height * width / height)]
        resized = F.resize(pixels, size, interpolation=target.interpolation, antialias=True)
        return F.center_crop(resized, [target.height, target.width])


@dataclass(frozen=True)
class TrainTransform:
    """Cuts a random part out, resizes it and mirrors every other one."""

    format: PictureFormat

    def __call__(self, pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Returns `pixels` uint8 (3, H, W) as uint8 (3, format.height, format.width), all chance from `rng`."""
        target = self.format
        top, left, height, width = random_crop(pixels.shape[-2], pixels.shape[-1], rng)
        crop = pixels[:, top : top + height, left : left + width]
        resized = F.resize(crop, [target.height, target.width], interpolation=target.interpolation, antialias=True)
        return resized.flip(-1) if rng.random() < 0.5 else resized


def random_crop(height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Returns top, left, height, width (px) of a random crop, drawn like torchvision's `RandomResizedCrop`.

    Args:
        height: Of the picture, px.
        width: Of the picture, px.
        rng: Where all chance comes from.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*_AREA)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        crop_height, crop_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top, left = rng.randint(0, height - crop_height), rng.randint(0, width - crop_width)
            return top, left, crop_height, crop_width
    crop_width = min(width, max(1, round(height * _RATIO[1])))
    crop_height = min(height, max(1, round(width / _RATIO[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
