"""A request's body to the images in it, and an image to what the network takes."""

from __future__ import annotations

import base64
import binascii
import io
import json
import random
from typing import NamedTuple

import torch
from PIL import Image, UnidentifiedImageError

from dogbreed.data.decode import MAX_RATIO, decode
from dogbreed.data.transforms import Crop, EvalTransform, InputSpec
from dogbreed.storage.base import ImageError

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/x-image")
"""Content types of a body that is one image; what it really is, its bytes tell."""

JSON_TYPE = "application/json"

MAX_BODY_BYTES = 25 * 2**20
"""As much as SageMaker's real-time endpoints take."""

MAX_IMAGES = 64
"""In one request."""

MAX_PIXELS = 2**25
"""Of an image that is decoded whole: 8K. Its decoded copies fill up to half a gigabyte."""

MAX_JPEG_PIXELS = 2**26
"""Of a JPEG, which is decoded scaled: 64 megapixels, as phones take them."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow knows many more, some of which start programs or were never meant for strangers' files."""


class RequestError(Exception):
    """A request that cannot be answered: the HTTP status, and the reason in one line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Request(NamedTuple):
    """What a body holds."""

    images: list[bytes]
    """Each a whole file."""
    several: bool
    """Whether it was a list, even of one: so is its answer then."""


def read_body(body: bytes | str, content_type: str | None) -> Request:
    """Returns the images of a request's body.

    Args:
        body: Text where the server has decoded JSON already.
        content_type: Of the body, parameters are allowed; None is none.

    Raises:
        RequestError: 415 another content type, 413 too much, 400 no images in it.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind not in (*IMAGE_TYPES, JSON_TYPE):
        given = f"content type {kind!r}" if kind else "no content type"
        raise RequestError(415, f"{given}; allowed: {', '.join((*IMAGE_TYPES, JSON_TYPE))}")
    if len(body) > MAX_BODY_BYTES:
        raise too_large(len(body))
    if kind == JSON_TYPE:
        return _read_json(body)
    if not body:
        raise RequestError(400, "the body is empty")
    return Request([body if isinstance(body, bytes) else body.encode()], several=False)


def too_large(num_bytes: int) -> RequestError:
    """Returns the error of a body of `num_bytes`."""
    return RequestError(413, f"the body has {num_bytes:,} bytes; at most {MAX_BODY_BYTES:,}")


def _read_json(body: bytes | str) -> Request:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(400, f"the body is no JSON: {reason}") from None
    if isinstance(found, dict) and set(found) == {"image"}:
        return Request([_read_base64(found["image"], "image")], several=False)
    if not isinstance(found, dict) or set(found) != {"instances"} or not isinstance(found["instances"], list):
        raise RequestError(400, 'the JSON must be {"image": "<base64>"} or {"instances": ["<base64>", ...]}')
    instances = found["instances"]
    if not instances:
        raise RequestError(400, "instances is empty")
    if len(instances) > MAX_IMAGES:
        raise RequestError(413, f"{len(instances)} instances; at most {MAX_IMAGES} in one request")
    contents = [item.get("image") if isinstance(item, dict) else item for item in instances]
    return Request([_read_base64(text, f"instances[{number}]") for number, text in enumerate(contents)], several=True)


def _read_base64(text: object, where: str) -> bytes:
    if not isinstance(text, str):
        raise RequestError(400, f"{where} is no base64 text but {type(text).__name__}")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"{where} is no base64: {error}") from None


def read_images(request: Request, target: InputSpec) -> torch.Tensor:
    """Returns the request's images as uint8 (B, 3, height, width).

    Raises:
        RequestError: 400 one of them cannot be read, 413 has too many pixels; which one is said.
    """
    pixels = []
    for number, content in enumerate(request.images):
        try:
            pixels.append(read_image(content, target))
        except RequestError as error:
            where = f"instances[{number}]: " if request.several else ""
            raise RequestError(error.status, where + error.reason) from error
    return torch.stack(pixels)


def read_image(content: bytes, target: InputSpec) -> torch.Tensor:
    """Returns an image as evaluation shows it, uint8 (3, height, width), decoded no larger than it is needed.

    Raises:
        RequestError: 400 it cannot be read, 413 it has too many pixels, which is found before it is decoded.
    """
    _check_size(content)
    transform = EvalTransform(target)
    views: list[Crop] = []

    def reduction(height: int, width: int) -> int:
        views.append(transform.view(height, width, random.Random(0)).reduced(transform.spare))
        return views[-1].reduction

    try:
        pixels = decode(content, reduction)
    except ImageError as error:
        raise RequestError(400, f"the image cannot be read: {error}") from error
    return transform.render(pixels, views[-1], views[-1].reduction)


def _check_size(content: bytes) -> None:
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            (width, height), kind = image.size, image.format
    except UnidentifiedImageError:
        raise RequestError(400, f"not a readable image, it begins with {content[:12]!r}") from None
    except Image.DecompressionBombError as error:
        raise RequestError(413, str(error).partition(",")[0]) from None
    except Exception as error:
        raise RequestError(400, f"the image cannot be read: {error}") from error
    limit = MAX_JPEG_PIXELS if kind in ("JPEG", "MPO") else MAX_PIXELS
    if width * height > limit:
        raise RequestError(413, f"the image has {width} x {height} pixels; at most {limit:,}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise RequestError(400, f"the image is {width} x {height}: one side at most {MAX_RATIO} times the other")
