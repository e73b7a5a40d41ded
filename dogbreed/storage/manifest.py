"""The manifest: a listing that publishing leaves beside the images, so that a million need not be listed again.

One gzip'd object, a JSON object a line: first a header, then one line an image, sorted by key.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import NamedTuple, Protocol

from dogbreed.storage.base import ObjectInfo

MANIFEST = "dogbreed-manifest.json.gz"
"""Its key, directly below the data URL."""

FORMAT = 1


class ImageFile(NamedTuple):
    """One line of a manifest."""

    key: str
    """Path below the data URL."""
    size: int
    """Bytes."""
    etag: str
    """As the store lists it, without quotes."""
    width: int = 0
    """Pixels; 0: not known."""
    height: int = 0
    hash: str = ""
    """blake2b-128 of the content, hexadecimal; empty: not known."""

    @property
    def entry(self) -> ObjectInfo:
        """What a listing of the store says of it."""
        return ObjectInfo(self.key, self.size, self.etag)


class ManifestError(ValueError):
    """A manifest cannot be used; the message says why."""


def manifest_bytes(images: Iterable[ImageFile]) -> bytes:
    """Returns the content of the manifest of `images`, which may come in any order."""
    ordered = sorted(images)
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    header = {"format": FORMAT, "images": len(ordered), "made": made}
    lines = [header, *(image._asdict() for image in ordered)]
    return gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode(), mtime=0)


def parse_manifest(content: bytes) -> Iterator[ImageFile]:
    """Yields the images of a manifest in the order of their keys.

    Raises:
        ManifestError: it is damaged, cut short or of another format.
    """
    try:
        with gzip.open(io.BytesIO(content), "rt", encoding="utf-8") as lines:
            header = json.loads(next(lines))
            if header["format"] != FORMAT:
                raise ManifestError(f"it has format {header['format']}, this version reads {FORMAT}")
            count = 0
            for line in lines:
                count += 1
                yield ImageFile(**json.loads(line))
            if count != header["images"]:
                raise ManifestError(f"it has {count} of {header['images']} images")
    except ManifestError:
        raise
    except (OSError, EOFError, zlib.error, StopIteration, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"it is damaged: {str(error) or type(error).__name__}") from error


class _Reader(Protocol):
    def read(self, key: str) -> bytes | None: ...


def read_manifest(store: _Reader) -> Iterator[ImageFile] | None:
    """Returns the images that the store's manifest names, unchecked and as they are read; None where there is none.

    Raises:
        ManifestError: while they are read, if that cannot be done.
        UserError: the store cannot be read at all.
    """
    content = store.read(MANIFEST)
    return None if content is None else parse_manifest(content)
