"""Augmentation and evaluation transforms, uint8 to uint8, from the backbone's own data config.

Random numbers come from a generator that the caller gives for each image, never from torch's global one: an image
then looks the same however many workers share the work. Resizing is torchvision's antialiased uint8 kernel, which
stays within 0.1 grey level of Pillow on average. Images that are shown much smaller than they are may be decoded at
1/2, 1/4 or 1/8, which is faster and stays within 1.5: photographs of 500 x 375 px, shown at 64 to 224 px, are 1.1 off
in training and up to 1.4 in evaluation, for which they are therefore decoded at least twice as large as shown.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

_TENSOR_MODES = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}
"""Everything else that timm names (bicubic, lanczos, ...) is bicubic, the nearest that tensors can be resized by."""

_RATIO = (3 / 4, 4 / 3)
"""Width over height of a training crop."""


@dataclass(frozen=True)
class InputSpec:
    """What images a backbone takes."""

    height: int = 224
    width: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Of each RGB channel, on the scale 0 to 1."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: InterpolationMode = InterpolationMode.BICUBIC
    crop_pct: float = 0.875
    """Part of the resized image's side that evaluation keeps."""
    squash: bool = False
    """Evaluation ignores the aspect ratio instead of cropping (timm's `crop_mode: squash`)."""

    @classmethod
    def from_data_config(cls, config: Mapping[str, Any], image_size: int | None = None) -> InputSpec:
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


class Crop(NamedTuple):
    """A part of an image, and the size it is shown in."""

    top: int
    left: int
    height: int
    width: int
    out_height: int
    """Of what is made of the part, px."""
    out_width: int
    mirrored: bool = False
    reduction: int = 1
    """1, 2, 4 or 8: by how much smaller the image may be decoded."""
    seed: int = 0
    """Of what else is done to it by chance."""

    def reduced(self, spare: float) -> Crop:
        """Returns the view of an image decoded as small as leaves it `spare` times as large as it is shown.

        Its edges are moved to where they lie between pixels of the smaller image.
        """
        room = min(self.height / self.out_height, self.width / self.out_width) / spare
        step = next((step for step in (8, 4, 2) if step <= room), 1)
        top, left, height, width = (length // step * step for length in self[:4])
        return self._replace(top=top, left=left, height=height, width=width, reduction=step)


class Transform(Protocol):
    """From decoded pixels to what the model takes, in two steps: what is not needed of an image is not decoded."""

    spare: ClassVar[float]
    """How many times as large as it is shown an image has to be decoded at least."""

    uses_torch_chance: ClassVar[bool]
    """It seeds torch's generator, which all threads of a process share, so it may not run beside the training's."""

    def view(self, height: int, width: int, rng: random.Random) -> Crop:
        """Returns what is shown of an image of `height` and `width` px; all chance comes from `rng`."""

    def render(self, pixels: torch.Tensor, view: Crop, reduction: int = 1) -> torch.Tensor:
        """Returns the view as uint8 (3, format.height, format.width).

        Args:
            pixels: uint8 (3, H, W): the whole image.
            view: What is shown, in px of the full image.
            reduction: By how much `pixels` are smaller: 1 or `view.reduction`.
        """


@dataclass(frozen=True)
class EvalTransform:
    """Resizes the shorter side to size / crop_pct and cuts the middle out."""

    format: InputSpec
    spare: ClassVar[float] = 2.0
    uses_torch_chance: ClassVar[bool] = False

    def __call__(self, pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Returns `pixels` uint8 (3, H, W) as uint8 (3, format.height, format.width); `rng` is not used."""
        return self.render(pixels, self.view(pixels.shape[-2], pixels.shape[-1], rng))

    def view(self, height: int, width: int, rng: random.Random) -> Crop:
        """Returns the whole image in the size it is cut from; `rng` is not used."""
        target = self.format
        wanted_height, wanted_width = (math.floor(side / target.crop_pct) for side in (target.height, target.width))
        size = wanted_height, wanted_width
        if not target.squash and wanted_height * width <= wanted_width * height:
            size = int(wanted_width * height / width), wanted_width
        elif not target.squash:
            size = wanted_height, int(wanted_height * width / height)
        return Crop(0, 0, height, width, *size)

    def render(self, pixels: torch.Tensor, view: Crop, reduction: int = 1) -> torch.Tensor:
        """Returns the middle of the resized image."""
        resized = _resize(pixels, view, reduction, self.format.interpolation)
        return F.center_crop(resized, [self.format.height, self.format.width])


class ThumbnailTransform(EvalTransform):
    """Does the same for people who glance at it: decoded no larger than need be, in half the time."""

    spare: ClassVar[float] = 1.0


@dataclass(frozen=True)
class TrainTransform:
    """Cuts a random part out, resizes it and mirrors every other one."""

    format: InputSpec
    area: float = 0.08
    """Smallest part of the image that is cut out."""
    spare: ClassVar[float] = 1.0
    uses_torch_chance: ClassVar[bool] = False

    def __call__(self, pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Returns `pixels` uint8 (3, H, W) as uint8 (3, format.height, format.width), all chance from `rng`."""
        return self.render(pixels, self.view(pixels.shape[-2], pixels.shape[-1], rng))

    def view(self, height: int, width: int, rng: random.Random) -> Crop:
        """Returns a random crop."""
        crop = random_crop(height, width, rng, self.area)
        return Crop(*crop, self.format.height, self.format.width, mirrored=rng.random() < 0.5)

    def render(self, pixels: torch.Tensor, view: Crop, reduction: int = 1) -> torch.Tensor:
        """Returns the crop."""
        return _resize(pixels, view, reduction, self.format.interpolation)


def _resize(pixels: torch.Tensor, view: Crop, step: int, interpolation: InterpolationMode) -> torch.Tensor:
    rows = slice(view.top // step, math.ceil((view.top + view.height) / step))
    columns = slice(view.left // step, math.ceil((view.left + view.width) / step))
    size = [view.out_height, view.out_width]
    resized = F.resize(pixels[:, rows, columns], size, interpolation=interpolation, antialias=True)
    return resized.flip(-1) if view.mirrored else resized


def random_crop(height: int, width: int, rng: random.Random, smallest: float = 0.08) -> tuple[int, int, int, int]:
    """Returns top, left, height, width (px) of a random crop, drawn like torchvision's `RandomResizedCrop`.

    Args:
        height: Of the image, px.
        width: Of the image, px.
        rng: Where all chance comes from.
        smallest: Part of the image's area that is shown at least.
    """
    for _ in range(10):
        area = height * width * rng.uniform(smallest, 1.0)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        crop_height, crop_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top, left = rng.randint(0, height - crop_height), rng.randint(0, width - crop_width)
            return top, left, crop_height, crop_width
    crop_width = min(width, max(1, round(height * _RATIO[1])))
    crop_height = min(height, max(1, round(width / _RATIO[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
