"""Checks and normalises what a classifier is given: image size, classes, uint8 images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec


def check_size(net: nn.Module, spec: InputSpec, height: int, width: int) -> None:
    """Checks that `net` accepts images of `height` x `width` px.

    Raises:
        UserError: It accepts only images of the size of `spec`, as most networks with position embeddings.
    """
    if (height, width) == (spec.height, spec.width):
        return
    config = net.pretrained_cfg
    fixed = config.get("fixed_input_size")  # type: ignore[union-attr, operator]
    if fixed and getattr(getattr(net, "patch_embed", None), "strict_img_size", True):
        raise UserError(
            f"{config['architecture']} needs images of {spec.height} x {spec.width} px, got {height} x {width}: "  # type: ignore[index]
            f"type data.image_size=null, or +model.kwargs.img_size={height} for a network of that size"
        )


def check_classes(own: Sequence[str], given: Sequence[str]) -> None:
    """Checks that the classes of a data set are a model's own, in the same order.

    Raises:
        UserError: They are others: metrics would compare different classes.
    """
    if list(own) != list(given):
        pairs = enumerate(zip_longest(own, given, fillvalue="none"))
        number, (ours, theirs) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
        raise UserError(
            f"the data has other classes than the model, or another order: class {number} is {theirs}, that of the "
            f"model is {ours}"
        )


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """Returns uint8 `images` (B, 3, H, W) as float32, normalised to the mean and standard deviation of `spec`."""
    mean, std = (torch.tensor(part, device=images.device).view(3, 1, 1) for part in (spec.mean, spec.std))
    return (images / 255 - mean) / std
