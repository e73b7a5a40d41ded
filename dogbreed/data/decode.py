"""Decodes image files: JPEG with simplejpeg (libjpeg-turbo), everything else and odd JPEGs with Pillow."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from dogbreed.data.formats import JPEG_END, PILLOW_FORMATS, unsupported_format, without_junk
from dogbreed.storage.base import ImageError

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 178_956_970
"""Pillow's own limit; a larger image would take more than half a gigabyte once decoded."""

MAX_ASPECT_RATIO = 100
"""Resizing a thinner image to a given short side could exhaust the memory."""

_JPEG_DAMAGE = ("Premature end", "premature end", "bad Huffman code")

_PROGRESSIVE = b"\xff\xc2"
"""Marker of a progressive JPEG: one that is cut between two scans decodes without an error, but blurred."""

_ORIENTATION = 0x0112

PngImagePlugin.MAX_TEXT_CHUNK = 32 << 20
"""Pillow's limit of 1 MB rejects images with a large colour profile; Pillow also limits their sum."""

_LARGE_PIXELS = 30_000_000
"""Images that are decoded one at a time, and reduced before they are converted: a copy takes half a gigabyte."""

_large_image_lock = threading.Lock()

# Pillow's readers raise any of these for damaged files.
_DAMAGE = (
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageSize(NamedTuple):
    """Height and width of an upright image, px."""

    height: int
    width: int


def read_size(data: bytes | memoryview) -> ImageSize:
    """Returns the size of an image as a viewer shows it, after the EXIF orientation; reads the header only.

    Raises:
        ImageError: empty, not an image, a damaged header, too many pixels or a too extreme aspect ratio.
    """
    data = without_junk(data)
    orientation = _orientation(data) or 1
    height, width = _jpeg_size(data) or _pillow_size(data)
    return (
        ImageSize(width, height)
        if orientation in _UPRIGHT and _UPRIGHT[orientation].swaps
        else ImageSize(height, width)
    )


def decode(data: bytes | memoryview, scale: int = 1) -> torch.Tensor:
    """Returns the image as a viewer shows it: uint8 (3, H, W), RGB, upright, transparent areas white.

    Args:
        data: A whole file: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF; grey, CMYK, palette and 16 bit included.
        scale: 1, 2, 4 or 8; H and W are the image's size divided by it, rounded up.

    Raises:
        ImageError: empty, not an image, truncated, damaged, too large or a too extreme aspect ratio.
    """
    import torch

    return torch.from_numpy(decode_pixels(data, scale)).permute(2, 0, 1)


def decode_pixels(data: bytes | memoryview, scale: int = 1, *, repair: bool = True) -> NDArray[np.uint8]:
    """Returns what `decode` does, but (H, W, 3) and without torch, which publishing must not import.

    `repair` decodes JPEGs after junk or without their end marker, as publishing repairs them.
    """
    data = without_junk(data) if repair else data
    try:
        pixels = _decode_jpeg(data, scale) if _is_jpeg(data) else None
    except ImageError as error:
        if not repair or _PROGRESSIVE in bytes(data) or bytes(data[-64:]).rstrip(b"\0").endswith(JPEG_END):
            raise
        try:
            pixels = _decode_jpeg(bytes(data) + JPEG_END, scale)
        except ImageError:
            raise error from None
    return _decode_with_pillow(data, scale) if pixels is None else pixels


def _is_jpeg(data: bytes | memoryview) -> bool:
    return data[:2] == b"\xff\xd8"


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Returns stored height and width, px; None if Pillow has to read the file."""
    if not _is_jpeg(data):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        _raise_if_damaged(error)
        return None
    if colorspace in ("CMYK", "YCCK") or height * width > MAX_PIXELS:
        return None
    _check_aspect_ratio(width, height)
    return height, width


def _decode_jpeg(data: bytes | memoryview, scale: int) -> NDArray[np.uint8] | None:
    """Returns pixels (H, W, 3); None if Pillow has to decode: CMYK, damaged EXIF, or a warning of the decoder.

    Most warnings mean no damage: some cameras and web servers leave stray bytes in good images. Real damage is an error
    here, because Pillow accepts an image without its lower half if the end marker is present.
    """
    turn = _UPRIGHT.get(_orientation(data))
    size = _jpeg_size(data)
    if turn is None or size is None:
        return None
    minimum = {"min_height": -(-size[0] // scale), "min_width": -(-size[1] // scale)} if scale > 1 else {}
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", **minimum)
    except ValueError as error:
        _raise_if_damaged(error)
        return None
    pixels = pixels.swapaxes(0, 1) if turn.swaps else pixels
    return np.ascontiguousarray(pixels[:: turn.down, :: turn.right])


def _raise_if_damaged(error: ValueError) -> None:
    if any(damage in str(error) for damage in _JPEG_DAMAGE):
        raise ImageError(f"damaged JPEG: {error}") from error


def _check_aspect_ratio(width: int, height: int) -> None:
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageError(f"{width} x {height} pixels: one side at most {MAX_ASPECT_RATIO} times the other")


class _Turn(NamedTuple):
    """Brings an image upright: first swaps rows and columns, then reads each in the given direction."""

    swaps: bool = False
    down: int = 1
    right: int = 1


_UPRIGHT: dict[int | None, _Turn] = {
    1: _Turn(), 2: _Turn(right=-1), 3: _Turn(down=-1, right=-1), 4: _Turn(down=-1),
    5: _Turn(True), 6: _Turn(True, right=-1), 7: _Turn(True, -1, -1), 8: _Turn(True, down=-1),
}  # fmt: skip
"""By EXIF orientation."""

_PNG_METADATA = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""What a PNG with an orientation contains. It may follow the pixels, so Pillow decodes all of a PNG to look for it."""


def _orientation(data: bytes | memoryview) -> int | None:
    """Returns the EXIF orientation, 1 if there is none; None if it cannot be read."""
    if _is_jpeg(data) and not _may_have_exif(data):
        return 1
    try:
        with _open(data) as image:
            if image.format == "PNG" and not any(mark in bytes(data) for mark in _PNG_METADATA):
                return 1
            return image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return None


def _may_have_exif(data: bytes | memoryview) -> bool:
    """Returns False if a JPEG has no EXIF segment before its pixels; much faster than opening it with Pillow."""
    offset = 2
    while data[offset : offset + 1] == b"\xff":
        marker, length = data[offset + 1 : offset + 2], data[offset + 2 : offset + 4]
        if marker == b"\xda":
            return False
        if data[offset + 4 : offset + 10] == b"Exif\x00\x00":
            return True
        offset += 2 + int.from_bytes(length, "big")
    return True  # an unusual file, left to Pillow


def _open(data: bytes | memoryview) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)


