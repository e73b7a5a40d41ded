"""From an image file to the crop that a model sees: training, evaluation and thumbnail transforms, uint8 to uint8.

All randomness comes from a generator that the caller passes for each image, never from torch's global one, so an image
looks the same for any number of workers. Resizing uses torchvision's antialiased uint8 kernel, which stays within 0.1
grey levels of Pillow on average. Images are decoded at 1/2, 1/4 or 1/8 of their size if the crop is shown much smaller
than it is; evaluation, which is measured, keeps at least twice the shown resolution.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torchvision.transforms.v2 import functional as F

from dogbreed.data.decode import ImageSize, decode, read_size
from dogbreed.input_spec import InputSpec

_ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Range of a training crop's width over its height."""


class Crop(NamedTuple):
    """A region of an image, in px of the image decoded at `scale`, and the size it is resized to."""

    top: int
    left: int
    height: int
    width: int
    out_height: int
    out_width: int
    mirrored: bool = False
    scale: int = 1
    """1, 2, 4 or 8: the image is decoded at 1/scale of its size. The region stays in px of the full image."""
    seed: int = 0
    """Of further random changes (RandAugment)."""

    def scaled(self, oversample: float) -> Crop:
        """Returns the crop of the smallest decoded image that is still `oversample` times as large as shown.

        The edges are moved to pixel boundaries of the smaller image.
        """
        ratio = min(self.height / self.out_height, self.width / self.out_width) / oversample
        scale = next((scale for scale in (8, 4, 2) if scale <= ratio), 1)
        top, left, height, width = (length // scale * scale for length in self[:4])
        return self._replace(top=top, left=left, height=height, width=width, scale=scale)


@dataclass(frozen=True)
class Transform(ABC):
    """Turns an image into a model's input in two steps, so that only the needed resolution is decoded.

    Calling the transform applies it to a fully decoded image, uint8 (3, H, W).
    """

    spec: InputSpec
    oversample: ClassVar[float] = 1.0
    """Smallest ratio of the decoded to the shown resolution."""
    uses_torch_rng: ClassVar[bool] = False
    """Seeds torch's global generator, so it must not run in a thread next to the training."""

    def __call__(self, image: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Returns uint8 `image` (3, H, W) as uint8 (3, spec.height, spec.width)."""
        return self.apply(image, self.full_crop(ImageSize(*image.shape[-2:]), rng))

    def crop(self, size: ImageSize, rng: random.Random) -> Crop:
        """Returns the crop of an image of `size`, with the scale to decode it at; all randomness comes from `rng`."""
        return self.full_crop(size, rng).scaled(self.oversample)

    @abstractmethod
    def full_crop(self, size: ImageSize, rng: random.Random) -> Crop:
        """Returns the crop of an image that is decoded at its full size."""

    def apply(self, image: torch.Tensor, crop: Crop) -> torch.Tensor:
        """Returns the model's input, uint8 (3, spec.height, spec.width).

        Args:
            image: uint8 (3, H, W), the whole image decoded at `crop.scale`.
            crop: The part that is shown.
        """
        rows = slice(crop.top // crop.scale, math.ceil((crop.top + crop.height) / crop.scale))
        columns = slice(crop.left // crop.scale, math.ceil((crop.left + crop.width) / crop.scale))
        size = [crop.out_height, crop.out_width]
        resized = F.resize(image[:, rows, columns], size, interpolation=self.spec.interpolation, antialias=True)
        return resized.flip(-1) if crop.mirrored else resized


def load_image(data: bytes | memoryview, transform: Transform, rng: random.Random) -> torch.Tensor:
    """Returns the image of a file as the model sees it, uint8 (3, spec.height, spec.width).

    Raises:
        ImageError: it cannot be decoded.
    """
    crop = transform.crop(read_size(data), rng)
    return transform.apply(decode(data, crop.scale), crop)


@dataclass(frozen=True)
class EvalTransform(Transform):
    """Resizes the image so that its central crop is `spec.crop_pct` of its side, and cuts that crop."""

    oversample: ClassVar[float] = 2.0

    def full_crop(self, size: ImageSize, rng: random.Random) -> Crop:
        """Returns the whole image with the size it is resized to; `rng` is not used."""
        height, width = size
        out_height, out_width = (math.floor(side / self.spec.crop_pct) for side in (self.spec.height, self.spec.width))
        if not self.spec.squash:
            if out_height * width <= out_width * height:
                out_height = int(out_width * height / width)
            else:
                out_width = int(out_height * width / height)
        return Crop(0, 0, height, width, out_height, out_width)

    def apply(self, image: torch.Tensor, crop: Crop) -> torch.Tensor:
        """Returns the centre of the resized image."""
        return F.center_crop(super().apply(image, crop), [self.spec.height, self.spec.width])


class ThumbnailTransform(EvalTransform):
    """`EvalTransform` for people instead of models: decodes at the smallest sufficient scale."""

    oversample: ClassVar[float] = 1.0


@dataclass(frozen=True)
class TrainTransform(Transform):
    """A random resized crop, mirrored with probability 0.5."""

    min_area: float = 0.08
    """Smallest fraction of the image's area that a crop shows."""

    def full_crop(self, size: ImageSize, rng: random.Random) -> Crop:
        """Returns a random crop."""
        crop = random_crop(*size, rng, self.min_area)
        return Crop(*crop, self.spec.height, self.spec.width, mirrored=rng.random() < 0.5)


def random_crop(height: int, width: int, rng: random.Random, min_area: float = 0.08) -> tuple[int, int, int, int]:
    """Returns top, left, height and width (px) of a random crop, drawn like torchvision's `RandomResizedCrop`."""
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1.0)
        ratio = math.exp(rng.uniform(math.log(_ASPECT_RATIOS[0]), math.log(_ASPECT_RATIOS[1])))
        crop_height, crop_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top, left = rng.randint(0, height - crop_height), rng.randint(0, width - crop_width)
            return top, left, crop_height, crop_width
    crop_width = min(width, max(1, round(height * _ASPECT_RATIOS[1])))
    crop_height = min(height, max(1, round(width / _ASPECT_RATIOS[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
