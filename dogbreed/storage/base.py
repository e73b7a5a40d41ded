"""The `Store` protocol: list and fetch the objects under a URL, the same way for a folder, S3 and generated images.

The main process lists; `fetch` runs in the process that decodes. Stores can be pickled (for spawned workers) and create
their network client at the first `fetch` in each process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol


class ImageError(Exception):
    """One image cannot be fetched or decoded; the message is the reason. The caller may skip the image."""


class UnreachableError(ImageError):
    """One image cannot be fetched at the moment; its content is unknown and a later attempt may succeed."""


class TransientError(Exception):
    """A request failed in a way that is worth retrying; if it was throttled, even the first retry should back off."""

    def __init__(self, reason: str, is_throttled: bool = False) -> None:
        super().__init__(reason)
        self.is_throttled = is_throttled


class ObjectInfo(NamedTuple):
    """One object of a listing."""

    key: str
    """Path below the store's URL, separated by `/`; a key that ends in `/` is an empty folder."""
    size: int
    """Bytes."""
    etag: str
    """Changes when the content does."""

    @property
    def version(self) -> int:
        """64-bit hash of key, size and ETag."""
        text = b"%b\0%d\0%b" % (self.key.encode("utf-8", "surrogateescape"), self.size, self.etag.encode())
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


class ObjectRequest(NamedTuple):
    """An object to fetch."""

    key: str
    size: int
    """Bytes, as listed."""
    version: int | None = None
    """`ObjectInfo.version`; None if unknown, which bypasses the cache."""


class ObjectBody(NamedTuple):
    """The content of an object, with its ETag."""

    data: bytes | memoryview
    """The client's own buffer; copying it would take a large part of the request's time."""
    etag: str

    def version_of(self, key: str) -> int:
        """Returns the version of an object under `key` that has this content."""
        return ObjectInfo(key, len(self.data), self.etag).version


class Store(Protocol):
    """Objects under a URL."""

    @property
    def url(self) -> str:
        """The URL as the user typed it, for messages."""

    def list_objects(self) -> Iterator[ObjectInfo]:
        """Yields all objects under the URL, in any order.

        Raises:
            UserError: the URL cannot be listed.
        """

    def read(self, key: str) -> bytes | None:
        """Returns the content of one object, or None if it does not exist; for the main process.

        Raises:
            UserError: the store cannot be read.
        """

    async def fetch(self, key: str) -> ObjectBody:
        """Returns the content of one object.

        Raises:
            UnreachableError: this object cannot be read.
            TransientError: the request failed and is worth retrying.
            UserError: the store cannot be read at all.
        """

    def fork_is_safe(self) -> bool:
        """Returns whether a forked child of this process can still `fetch`."""
