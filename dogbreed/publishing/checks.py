"""One image looked at: can it be read as training will read it, what is wrong with it, what can be mended.

Nothing is ever encoded again. What is mended are names, stray bytes before a JPEG and a missing end marker after it:
the pixels stay what they were.
"""

from __future__ import annotations

import hashlib
import io
import threading
import unicodedata
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from PIL import Image

from dogbreed.data.decode import MAX_PIXELS, PILLOW_FORMATS, decode_pixels, read_size
from dogbreed.storage.base import ImageError
from dogbreed.storage.manifest import ImageFile

MAX_BYTES = 256 << 20
"""Larger files are left out unread."""

LARGE_PIXELS, LARGE_BYTES = 30_000_000, 20 << 20
"""Larger images are published, and named: each costs as much time in every epoch as a hundred others."""

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
"""Kind of image to the suffixes that it may have; the first is the one it gets where it has a wrong one."""

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_STRAY = 4096
"""Bytes before a JPEG among which its beginning is looked for, such as the header of an old Mac or web server."""

_one_large_at_a_time = threading.Lock()
"""Decoded, a single large image may fill half a gigabyte."""


class Mending(NamedTuple):
    """How the bytes of an image are mended."""

    skip: int = 0
    """Bytes to leave away at the beginning."""
    end: bytes = b""
    """What to add at the end."""

    def apply(self, data: bytes) -> bytes:
        """Returns the mended bytes; the same object where nothing is to be mended."""
        return data[self.skip :] + self.end if self != AS_IT_IS else data


AS_IT_IS = Mending()


@dataclass(frozen=True)
class Checked:
    """What is known of an image once it was looked at."""

    key: str
    """Below the source."""
    name: str
    """The key that it is published under."""
    size: int = 0
    """Bytes, mended."""
    md5: str = ""
    """Of the mended bytes, hexadecimal: the ETag that S3 gives them when they come in one piece."""
    hash: str = ""
    """blake2b-128 of the mended bytes, hexadecimal."""
    essence: str = ""
    """The same of the image without its metadata: equal where only EXIF or a comment differ."""
    width: int = 0
    """Pixels, as a viewer shows it."""
    height: int = 0
    mending: Mending = AS_IT_IS
    notes: tuple[str, ...] = ()
    """What was mended, and what is worth knowing."""
    problem: str = ""
    """Why it cannot be published; empty where it can."""

    def has_content(self, data: bytes) -> bool:
        """Returns whether `data` are the image's mended bytes."""
        return _blake2b(data) == self.hash


def kind_of(data: bytes) -> str | None:
    """Returns the kind of image that a file's first 16 bytes tell, a key of `SUFFIXES`; None: no image."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)


def examine(key: str, data: bytes, known: Mapping[str, ImageFile]) -> Checked:
    """Returns what is found out about one file.

    Args:
        key: Where it lies below the source.
        data: The whole file.
        known: Images that were checked before, by their hash: they are not decoded again.
    """
    start = data.find(_JPEG_START, 0, _STRAY) if kind_of(data) is None else 0
    kind = "JPEG" if start > 0 else kind_of(data)
    if kind is None:
        begins = f"it begins with {data[:12]!r}" if data else "it is empty"
        return Checked(key, key, problem=f"not an image: {begins}")
    name, notes = named(key, kind)
    mending = Mending(skip=max(start, 0))
    if start > 0:
        notes.append(f"{start} stray bytes before the image cut off")
    mended = mending.apply(data)
    digest = _blake2b(mended)
    try:
        if (found := known.get(digest)) and found.width:
            width, height = found.width, found.height
        else:
            width, height, ends = _read(mended, kind)
            if not ends:
                mending = mending._replace(end=_JPEG_END)
                mended = mending.apply(data)
                digest = _blake2b(mended)
                notes.append("the missing end marker added")
    except ImageError as error:
        return Checked(key, name, problem=str(error))
    if width * height > LARGE_PIXELS or len(mended) > LARGE_BYTES:
        notes.append(f"large: {width} x {height} px, {len(mended) / 1e6:.1f} MB; it slows down every epoch")
    essence = _blake2b(_without_metadata(mended)) if kind == "JPEG" else digest
    md5 = hashlib.md5(mended, usedforsecurity=False).hexdigest()
    return Checked(key, name, len(mended), md5, digest, essence, width, height, mending, tuple(notes))


def named(key: str, kind: str) -> tuple[str, list[str]]:
    """Returns the key to publish an image under, with the suffix of its kind, and what was changed in it.

    Letters with accents are written as one character: an archive made on a Mac has them as two, and the same class
    would be two classes in S3.
    """
    notes = []
    name = unicodedata.normalize("NFC", key)
    if name != key:
        notes.append("accents in its name composed")
    path = PurePosixPath(name)
    if path.suffix.lower() not in SUFFIXES[kind]:
        notes.append(f"suffix {path.suffix or '(none)'} of a {kind} image set right")
        known = any(path.suffix.lower() in suffixes for suffixes in SUFFIXES.values())
        name = str(path.with_suffix(SUFFIXES[kind][0])) if known else name + SUFFIXES[kind][0]
    return name, notes


def _read(data: bytes, kind: str) -> tuple[int, int, bool]:
    """Returns width and height, px, and whether the end marker of a JPEG is there; decodes all of the image.

    Raises:
        ImageError: it cannot be read as it is, nor with an end marker added.
    """
    area = _area(data)
    if area > MAX_PIXELS:
        raise ImageError(f"huge: {area:,} pixels, at most {MAX_PIXELS:,} can be read")
    with _one_large_at_a_time if area > LARGE_PIXELS else nullcontext():
        try:
            size = read_size(data)
            decode_pixels(data, scale=8)
            return size.width, size.height, True
        except ImageError:
            if kind != "JPEG" or data.rstrip(b"\0").endswith(_JPEG_END):
                raise
            try:
                size = read_size(data)
                decode_pixels(data + _JPEG_END, scale=8)
            except ImageError:
                pass
            else:
                return size.width, size.height, False
            raise


def _area(data: bytes) -> int:
    """Returns the pixels that a file's header promises; 0 where it cannot be read, which decoding will tell."""
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return MAX_PIXELS + 1
    except (OSError, SyntaxError, ValueError, TypeError, OverflowError):
        return 0


def _without_metadata(data: bytes) -> bytes:
    """Returns a JPEG without its APPn and COM segments, and without what stands behind its end."""
    parts, place = [], 2
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big") + 2
        if marker == 0xDA:
            break
        if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):
            parts.append(data[place : place + length])
        place += length
    end = data.rfind(_JPEG_END)
    return b"".join([*parts, data[place : end if end > place else len(data)]])


def _blake2b(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
