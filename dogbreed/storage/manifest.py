"""The manifest: a listing that publishing writes next to the images, so that large data sets need not be listed again.

One gzip-compressed object with a JSON object per line: a header, then one line per image, sorted by key.
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
"""Key of the manifest, directly below the data URL."""

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
    """Pixels; 0: unknown."""
    height: int = 0
    """Pixels; 0: unknown."""
    hash: str = ""
    """blake2b-128 of the content, hexadecimal; empty: unknown."""

    @property
    def object_info(self) -> ObjectInfo:
        """The image as a listing of the store returns it."""
        return ObjectInfo(self.key, self.size, self.etag)


class ManifestError(ValueError):
    """A manifest cannot be used; the message is the reason."""


def manifest_bytes(images: Iterable[ImageFile]) -> bytes:
    """Returns the content of the manifest of `images`, which may come in any order."""
    ordered = sorted(images)
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    header = {"format": FORMAT, "images": len(ordered), "made": made}
    lines = [header, *(image._asdict() for image in ordered)]
    return gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode(), mtime=0)


def parse_manifest(content: bytes) -> Iterator[ImageFile]:
    """Yields the images of a manifest, sorted by key.

    Raises:
        ManifestError: damaged, truncated or of another format.
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
    """Returns the images of the store's manifest, parsed lazily and not compared with the store; None without one.

    Raises:
        ManifestError: during the iteration, if the manifest is damaged.
        UserError: the store cannot be read at all.
    """
    content = store.read(MANIFEST)
    return None if content is None else parse_manifest(content)
