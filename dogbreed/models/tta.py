"""Test-time augmentation: the mean of the logits of an image and of its mirror image."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def flip_tta(net: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Returns the mean of the logits (B, C) of `net` for `images` (B, 3, H, W) and for their mirror images."""
    return (net(images) + net(images.flip(-1))) / 2


class FlipTTA(nn.Module):
    """A network whose logits are averaged over an image and its mirror image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (B, C) for normalised float32 `images` (B, 3, H, W)."""
        return flip_tta(self.net, images)