def _pillow_size(data: bytes | memoryview) -> tuple[int, int]:
    """Returns stored height and width, px."""
    try:
        with _open(data) as image:
            _check_aspect_ratio(*image.size)
            return image.height, image.width
    except _DAMAGE as error:
        raise _image_error(data, error) from error


def _decode_with_pillow(data: bytes | memoryview, scale: int) -> NDArray[np.uint8]:
    """Returns pixels (H, W, 3)."""
    try:
        with _open(data) as image, _large_image_lock if _is_large(image) else nullcontext():
            _check_aspect_ratio(*image.size)
            image.load()
            # Damaged EXIF data has no orientation.
            upright = image if _orientation(data) in (1, None) else ImageOps.exif_transpose(image)
            if _is_large(image) and upright.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
                return np.array(_to_rgb(upright.reduce(scale)))
            return np.array(_to_rgb(upright).reduce(scale))
    except _DAMAGE as error:
        raise _image_error(data, error) from error


def _is_large(image: Image.Image) -> bool:
    return image.width * image.height > _LARGE_PIXELS


def _image_error(data: bytes | memoryview, error: Exception) -> ImageError:
    if not data:
        return ImageError("empty file")
    if advice := unsupported_format(data):
        return ImageError(advice)
    if isinstance(error, UnidentifiedImageError):
        return ImageError(f"not a readable image, it begins with {bytes(data[:12])!r}")
    reason = str(error).partition("\n")[0] or type(error).__name__
    return ImageError("truncated" if "truncated" in reason.lower() else f"damaged: {reason}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        grey = np.asarray(image)
        _check_range(grey, 1)
        return Image.fromarray((grey * 255).round().astype(np.uint8)).convert("RGB")
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255, which turns nearly all of it white.
        grey = np.asarray(image).astype(np.int64)
        _check_range(grey, 65535)
        return Image.fromarray((grey >> 8 if grey.max() > 255 else grey).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _check_range(grey: NDArray[Any], high: int) -> None:
    low, top = float(grey.min()), float(grey.max())
    if not 0 <= low <= top <= high:  # also if they are NaN
        raise ImageError(f"grey levels from {low:g} to {top:g}: must be from 0 to {high}")
