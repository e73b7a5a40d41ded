"""RandAugment: two random changes of a training image's colours or shape, after its random crop.

Cubuk et al., RandAugment (2020), as torchvision has it. Its random numbers are torch's global ones, which are set for
each image and put back: an image is changed the same way however many workers share the work. A worker needs 2.7 ms
of CPU for an image of 224 px, as much as for all else; on the model's device a few images are changed together.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torchvision.transforms import InterpolationMode, v2

from dogbreed.data.transforms import Crop, InputSpec, TrainTransform

STRONGEST = 30
"""Of torchvision's 31 magnitudes, from 0."""

_TOGETHER = 8
"""Images of a batch that are changed alike on a device, where many small ones would take longer than the training."""


@dataclass(frozen=True)
class RandAugmentTransform(TrainTransform):
    """A random crop, mirrored or not, then changed twice: turned, sheared, shifted, sharpened, equalised, ..."""

    magnitude: int = 9
    """1 to 30: by how much."""
    uses_torch_chance: ClassVar[bool] = True

    def view(self, height: int, width: int, rng: random.Random) -> Crop:
        """Returns the random crop that it would be without, and the seed of the changes."""
        return super().view(height, width, rng)._replace(seed=rng.getrandbits(63))

    def render(self, pixels: torch.Tensor, view: Crop, reduction: int = 1) -> torch.Tensor:
        """Returns the changed crop; what is moved into the image has the backbone's mean colour."""
        cropped = super().render(pixels, view, reduction)
        with _chance(view.seed):
            return _changes(self.format, self.magnitude)(cropped)


def augment_batch(
    images: torch.Tensor, indices: torch.Tensor, target: InputSpec, magnitude: int, seed: str
) -> torch.Tensor:
    """Returns a batch of crops changed on their device, eight neighbours alike.

    Args:
        images: uint8 (B, 3, H, W).
        indices: int64 (B,): of the images in their split; with `seed` they decide what is done.
        target: What images the backbone takes.
        magnitude: 1 to 30.
        seed: Of this epoch.
    """
    changes, changed = _changes(target, magnitude), []
    for some, first in zip(images.split(_TOGETHER), indices[::_TOGETHER].tolist(), strict=True):
        with _chance(random.Random(f"{seed}/{first}").getrandbits(63)):
            changed.append(changes(some))
    return torch.cat(changed)


def _changes(target: InputSpec, magnitude: int) -> v2.RandAugment:
    fill = [round(255 * mean) for mean in target.mean]
    return v2.RandAugment(magnitude=magnitude, interpolation=InterpolationMode.BILINEAR, fill=fill)


@contextmanager
def _chance(seed: int) -> Iterator[None]:
    """Seeds torch's generator of this process for the block; a GPU's are left alone, which `fork_rng` would not do."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
