"""RandAugment: two random changes of a training image's colours or geometry, after its random crop.

Cubuk et al., RandAugment (2020), as implemented by torchvision. torchvision draws from torch's global generator, which
is seeded for each image and restored afterwards, so an image is changed the same way for any number of workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torchvision.transforms import InterpolationMode, v2

from dogbreed.data.decode import ImageSize
from dogbreed.data.transforms import Crop, TrainTransform
from dogbreed.input_spec import InputSpec

MAX_MAGNITUDE = 30
"""torchvision has 31 magnitudes, starting at 0."""

_GROUP_SIZE = 8
"""Neighbouring images of a batch that share their changes on a device, where one call per image would be too slow."""


@dataclass(frozen=True)
class RandAugmentTransform(TrainTransform):
    """A training crop with two random changes, such as rotating, shearing, shifting, sharpening or equalising."""

    magnitude: int = 9
    """Strength of the changes, 1 to 30."""
    uses_torch_rng: ClassVar[bool] = True

    def full_crop(self, size: ImageSize, rng: random.Random) -> Crop:
        """Returns the same random crop as `TrainTransform`, and the seed of the changes."""
        return super().full_crop(size, rng)._replace(seed=rng.getrandbits(63))

    def apply(self, image: torch.Tensor, crop: Crop) -> torch.Tensor:
        """Returns the changed crop; areas moved into the image get the backbone's mean colour."""
        cropped = super().apply(image, crop)
        with _torch_seed(crop.seed):
            return _rand_augment(self.spec, self.magnitude)(cropped)


def augment_batch(
    images: torch.Tensor, indices: torch.Tensor, spec: InputSpec, magnitude: int, seed: str
) -> torch.Tensor:
    """Returns a batch of crops changed on their device, in groups of eight neighbours that share their changes.

    Args:
        images: uint8 (B, 3, H, W).
        indices: int64 (B,): positions in the split: those of a group determine its changes together with `seed`.
        spec: The model's input spec.
        magnitude: Strength of the changes, 1 to 30.
        seed: Differs between epochs.
    """
    transform, changed = _rand_augment(spec, magnitude), []
    for group, members in zip(images.split(_GROUP_SIZE), indices.split(_GROUP_SIZE), strict=True):
        with _torch_seed(random.Random(f"{seed}/{members.tolist()}").getrandbits(63)):
            changed.append(transform(group))
    return torch.cat(changed)


def _rand_augment(spec: InputSpec, magnitude: int) -> v2.RandAugment:
    fill = [round(255 * mean) for mean in spec.mean]
    return v2.RandAugment(magnitude=magnitude, interpolation=InterpolationMode.BILINEAR, fill=fill)


@contextmanager
def _torch_seed(seed: int) -> Iterator[None]:
    """Seeds torch's CPU generator for the block; unlike `fork_rng` it leaves GPU generators alone."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
