"""Files below a folder on this machine."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dogbreed.errors import UserError
from dogbreed.storage.base import ObjectBody, ObjectInfo, UnreachableError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderStore:
    """A folder as a `Store`; the ETag of a file is its modification time."""

    url: str
    root: Path

    def list_objects(self) -> Iterator[ObjectInfo]:
        """Yields the files and the empty folders below the root; symbolic links are followed."""
        if not self.root.is_dir():
            problem = "is a file" if self.root.exists() else "does not exist"
            raise UserError(f"data.url={self.url!r}: the folder {problem}; give a folder with one sub-folder per class")
        try:
            yield from self._walk(str(self.root), "", frozenset())
        except OSError as error:
            raise UserError(f"data.url={self.url!r}: {error.filename}: {error.strerror}") from error

    def _walk(self, folder: str, prefix: str, parents: frozenset[tuple[int, int]]) -> Iterator[ObjectInfo]:
        status = os.stat(folder)  # noqa: PTH116 - creating a Path per folder dominates the time of large listings
        inode = (status.st_dev, status.st_ino)
        if inode in parents:
            return  # a symbolic link to a parent folder
        with os.scandir(folder) as scan:
            items = list(scan)
        if prefix and not items:
            yield ObjectInfo(prefix, 0, "")
        for item in items:
            if item.is_dir():
                yield from self._walk(item.path, f"{prefix}{item.name}/", parents | {inode})
            elif item.is_file():
                status = item.stat()
                yield ObjectInfo(prefix + item.name, status.st_size, str(status.st_mtime_ns))
            elif item.is_symlink():
                log.warning("%s: skipped %s, a link to a file that does not exist", self.url, prefix + item.name)

    def read(self, key: str) -> bytes | None:
        """Returns a file's content, or None if there is no such file."""
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    async def fetch(self, key: str) -> ObjectBody:
        """Returns a file's content, read in a thread: the folder may be on a slow network disk."""
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
