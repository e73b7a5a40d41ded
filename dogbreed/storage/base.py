"""Where images come from: list and get objects under a URL, the same way for a folder, S3 and generated images.

The parent process lists; `fetch` is called in the process that decodes. Stores pickle (into workers that are not
forked) and make their network client at the first `fetch` in each process.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from dogbreed.errors import UserError


class ImageError(Exception):
    """One image cannot be had or read; the message is the reason. Such an image never ends a run by itself."""


class UnreachableError(ImageError):
    """One image cannot be had now: nothing is known of its content, and another time may find it well."""


class BusyError(Exception):
    """The store could not answer just now, or not wholly; asking again makes sense.

    Args:
        reason: For the log.
        is_overloaded: It asks for fewer requests, so that even the first of them should wait.
    """

    def __init__(self, reason: str, is_overloaded: bool = False) -> None:
        super().__init__(reason)
        self.is_overloaded = is_overloaded


class ObjectInfo(NamedTuple):
    """One object of a listing."""

    key: str
    """Path below the store's URL with `/` between its parts; a key that ends in `/` is a folder without files."""
    size: int
    """Bytes."""
    etag: str
    """Changes when the content does."""

    @property
    def version(self) -> int:
        """64 bits that change with any of these."""
        text = b"%b\0%d\0%b" % (self.key.encode("utf-8", "surrogateescape"), self.size, self.etag.encode())
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


class ObjectRequest(NamedTuple):
    """An object that is asked for."""

    key: str
    size: int
    """Bytes, as listed."""
    version: int | None = None
    """`ObjectInfo.version`; None: not known, such an object is in no cache."""


class ObjectBody(NamedTuple):
    """An object's content, which knows of which version it is."""

    data: bytes | memoryview
    """Where the client has put it: a copy would cost as much as half of the request."""
    etag: str

    def version_of(self, key: str) -> int:
        """Returns what the version would be of an object of this content under `key`."""
        return ObjectInfo(key, len(self.data), self.etag).version


class Store(Protocol):
    """Objects under a URL."""

    @property
    def url(self) -> str:
        """What the user gave, for messages."""

    def entries(self) -> Iterator[ObjectInfo]:
        """Yields everything under the URL, in any order.

        Raises:
            UserError: the URL cannot be listed.
        """

    def read(self, key: str) -> bytes | None:
        """Returns the content of one object, or None where there is none; for the process that lists.

        Raises:
            UserError: the store cannot be read.
        """

    async def fetch(self, key: str) -> ObjectBody:
        """Returns the content of one object.

        Raises:
            UnreachableError: this one object cannot be read.
            UserError: the store cannot be read at all.
        """

    def fork_is_safe(self) -> bool:
        """Returns whether a child forked from this process could still `fetch`."""


def open_store(url: str, endpoint_url: str | None = None, request_payer: bool = False) -> Store:
    """Returns the store for `url`: a folder path, `file://`, `s3://bucket/prefix` or `demo://`.

    Args:
        url: Nothing is read or listed here.
        endpoint_url: Server of an S3-compatible store, `http://` allowed; None: AWS, or what boto3's own settings say.
        request_payer: Of a bucket in S3 whose owner has requests paid by who asks.

    Raises:
        UserError: the URL is of another kind.
    """
    scheme, separator, _ = str(url).partition("://")
    if scheme == "s3" and separator:
        from dogbreed.storage.s3 import S3Store

        return S3Store.from_url(url, endpoint_url, request_payer)
    if endpoint_url is not None:
        raise UserError(f"data.endpoint_url={endpoint_url} goes with data.url=s3://bucket/prefix, not with {url!r}")
    if request_payer:
        raise UserError(f"data.request_payer=true goes with data.url=s3://bucket/prefix, not with {url!r}")
    if scheme == "demo" and separator:
        from dogbreed.storage.demo import DemoStore

        return DemoStore.from_url(url)
    if scheme == "file" and separator:
        return FolderStore(url, Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)))
    if separator:
        raise UserError(
            f"data.url={url!r}: no images can be read from {scheme}://; "
            "allowed: a folder path, file:///path, s3://bucket/prefix, demo://"
        )
    return FolderStore(str(url), Path(url).expanduser())


@dataclass(frozen=True)
class FolderStore:
    """Files below a folder of this machine."""

    url: str
    root: Path

    def entries(self) -> Iterator[ObjectInfo]:
        """Yields the files below the folder, and its folders without files; links are followed."""
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise UserError(f"data.url={self.url!r}: the folder {what}; give a folder with one sub-folder a class")
        try:
            yield from self._walk(str(self.root), "", frozenset())
        except OSError as error:
            raise UserError(f"data.url={self.url!r}: {error.filename}: {error.strerror}") from error

    def _walk(self, folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[ObjectInfo]:
        status = os.stat(folder)  # noqa: PTH116 - a Path for each folder takes longer than all else
        here = (status.st_dev, status.st_ino)
        if here in above:
            return  # a link that leads back up
        with os.scandir(folder) as found:
            items = list(found)
        if prefix and not items:
            yield ObjectInfo(prefix, 0, "")
        for item in items:
            if item.is_dir():
                yield from self._walk(item.path, f"{prefix}{item.name}/", above | {here})
            elif item.is_file():
                status = item.stat()
                yield ObjectInfo(prefix + item.name, status.st_size, str(status.st_mtime_ns))

    def read(self, key: str) -> bytes | None:
        """Returns a file's content, or None where there is none."""
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    async def fetch(self, key: str) -> ObjectBody:
        """Returns a file's content; read in a thread, as the folder may lie on a slow network disk."""
        return await asyncio.to_thread(self._fetch, key)

    def _fetch(self, key: str) -> ObjectBody:
        try:
            with (self.root / key).open("rb") as file:
                return ObjectBody(file.read(), str(os.fstat(file.fileno()).st_mtime_ns))
        except OSError as error:
            raise UnreachableError(error.strerror or str(error)) from error

    def fork_is_safe(self) -> bool:
        """Returns True: files need no client."""
        return True
