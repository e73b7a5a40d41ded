"""Statistics of the first images that the network is fed, gathered on their device without waiting for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ENOUGH = 500
"""Images that the rule CheckInputImages wants."""


class InputImageStats:
    """Adds up mean, variance and range of (B, 3, H, W) float images."""

    def __init__(self) -> None:
        self.num_images = 0
        self._sums: Tensor | None = None
        self._extremes: Tensor | None = None
        self._pixels = 0

    @property
    def is_complete(self) -> bool:
        """Whether enough images were seen."""
        return self.num_images >= ENOUGH

    @torch.no_grad()
    def add(self, images: Any) -> None:
        """Adds a batch; anything but float images is passed over."""
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
            return
        # Every third pixel in both directions: a ninth of the work, the same mean and deviation.
        some = images.detach()[:, :, ::3, ::3].float()
        sums = torch.stack((some.sum(dim=(0, 2, 3)), (some * some).sum(dim=(0, 2, 3)))).double()
        low, high = some.aminmax()
        extremes = torch.stack((low, -high))
        self._sums = sums if self._sums is None else self._sums + sums
        self._extremes = extremes if self._extremes is None else torch.minimum(self._extremes, extremes)
        self._pixels += some.shape[0] * some.shape[2] * some.shape[3]
        self.num_images += len(images)

    def row(self) -> dict[str, Any] | None:
        """Returns the record, None where no image was seen; this waits for the device."""
        if self._sums is None or self._extremes is None:
            return None
        total, squares = (self._sums / self._pixels).cpu().unbind()
        low, high = self._extremes.tolist()
        deviation = (squares - total**2).clamp_min(0).sqrt()
        return {
            "kind": "images",
            "num_images": self.num_images,
            "mean": total.tolist(),
            "std": deviation.tolist(),
            "minimum": low,
            "maximum": -high,
        }
