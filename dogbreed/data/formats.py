"""Formats of image files, by their first bytes."""

from __future__ import annotations

PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The only formats that Pillow may open: it knows many more, some of which start other programs (EPS)."""

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}

JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"

MAX_JUNK_BYTES = 4096
"""Junk before a JPEG, such as an HTTP or MacBinary header, is at most this long."""

_ADVICE = {
    b"\x1f\x8b": "compressed with gzip: store it without Content-Encoding",
    b"version https://git-lfs": "a Git LFS pointer: run git lfs pull",
}
"""By the first bytes of a file."""


def image_format(data: bytes | memoryview) -> str | None:
    """Returns the image format of a file by its first 16 bytes, such as `PNG`; None if it is not an image."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC.items() if data[: len(magic)] == magic), None)


def without_junk(data: bytes | memoryview) -> bytes | memoryview:
    """Returns a JPEG that begins within the first bytes from its beginning; any other file unchanged."""
    if image_format(data) is not None:
        return data
    start = bytes(data[:MAX_JUNK_BYTES]).find(JPEG_START)
    return data[start:] if start > 0 else data


def unsupported_format(data: bytes | memoryview) -> str:
    """Returns what to do about a file that is known not to be readable, empty for any other."""
    if bytes(data[4:8]) == b"ftyp":
        kind = bytes(data[8:12]).decode("ascii", "replace").upper()
        return f"{kind} images are not supported: convert them to JPEG"
    return next((text for start, text in _ADVICE.items() if bytes(data[: len(start)]) == start), "")
