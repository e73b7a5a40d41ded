"""A local cache of fetched objects, so that a second epoch sends no requests.

The cache is bounded in bytes and evicts the least recently used objects. Any number of processes and trainings may
share a folder: files appear atomically and writers hold a lock. A changed object gets a new file name.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dogbreed.errors import UserError
from dogbreed.storage.base import ObjectBody, ObjectRequest
from dogbreed.system.locks import file_lock

log = logging.getLogger(__name__)

_KEEP_FRACTION = 0.9
"""Fraction of the allowed bytes that an eviction leaves: scanning the folder is slow, so it should be rare."""

_CHECKSUM_BYTES = 4


@dataclass
class DiskCache:
    """Objects in files by name. Disk errors never raise: they stop further writes, because the store has everything."""

    folder: Path
    namespace: str
    """Identifies the store, as several may share the folder."""
    max_bytes: int
    convert: Callable[[bytes], bytes] | None = None
    """Applied to objects before they are used and cached, such as downscaling; must pickle."""
    variant: int = 0
    """Identifies `convert`; 0 without it."""
    error: str | None = None
    """Why nothing more is written."""
    _has_warned: bool = False

    @classmethod
    def open(
        cls,
        folder: Path,
        namespace: str,
        max_gb: float,
        *,
        convert: Callable[[bytes], bytes] | None = None,
        variant: int = 0,
    ) -> DiskCache:
        """Returns the cache in `folder`, which is created if missing.

        Raises:
            UserError: the folder is not writable.
        """
        if max_gb <= 0:
            raise UserError(f"data.cache_gb={max_gb:g}: more than 0; data.cache=null turns the cache off")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "lock").touch()
        except OSError as error:
            raise UserError(f"data.cache={folder} cannot be written: {error.strerror}") from error
        return cls(folder, namespace, int(max_gb * 1e9), convert, variant)

    def name(self, key: str, version: int) -> str:
        """Returns the name of an object, 32 hexadecimal digits, from its key and `ObjectInfo.version`."""
        text = f"{self.namespace}\0{key}\0{version}\0{self.variant}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def get(self, name: str) -> bytes | None:
        """Returns a cached object and marks it as recently used; None if it is missing or damaged."""
        path = self._path(name)
        try:
            stored = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.error = self.error or f"{path}: {error.strerror}"
            return None
        content = stored[:-_CHECKSUM_BYTES]
        if _checksum(content) == stored[-_CHECKSUM_BYTES:]:
            return content
        with suppress(OSError):
            path.unlink()
        return None

    def put(self, name: str, content: bytes) -> None:
        """Caches an object, and evicts the least recently used ones if the cache is full."""
        stored = content + _checksum(content)
        if self.error or len(stored) > self.max_bytes:
            return
        path = self._path(name)
        part = path.with_suffix(".new")
        try:
            with file_lock(self.folder / "lock"):
                self._reserve(len(stored))
                path.parent.mkdir(exist_ok=True)
                try:
                    part.write_bytes(stored)
                    part.replace(path)
                except OSError:
                    part.unlink(missing_ok=True)
                    raise
        except OSError as error:
            self.error = f"{self.folder}: {error.strerror}"

    def warn(self, error: str) -> None:
        """Logs a disk error, once; called in the process that trains."""
        if not self._has_warned:
            self._has_warned = True
            log.warning("the cache stores no further images, the training continues without: %s", error)

    async def fetch(self, request: ObjectRequest, fetch: Callable[[], Awaitable[ObjectBody]]) -> ObjectBody:
        """Returns an object from the cache, or else fetches and caches it; files are read and written in threads."""
        if request.version is None:
            return await fetch()
        name = self.name(request.key, request.version)
        cached = await asyncio.to_thread(self.get, name)
        if cached is not None:
            return ObjectBody(cached, "")
        body = await fetch()
        content = bytes(body.data)
        if self.convert:
            content = await asyncio.to_thread(self.convert, content)
        # An object that changed since it was listed does not belong under this name.
        if body.version_of(request.key) == request.version:
            await asyncio.to_thread(self.put, name, content)
        return ObjectBody(content, body.etag)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]

    def _reserve(self, num_bytes: int) -> None:
        """Adds `num_bytes` to the recorded total, after evicting the oldest files if they would not fit."""
        file = self.folder / "bytes"
        try:
            total = int(file.read_text())
        except (FileNotFoundError, ValueError):
            total = self._evict(self.max_bytes)
        if total + num_bytes > self.max_bytes:
            total = self._evict(int(self.max_bytes * _KEEP_FRACTION) - num_bytes)
        file.write_text(str(total + num_bytes))

    def _evict(self, max_bytes: int) -> int:
        """Deletes the least recently used files until `max_bytes` are left; returns the bytes that are left."""
        files = []
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(FileNotFoundError):  # another process may have deleted a damaged file
                status = path.stat()
                # Partial files of a killed writer (with a suffix) go first.
                files.append((0 if path.suffix else status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")
