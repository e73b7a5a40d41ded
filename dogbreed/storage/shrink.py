"""Images made smaller once, for the cache, as they would be each time they are shown."""

from __future__ import annotations

import numpy as np
import simplejpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from dogbreed.data.decode import decode
from dogbreed.storage.base import ImageError

_QUALITY = 95
"""Of the JPEGs that are made."""


def shrink(data: bytes, short_side: int) -> bytes:
    """Returns the image as an upright JPEG whose shorter side is `short_side` px; `data` where it is no larger.

    Nor is `data` changed where it cannot be read: who decodes it says why.
    """

    def reduction(height: int, width: int) -> int:
        return next((step for step in (8, 4, 2) if min(height, width) >= step * short_side), 1)

    try:
        if simplejpeg.is_jpeg(data) and min(simplejpeg.decode_jpeg_header(data)[:2]) <= short_side:
            return data
        pixels = decode(data, reduction)
    except (ImageError, ValueError):
        return data
    if min(pixels.shape[-2:]) <= short_side:
        return data
    resized = F.resize(pixels, [short_side], interpolation=InterpolationMode.BICUBIC, antialias=True)
    upright = np.ascontiguousarray(resized.permute(1, 2, 0).numpy())
    return bytes(simplejpeg.encode_jpeg(upright, quality=_QUALITY, colorsubsampling="420"))
