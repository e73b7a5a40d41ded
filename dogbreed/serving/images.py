"""Decodes the images of a request as evaluation does, with limits for untrusted files."""

from __future__ import annotations

import io
import random

import torch
from PIL import Image, UnidentifiedImageError

from dogbreed.data.decode import MAX_ASPECT_RATIO
from dogbreed.data.formats import PILLOW_FORMATS
from dogbreed.data.transforms import EvalTransform, load_image
from dogbreed.input_spec import InputSpec
from dogbreed.serving.request import InferenceRequest, RequestError
from dogbreed.storage.base import ImageError

MAX_PIXELS = 2**25
"""Pixel limit of images that are decoded at full size (8K); their decoded copies take up to half a gigabyte."""

MAX_JPEG_PIXELS = 2**26
"""Pixel limit of JPEGs, which are decoded at a reduced scale; 64 megapixels covers phone cameras."""


def decode_images(request: InferenceRequest, input_spec: InputSpec) -> torch.Tensor:
    """Returns the request's images as uint8 (B, 3, height, width).

    Raises:
        RequestError: 400 if an image cannot be read, 413 if it has too many pixels; the reason names the instance.
    """
    pixels = []
    for index, content in enumerate(request.images):
        try:
            pixels.append(decode_image(content, input_spec))
        except RequestError as error:
            prefix = f"instances[{index}]: " if request.is_batch else ""
            raise RequestError(error.status, prefix + error.reason) from error
    return torch.stack(pixels)


def decode_image(content: bytes, input_spec: InputSpec) -> torch.Tensor:
    """Returns an image as evaluation sees it, uint8 (3, height, width).

    Raises:
        RequestError: 400 if the image cannot be read, 413 if it has too many pixels; checked before decoding.
    """
    _check_size(content)
    try:
        return load_image(content, EvalTransform(input_spec), random.Random(0))
    except ImageError as error:
        raise RequestError(400, f"the image cannot be read: {error}") from error


def _check_size(content: bytes) -> None:
    try:
        with Image.open(io.BytesIO(content), formats=PILLOW_FORMATS) as image:
            (width, height), kind = image.size, image.format
    except UnidentifiedImageError:
        raise RequestError(400, f"not a readable image, it begins with {content[:12]!r}") from None
    except Image.DecompressionBombError as error:
        raise RequestError(413, str(error).partition(",")[0]) from None
    except Exception as error:  # Pillow's readers raise errors of many types for damaged headers
        raise RequestError(400, f"the image cannot be read: {error}") from error
    limit = MAX_JPEG_PIXELS if kind in ("JPEG", "MPO") else MAX_PIXELS
    if width * height > limit:
        raise RequestError(413, f"the image has {width} x {height} pixels; at most {limit:,}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise RequestError(400, f"the image is {width} x {height}: one side at most {MAX_ASPECT_RATIO} times the other")
