"""Small JPEG images for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

SIDE_PX = 96


def thumbnails(images: Tensor, normalization: Mapping[str, Sequence[float]]) -> Tensor:
    """Returns (N, 3, SIDE_PX, SIDE_PX) uint8 images on the CPU.

    Args:
        images: (N, 3, H, W) as the network receives them.
        normalization: `mean` and `std` per channel; {}: the values are stretched to 0..255.
    """
    small = functional.interpolate(images.float(), size=(SIDE_PX, SIDE_PX), mode="area")
    if normalization:
        mean, std = (torch.tensor(normalization[name], device=small.device).view(3, 1, 1) for name in ("mean", "std"))
        small = small * std + mean
    else:
        low, high = small.amin(), small.amax()
        small = (small - low) / (high - low).clamp_min(1e-6)
    return (small * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def write_jpeg(path: Path, image: Tensor) -> None:
    """Writes a (3, H, W) uint8 image; missing parent folders are created."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path, "JPEG", quality=82)
