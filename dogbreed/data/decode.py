"""Bytes to pixels. JPEG through simplejpeg (libjpeg-turbo); whatever it does not take strictly, through Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dogbreed.storage.base import ImageError

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 178_956_970
"""Larger images are refused, as Pillow refuses them: decoded they would fill half a gigabyte."""

MAX_RATIO = 100
"""Of the sides of an image: resized to a given short side, a thinner one could fill the memory."""

_JPEG_DAMAGE = ("Premature end", "premature end", "bad Huffman code")

_ORIENTATION = 0x0112

# What Pillow's readers raise on damaged files, each in its own way.
_DAMAGE = (
    OSError,
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


Reduction = Callable[[int, int], int]
"""Height and width of an upright image, px, to 1, 2, 4 or 8: by how much smaller it is wanted."""


def decode(data: bytes | memoryview, reduction: Reduction = lambda height, width: 1) -> torch.Tensor:
    """Returns the image as its viewer would see it: uint8 (3, H, W), RGB, upright, transparent parts white.

    Args:
        data: A whole file: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF; grey, CMYK, palette and 16 bit too.
        reduction: Asked as soon as the size is known; H and W are those of the image divided by it, rounded up.

    Raises:
        ImageError: empty, not an image, truncated, damaged, or of very unequal sides.
    """
    import torch

    return torch.from_numpy(decode_pixels(data, reduction)).permute(2, 0, 1)


def decode_pixels(data: bytes | memoryview, reduction: Reduction) -> NDArray[np.uint8]:
    """Returns what `decode` does, but (H, W, 3) and without torch: publishing reads images as training will."""
    pixels = _decode_jpeg(data, reduction) if data[:2] == b"\xff\xd8" else None
    return _decode_any(data, reduction) if pixels is None else pixels


def _decode_jpeg(data: bytes | memoryview, reduction: Reduction) -> NDArray[np.uint8] | None:
    """Returns pixels (H, W, 3), or None where Pillow has to look: CMYK, odd EXIF, or a warning of the decoder.

    Most warnings are no damage: some cameras and web servers leave stray bytes in good images. But Pillow would
    also take an image whose lower half is missing, if only its end marker is there.
    """
    turn = _UPRIGHT.get(_orientation(data) if _may_have_exif(data) else 1)
    if turn is None:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace in ("CMYK", "YCCK") or height * width > MAX_PIXELS:
            return None
        _check_sides(width, height)
        step = reduction(*(width, height) if turn.swaps else (height, width))
        least = {"min_height": -(-height // step), "min_width": -(-width // step)} if step > 1 else {}
        pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", **least)
    except ValueError as error:
        if any(damage in str(error) for damage in _JPEG_DAMAGE):
            raise ImageError(f"damaged JPEG: {error}") from error
        return None
    pixels = pixels.swapaxes(0, 1) if turn.swaps else pixels
    return np.ascontiguousarray(pixels[:: turn.down, :: turn.right])


def _check_sides(width: int, height: int) -> None:
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ImageError(f"{width} x {height} pixels: one side at most {MAX_RATIO} times the other")


class _Turn(NamedTuple):
    """What brings an image upright: rows for columns first, then in which direction each is read."""

    swaps: bool = False
    down: int = 1
    right: int = 1


_UPRIGHT: dict[int | None, _Turn] = {
    1: _Turn(), 2: _Turn(right=-1), 3: _Turn(down=-1, right=-1), 4: _Turn(down=-1),
    5: _Turn(True), 6: _Turn(True, right=-1), 7: _Turn(True, -1, -1), 8: _Turn(True, down=-1),
}  # fmt: skip
"""By EXIF orientation."""


def _may_have_exif(data: bytes | memoryview) -> bool:
    """Returns False where no segment before the pixels is EXIF's; to search for the word takes ten times as long."""
    place = 2
    while data[place : place + 1] == b"\xff":
        marker, length = data[place + 1 : place + 2], data[place + 2 : place + 4]
        if marker == b"\xda":
            return False
        if data[place + 4 : place + 10] == b"Exif\x00\x00":
            return True
        place += 2 + int.from_bytes(length, "big")
    return True  # an odd file, at which Pillow has to look


def _orientation(data: bytes | memoryview) -> int | None:
    """Returns the EXIF orientation, 1 where there is none; None where it cannot be read."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return None


def _decode_any(data: bytes | memoryview, reduction: Reduction) -> NDArray[np.uint8]:
    """Returns pixels (H, W, 3) through Pillow."""
    if not data:
        raise ImageError("empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_sides(*image.size)
            image.load()
            upright = ImageOps.exif_transpose(image)
            return np.array(_to_rgb(upright).reduce(reduction(upright.height, upright.width)))
    except UnidentifiedImageError as error:
        raise ImageError(f"not a readable image, it begins with {bytes(data[:12])!r}") from error
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ImageError("truncated" if "truncated" in reason.lower() else f"damaged: {reason}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would clip 16 bit grey at 255, which turns nearly all of it white.
        grey = np.asarray(image).astype(np.int64)
        return Image.fromarray((grey >> 8 if grey.max() > 255 else grey).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")
