"""Downscales image files once, before they enter the disk cache."""

from __future__ import annotations

import numpy as np
import simplejpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from dogbreed.data.decode import decode, read_size
from dogbreed.storage.base import ImageError

_JPEG_QUALITY = 95


def shrink(data: bytes, short_side: int) -> bytes:
    """Returns the image as an upright JPEG whose shorter side is `short_side` px.

    Images that are small enough and files that cannot be decoded are returned unchanged.
    """
    try:
        size = read_size(data)
        if min(size) <= short_side:
            return data
        pixels = decode(data, next((scale for scale in (8, 4, 2) if min(size) >= scale * short_side), 1))
    except ImageError:
        return data
    resized = F.resize(pixels, [short_side], interpolation=InterpolationMode.BICUBIC, antialias=True)
    upright = np.ascontiguousarray(resized.permute(1, 2, 0).numpy())
    return bytes(simplejpeg.encode_jpeg(upright, quality=_JPEG_QUALITY, colorsubsampling="420"))
