"""Checks one image as a training would read it, and finds repairs that need no re-encoding.

Repairs concern the name, junk bytes before a JPEG and its missing end marker; pixels never change.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from PIL import Image

from dogbreed.data.decode import MAX_PIXELS, decode_pixels, read_size
from dogbreed.data.formats import JPEG_END, JPEG_START, MAX_JUNK_BYTES, PILLOW_FORMATS, image_format
from dogbreed.publishing.sources import Source
from dogbreed.storage.base import ImageError, ObjectInfo
from dogbreed.storage.listing import IMAGE_SUFFIXES
from dogbreed.storage.manifest import ImageFile
from dogbreed.system.cpu import cpu_count

MAX_BYTES = 256 << 20
"""Larger files are skipped unread."""

LARGE_PIXELS, LARGE_BYTES = 30_000_000, 20 << 20
"""Larger images are published with a note, because they slow down every epoch."""

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
"""Valid suffixes by image format; the first one replaces a wrong suffix."""

_UNSUPPORTED = (".heic", ".heif", ".avif", ".jxl")

_CHUNK = 32
"""Files that a thread checks at a time."""

_INVALID_IN_KEYS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes of a name that is not UTF-8."""

_MAX_NAME_BYTES = 230
"""Longest name of a file or folder: file systems allow 255 bytes, and temporary files append to it."""

_large_image_lock = threading.Lock()
"""Limits memory: one large image may take half a gigabyte once decoded."""


class Repair(NamedTuple):
    """A repair of an image file."""

    skip: int = 0
    """Bytes to remove at the beginning."""
    end: bytes = b""
    """Bytes to append."""

    def apply(self, data: bytes) -> bytes:
        """Returns the repaired bytes; `data` itself if there is nothing to repair."""
        return data[self.skip :] + self.end if self != NO_REPAIR else data


NO_REPAIR = Repair()


@dataclass(frozen=True)
class CheckedImage:
    """The result of checking a file. Size, hashes and dimensions are those of the repaired image."""

    key: str
    """Path below the source."""
    name: str
    """Key at the target."""
    size: int = 0
    """Bytes."""
    md5: str = ""
    """MD5, hexadecimal: S3's ETag after an upload in one part without KMS encryption."""
    hash: str = ""
    """blake2b-128, hexadecimal."""
    hash_without_metadata: str = ""
    """The same without EXIF data and comments; equal for copies that differ only in those."""
    width: int = 0
    """Pixels, after the EXIF orientation is applied."""
    height: int = 0
    repair: Repair = NO_REPAIR
    repairs: tuple[str, ...] = ()
    """Descriptions of the repairs."""
    note: str = ""
    """What else to know about the image."""
    problem: str = ""
    """Why the image is skipped; empty if it can be published."""

    def has_content(self, data: bytes) -> bool:
        """Returns whether `data` are the bytes of the repaired image."""
        return _blake2b(data) == self.hash


def check_all(
    source: Source,
    files: Sequence[ObjectInfo],
    known: Mapping[str, ImageFile],
    on_progress: Callable[[int, int | None], None],
) -> Iterator[CheckedImage]:
    """Yields the checked images in order; files without the suffix or content of an image are ignored.

    Decoding and hashing release the GIL, so one thread per CPU is used.

    Args:
        source: Where to read the files.
        files: The files to check.
        known: Images that an earlier run has checked, by hash.
        on_progress: Called with the number of files checked so far and of all files.
    """
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    done = 0
    with warnings.catch_warnings(), ThreadPoolExecutor(cpu_count()) as threads:
        warnings.filterwarnings("ignore", module="PIL")  # about EXIF data and sizes, which are checked here
        try:
            for checked in threads.map(lambda chunk: [_check_file(source, info, known) for info in chunk], chunks):
                done += len(checked)
                on_progress(done, len(files))
                yield from (image for image in checked if image)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _check_file(source: Source, info: ObjectInfo, known: Mapping[str, ImageFile]) -> CheckedImage | None:
    """Returns the result for one file; None if it is not an image."""
    key, suffix = info.key, PurePosixPath(info.key).suffix.lower()
    has_suffix, problem = suffix in IMAGE_SUFFIXES, ""
    if suffix in _UNSUPPORTED:
        return CheckedImage(key, key, problem=f"unsupported format {suffix}; convert it to JPEG or PNG")
    if info.size > MAX_BYTES:
        problem = f"too large: {info.size / 1e6:,.0f} MB, at most {MAX_BYTES / 1e6:,.0f} MB are allowed"
    elif _INVALID_IN_KEYS.search(key):
        return CheckedImage(key, key, problem="its name contains control characters or is not UTF-8; rename it")
    elif max(len(part.encode()) for part in key.split("/")) > _MAX_NAME_BYTES:
        problem = f"its name is longer than {_MAX_NAME_BYTES} bytes; rename it"
    else:
        try:
            data = source.read(key)
            return check_image(key, data, known) if has_suffix or image_format(data) else None
        except ImageError as error:
            problem = str(error)
    return CheckedImage(key, key, problem=problem) if has_suffix else None


