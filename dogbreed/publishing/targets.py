"""Where a data set is published: a folder or an S3 prefix. What is there already is told by its content."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from typing import Any, Protocol, cast

from dogbreed.errors import UserError
from dogbreed.publishing.checks import Checked, kind_of
from dogbreed.publishing.download import TransferError
from dogbreed.storage import open_store
from dogbreed.storage.base import ObjectInfo, Store, TransientError
from dogbreed.storage.credentials import advice
from dogbreed.storage.local import FolderStore
from dogbreed.storage.s3 import EXPIRED_CREDENTIALS, S3Store

HASH_NAME = "blake2b"
"""Name of the metadata that holds an image's hash, for servers whose ETags tell nothing (KMS encryption)."""

_PART_BYTES = [size << 20 for size in (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128)]
"""Parts that tools upload in; 8 MiB is that of `aws s3 cp`."""


class Target(Protocol):
    """A place to publish to."""

    @property
    def store(self) -> Store:
        """What reads there."""

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns what lies there; nothing where the place is yet to be made."""

    def check_room(self, num_bytes: int) -> None:
        """Raises UserError where `num_bytes` more do not fit."""

    def holds(self, entry: ObjectInfo, image: Checked, read: Callable[[], bytes]) -> bool:
        """Returns whether an object, of the same size as `image`, has its very content.

        Args:
            entry: The object, as listed.
            image: What should be there.
            read: Returns the image's bytes.
        """

    def put(self, key: str, data: bytes, image: Checked | None = None) -> None:
        """Writes an object, wholly or not at all.

        Raises:
            TransientError: not now; asking again makes sense.
            TransferError: the disk is full.
            UserError: it is not allowed.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects."""


def open_target(url: str, endpoint_url: str | None) -> Target:
    """Returns the place that `url` names: `s3://bucket/prefix` or a folder, which need not exist.

    Raises:
        UserError: it is another kind of URL.
    """
    if "://" in url and not url.startswith(("s3://", "file://")):
        raise UserError(f"nothing can be published to {url}; give s3://bucket/prefix or a folder")
    store = open_store(url, endpoint_url)
    return S3Target(store) if isinstance(store, S3Store) else FolderTarget(cast(FolderStore, store))


class FolderTarget:
    """A folder of this machine."""

    def __init__(self, store: FolderStore) -> None:
        self.store = store

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the files."""
        return self.store.list_objects() if self.store.root.exists() else ()

    def check_room(self, num_bytes: int) -> None:
        """Raises UserError where the disk has less free than `num_bytes`."""
        root = next(path for path in (self.store.root, *self.store.root.absolute().parents) if path.exists())
        free = shutil.disk_usage(root).free
        if num_bytes > free:
            raise UserError(f"{root} has room for {free / 1e6:,.0f} MB, the images need {num_bytes / 1e6:,.0f} MB")

    def holds(self, entry: ObjectInfo, image: Checked, read: Callable[[], bytes]) -> bool:
        """Returns whether the file has the image's content."""
        return (self.store.root / entry.key).read_bytes() == read()

    def put(self, key: str, data: bytes, image: Checked | None = None) -> None:
        """Writes a file."""
        path = self.store.root / key
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise TransferError("the disk is full") from error
            raise UserError(f"{path} cannot be written: {error.strerror}") from error

    def delete(self, keys: Iterable[str]) -> None:
        """Removes files, and folders that get empty."""
        for key in keys:
            path = self.store.root / key
            path.unlink(missing_ok=True)
            with suppress(OSError):
                os.removedirs(path.parent)


class S3Target:
    """A prefix of an S3 bucket. boto3 finds credentials, obstore, whose requests run in Rust, writes the objects."""

    def __init__(self, store: S3Store) -> None:
        self.store = store
        self._client: Any = None
        self._client_lock = threading.Lock()

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the objects."""
        return self.store.list_objects()

    def check_room(self, num_bytes: int) -> None:
        """Does nothing: a bucket has no end."""

    def holds(self, entry: ObjectInfo, image: Checked, read: Callable[[], bytes]) -> bool:
        """Returns whether the object has the image's content, told by its ETag, else by the hash it carries."""
        _, dash, num_parts = entry.etag.partition("-")
        if entry.etag == image.md5 or (dash and entry.etag in multipart_etags(read(), int(num_parts))):
            return True
        head = self._boto.head_object(Bucket=self.store.bucket, Key=self.store.prefix + entry.key)
        return bool(head.get("Metadata", {}).get(HASH_NAME) == image.hash)

    def put(self, key: str, data: bytes, image: Checked | None = None) -> None:
        """Writes an object in one piece, so that its ETag is its MD5 wherever S3 does it that way."""
        import obstore
        from obstore.exceptions import BaseError, GenericError

        with self._client_lock:
            if self._client is None:
                self._client = self.store.object_client()
            client = self._client
        kind = kind_of(data[:16])
        attributes = {"Content-Type": f"image/{kind.lower()}"} if kind else {}
        if image is not None:
            attributes[HASH_NAME] = image.hash
        try:
            obstore.put(client, self.store.prefix + key, data, attributes=attributes, use_multipart=False)
        except BaseError as error:
            reason = str(error).partition("\n")[0]
            if any(code in str(error) for code in EXPIRED_CREDENTIALS):
                self._client = None  # credentials that have run out are looked up anew
            elif not isinstance(error, GenericError):
                raise UserError(f"{self.store.url} cannot be written: {advice(error)}") from error
            raise TransientError(reason) from error

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects, a thousand a request."""
        names = [{"Key": self.store.prefix + key} for key in keys]
        for start in range(0, len(names), 1000):
            part = {"Objects": names[start : start + 1000], "Quiet": True}
            answer = self._boto.delete_objects(Bucket=self.store.bucket, Delete=part)
            for refused in answer.get("Errors", []):
                raise UserError(f"s3://{self.store.bucket}/{refused['Key']} cannot be deleted: {refused['Message']}")

    @cached_property
    def _boto(self) -> Any:
        return self.store.boto_client()


def multipart_etags(data: bytes, num_parts: int) -> set[str]:
    """Returns the ETags that S3 may have given `data`, uploaded in `num_parts` parts of the sizes that tools use."""
    etags = set()
    for size in _PART_BYTES:
        if -(-len(data) // size) == num_parts:
            parts = [hashlib.md5(data[at : at + size], usedforsecurity=False) for at in range(0, len(data), size)]
            digests = b"".join(part.digest() for part in parts)
            etags.add(f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{num_parts}")
    return etags
