"""Writes to where a data set is published: a folder or an S3 prefix."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from typing import Any, Protocol, cast

from dogbreed.data.formats import image_format
from dogbreed.errors import UserError
from dogbreed.publishing.checks import CheckedImage
from dogbreed.publishing.disk import check_free_space, write_error
from dogbreed.storage import open_store
from dogbreed.storage.base import ObjectInfo, Store, TransientError
from dogbreed.storage.credentials import advice, first_line
from dogbreed.storage.local import FolderStore
from dogbreed.storage.s3 import EXPIRED_CREDENTIALS, S3Store
from dogbreed.system.atomic import atomic_write

HASH_METADATA = "blake2b"
"""Metadata key of an image's hash, for servers whose ETags are not MD5 sums (KMS encryption)."""

_PART_BYTES = [size << 20 for size in (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128)]
"""Part sizes of common upload tools; `aws s3 cp` uses 8 MiB."""


class Target(Protocol):
    """A folder or an S3 prefix to publish to."""

    @property
    def store(self) -> Store:
        """Reads from the target."""

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the objects at the target; none if it does not exist yet."""

    def check_space(self, num_bytes: int) -> None:
        """Raises `UserError` if `num_bytes` do not fit."""

    def has_content(self, info: ObjectInfo, image: CheckedImage, read: Callable[[], bytes]) -> bool:
        """Returns whether an object has the content of an image of the same size.

        Args:
            info: The listed object.
            image: The image.
            read: Returns the bytes of the image.
        """

    def put(self, key: str, data: bytes, image: CheckedImage | None = None) -> None:
        """Writes an object atomically; thread-safe.

        Raises:
            TransientError: The request failed in a way that is worth retrying.
            TransferError: The disk is full.
            UserError: The target refuses it.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects."""


def open_target(url: str, endpoint_url: str | None) -> Target:
    """Returns the target for `s3://bucket/prefix` or a folder, which need not exist.

    Raises:
        UserError: It is another kind of URL.
    """
    if "://" in url and not url.startswith(("s3://", "file://")):
        raise UserError(f"cannot publish to {url}; give s3://bucket/prefix or a folder")
    store = open_store(url, endpoint_url)
    return S3Target(store) if isinstance(store, S3Store) else FolderTarget(cast(FolderStore, store))


class FolderTarget:
    """A folder on this machine."""

    def __init__(self, store: FolderStore) -> None:
        self.store = store

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the files."""
        return self.store.list_objects() if self.store.root.exists() else ()

    def check_space(self, num_bytes: int) -> None:
        """Raises `UserError` if the disk has less than `num_bytes` of free space."""
        check_free_space(self.store.root, num_bytes)

    def has_content(self, info: ObjectInfo, image: CheckedImage, read: Callable[[], bytes]) -> bool:
        """Returns whether the file has the content of the image."""
        return (self.store.root / info.key).read_bytes() == read()

    def put(self, key: str, data: bytes, image: CheckedImage | None = None) -> None:
        """Writes a file."""
        path = self.store.root / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, lambda part: part.write_bytes(data))
        except OSError as error:
            raise write_error(path, error) from error

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes files, and folders below the root that become empty."""
        for key in keys:
            path = self.store.root / key
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                while (path := path.parent) != self.store.root:
                    path.rmdir()


class S3Target:
    """A prefix of an S3 bucket. boto3 resolves credentials, obstore, which runs requests in Rust, writes objects."""

    def __init__(self, store: S3Store) -> None:
        self.store = store
        self._client: Any = None
        self._client_lock = threading.Lock()

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the objects."""
        return self.store.list_objects()

    def check_space(self, num_bytes: int) -> None:
        """Does nothing: buckets have no size limit."""

    def has_content(self, info: ObjectInfo, image: CheckedImage, read: Callable[[], bytes]) -> bool:
        """Returns whether the object has the content of the image, by its ETag or the hash in its metadata."""
        _, dash, num_parts = info.etag.partition("-")
        if info.etag == image.md5 or (dash and info.etag in multipart_etags(read(), int(num_parts))):
            return True
        head = self._boto.head_object(Bucket=self.store.bucket, Key=self.store.prefix + info.key)
        return bool(head.get("Metadata", {}).get(HASH_METADATA) == image.hash)

    def put(self, key: str, data: bytes, image: CheckedImage | None = None) -> None:
        """Writes an object in one part, so that S3's ETag is its MD5."""
        import obstore
        from obstore.exceptions import BaseError, GenericError

        with self._client_lock:
            if self._client is None:
                self._client = self.store.object_client()
            client = self._client
        kind = image_format(data[:16])
        attributes = {"Content-Type": f"image/{kind.lower()}"} if kind else {}
        if image is not None:
            attributes[HASH_METADATA] = image.hash
        try:
            obstore.put(client, self.store.prefix + key, data, attributes=attributes, use_multipart=False)
        except BaseError as error:
            if any(code in str(error) for code in EXPIRED_CREDENTIALS):
                self._client = None  # a new client resolves credentials again
            elif not isinstance(error, GenericError):
                raise UserError(f"{self.store.url} cannot be written: {advice(error)}") from error
            raise TransientError(first_line(error)) from error

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects, up to 1000 per request."""
        objects = [{"Key": self.store.prefix + key} for key in keys]
        for start in range(0, len(objects), 1000):
            batch = {"Objects": objects[start : start + 1000], "Quiet": True}
            response = self._boto.delete_objects(Bucket=self.store.bucket, Delete=batch)
            for failed in response.get("Errors", []):
                raise UserError(f"s3://{self.store.bucket}/{failed['Key']} cannot be deleted: {failed['Message']}")

    @cached_property
    def _boto(self) -> Any:
        return self.store.boto_client()


def multipart_etags(data: bytes, num_parts: int) -> set[str]:
    """Returns the possible S3 ETags of `data` after a multipart upload in `num_parts` parts of common sizes."""
    etags = set()
    for size in _PART_BYTES:
        if -(-len(data) // size) == num_parts:
            parts = [hashlib.md5(data[at : at + size], usedforsecurity=False) for at in range(0, len(data), size)]
            digests = b"".join(part.digest() for part in parts)
            etags.add(f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{num_parts}")
    return etags