def check_image(key: str, data: bytes, known: Mapping[str, ImageFile]) -> CheckedImage:
    """Returns the result of checking an image.

    Args:
        key: Path below the source.
        data: Content of the file.
        known: Images that an earlier run has checked, by hash; they are not decoded again.
    """
    found = image_format(data)
    start = data.find(JPEG_START, 0, MAX_JUNK_BYTES) if found is None else 0
    kind = "JPEG" if start > 0 else found
    if kind is None:
        reason = f"it begins with {data[:12]!r}" if data else "it is empty"
        return CheckedImage(key, key, problem=f"not an image: {reason}")
    name, repairs = repaired_name(key, kind)
    repair = Repair(skip=start)
    if start > 0:
        repairs.append(f"removed {start} junk bytes before the image")
    repaired = repair.apply(data)
    digest = _blake2b(repaired)
    try:
        if (entry := known.get(digest)) and entry.width:
            width, height = entry.width, entry.height
        else:
            width, height, has_end = _decode(repaired, kind)
            if not has_end:
                repair = repair._replace(end=JPEG_END)
                repaired = repair.apply(data)
                digest = _blake2b(repaired)
                repairs.append("added the missing end marker")
    except ImageError as error:
        return CheckedImage(key, name, problem=str(error))
    note = ""
    if width * height > LARGE_PIXELS or len(repaired) > LARGE_BYTES:
        note = f"large image, slows down every epoch: {width} x {height} px, {len(repaired) / 1e6:.1f} MB"
    pixel_digest = _blake2b(_without_metadata(repaired)) if kind == "JPEG" else digest
    md5 = hashlib.md5(repaired, usedforsecurity=False).hexdigest()
    size = len(repaired)
    return CheckedImage(key, name, size, md5, digest, pixel_digest, width, height, repair, tuple(repairs), note)


def repaired_name(key: str, kind: str) -> tuple[str, list[str]]:
    """Returns the key to publish an image under, with the suffix of its format, and descriptions of the changes.

    Accents are composed to one character (Unicode NFC): archives made on a Mac decompose them, and S3 would treat both
    forms as different classes.
    """
    repairs = []
    name = unicodedata.normalize("NFC", key)
    if name != key:
        repairs.append("composed the accents in its name")
    path = PurePosixPath(name)
    if (suffix := path.suffix.lower()) not in SUFFIXES[kind]:
        repairs.append(f"replaced suffix {path.suffix or '(none)'} of a {kind} image")
        is_image_suffix = any(suffix in suffixes for suffixes in SUFFIXES.values())
        name = str(path.with_suffix(SUFFIXES[kind][0])) if is_image_suffix else name + SUFFIXES[kind][0]
    return name, repairs


def _decode(data: bytes, kind: str) -> tuple[int, int, bool]:
    """Decodes the image; returns width and height in pixels, and whether a JPEG has its end marker.

    Raises:
        ImageError: It cannot be decoded, even with an end marker.
    """
    num_pixels = _num_pixels(data)
    if num_pixels > MAX_PIXELS:
        raise ImageError(f"too large: {num_pixels:,} pixels, at most {MAX_PIXELS:,} are allowed")
    with _large_image_lock if num_pixels > LARGE_PIXELS else nullcontext():
        try:
            size = read_size(data)
            decode_pixels(data, scale=8, repair=False)
            return size.width, size.height, True
        except ImageError:
            if kind != "JPEG" or data.rstrip(b"\0").endswith(JPEG_END):
                raise
            try:
                size = read_size(data)
                decode_pixels(data + JPEG_END, scale=8, repair=False)
            except ImageError:
                pass
            else:
                return size.width, size.height, False
            raise


def _num_pixels(data: bytes) -> int:
    """Returns width times height by the file's header; 0 if it cannot be read, in which case decoding fails too."""
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return MAX_PIXELS + 1
    except (OSError, SyntaxError, ValueError, TypeError, OverflowError):
        return 0


def _without_metadata(data: bytes) -> bytes:
    """Returns a JPEG without its APPn and COM segments, and without bytes after its end marker."""
    parts, start = [], 2
    while data[start : start + 1] == b"\xff" and start + 4 <= len(data):
        marker, length = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big") + 2
        if marker == 0xDA:
            break
        if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):
            parts.append(data[start : start + length])
        start += length
    end = data.rfind(JPEG_END)
    return b"".join([*parts, data[start : end if end > start else len(data)]])


def _blake2b(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
